"""The labelled cases of a task in memory: their labels, scans on demand, features computed once.

Knows where features are cached; nothing of methods. A feature is cached by the checksums of the
files it comes from, so another scan under the same name is never answered from the cache.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vcm.errors import VCMError, VCMWarning, first_names
from vcm.fewshot.cases.brain_masks import kept_brain_mask, refuse_unfound
from vcm.fewshot.cases.domain import LOOKED_AT
from vcm.fewshot.cases.identity import identity
from vcm.fewshot.cases.label_maps import grouped, warn_of_unnamed_labels
from vcm.fewshot.cases.layouts import (
    Case,
    Source,
    Target,
    find_cases,
    label_class,
    label_number,
    with_labels,
)  # fmt: skip
from vcm.fewshot.cases.tasks import Task
from vcm.fewshot.methods.catalogue import STARTS_OF_BRAINS, Method
from vcm.fewshot.methods.feature_names import parts_of
from vcm.fewshot.methods.features import VIEWS, features, views_of_shot
from vcm.fewshot.methods.parents import Parent
from vcm.files import sha256, write_whole
from vcm.imaging.extraction import shows_a_skull
from vcm.imaging.volume import (
    Grid,
    Volume,
    distinct,
    read_label_map,
    read_volume,
    refuse_other_voxels,
)
from vcm.progress import track

#: Raised when what `features` returns changes, so that no cache of before is read.
_FEATURES_VERSION = 3
#: Under this name the views of a case are cached.
_VIEWS = "views"
#: Stands for masks that are found in the scans rather than read.
FOUND = "found"


@dataclass
class Pool:
    """Labelled cases of one source, for one task.

    Attributes:
        task: What is asked.
        target: Where the label is.
        cases: That have one.
        mask: Last word of the brain masks' names, FOUND, or "".
        cache: Folder of features.
        parents: Feature -> the network behind it.
        data: Folder or table that the cases were found in, "" where they come from several.
    """

    task: Task
    target: Target
    cases: list[Case]
    mask: str
    cache: Path
    parents: Mapping[str, Parent] = field(default_factory=dict)
    data: str = ""
    _labels: NDArray[np.float64] | None = field(default=None, repr=False)

    @classmethod
    def open(
        cls, source: Source, task: Task, target: Target, cache: Path, parents: Mapping[str, Parent]
    ) -> Pool:
        """Find the labelled cases of a source. Raises VCMError."""
        cases = with_labels(find_cases(source.data, source.split), target, task)
        if source.mask not in ("", FOUND):
            lacking = [c.name for c in cases if source.mask not in c.maps]
            if lacking:
                raise VCMError(
                    f"{lacking[0]} has no *_{source.mask}.nii.gz, the brain mask of {source.data}: add it, "
                    f"or let the brain be found with mask={FOUND}."
                )
        return cls(task, target, cases, source.mask, cache, parents, source.data)

    def subset(self, places: Sequence[int]) -> Pool:
        """The cases at these places."""
        cases = [self.cases[i] for i in places]
        return replace(self, cases=cases, _labels=self.labels[list(places)])

    @property
    def labels(self) -> NDArray[np.float64]:
        """(N,) values of a regression or classes 0, 1, ...; 0 in a segmentation."""
        if self._labels is None:
            if self.task.kind == "classification":
                found = [label_class(c, self.target, self.task) for c in self.cases]
            elif self.task.kind == "segmentation":
                found = [0] * len(self.cases)
            else:
                found = [label_number(c, self.target) for c in self.cases]  # type: ignore[misc]
            self._labels = np.array(found, dtype=float)
        return self._labels

    def scans(self, place: int) -> tuple[dict[str, Volume], Volume | None]:
        """Scans of a case by slot, and its brain mask."""
        case = self.cases[place]
        filled = self.task.fill(case.images, case.name)
        scans = {slot: read_volume(case.images[sequence]) for slot, sequence in filled.items()}
        mask = read_label_map(case.maps[self.mask]) if self.mask in case.maps else None
        if self.mask and mask is None:
            mask = kept_brain_mask(scans, self._files(case), self.cache)
        return scans, mask

    def refuse_unfound_brains(self) -> None:
        """Find the brain of every case, where brains are to be found, before anything is fitted.

        Takes about three seconds for a case, once: masks are kept.

        Raises:
            VCMError: Brains were not found; names the cases.
        """
        if self.mask != FOUND:
            return
        faults = {}
        for place in track(range(len(self.cases)), "Finding brains"):
            try:
                self.scans(place)
            except VCMError as error:
                faults[self.cases[place].name] = str(error)
        refuse_unfound(faults, len(self.cases), self.data or self.task.name)

    def warn_of_skulls(self, methods: Sequence[Method]) -> None:
        """A VCMWarning where label maps of scans with their skull are to begin with a network that knows brains alone.

        Looks at the first scans.

        Raises:
            VCMError: A scan cannot be read.
        """
        begun = [m.name for m in methods if m.start in STARTS_OF_BRAINS]
        if self.mask or self.task.kind != "segmentation" or not begun:
            return
        looked_at = self.references()[:LOOKED_AT]
        with_skull = sum(shows_a_skull(read_volume(path)) for path in looked_at)
        if 2 * with_skull > len(looked_at):
            warnings.warn(
                f"{with_skull} of {len(looked_at)} scans of {self.data or self.task.name} show their skull, and "
                f"{first_names(begun)} learned from brains without: unless the labels lie outside of the brain, add "
                f"mask: {FOUND} to train and tests of the task.",
                VCMWarning,
                stacklevel=2,
            )

    def label_map(self, place: int) -> Volume:
        """Label map of a case with the labels of its file; one of background alone is read too.

        Raises:
            VCMError: It cannot be read, or does not lie on the voxels of the case's reference.
        """
        case = self.cases[place]
        labels = read_label_map(case.maps[self.target.label], empty=True)
        remedy = "resample the label map onto the first scan of the task"
        refuse_other_voxels(labels, read_volume(self._files(case)[0]), remedy)
        return labels

    def true_labels(self, place: int) -> tuple[NDArray[np.uint8], Grid]:
        """True label map of a case, 1, 2, ..., on the voxels of its reference."""
        labels = self.label_map(place)
        return grouped(labels, self.target.groups, len(self.task.classes)), labels.grid

    def refuse_unusable_maps(self) -> None:
        """Read every label map once, so that a wrong one is refused before anything is fitted.

        Takes less than half a second for a case of 1 mm. Does nothing where the task has no label maps.

        Raises:
            VCMError: What `label_map` refuses, and a label that is none of the task's classes.
        """
        if self.task.kind == "segmentation":
            for place in range(len(self.cases)):
                self.true_labels(place)

    def warn_of_labels_without_a_class(self, test: str = "") -> None:
        """A VCMWarning names the labels of the maps that the groups of the task leave to background.

        Args:
            test: Name of the test, where the cases are of one.

        Raises:
            VCMError: What `label_map` refuses.
        """
        if self.task.kind != "segmentation" or not self.target.groups:
            return
        maps = (self.label_map(place) for place in range(len(self.cases)))
        held = {int(label) for labels in maps for label in distinct(labels.data)}
        whose = f"the test '{test}' of {self.task.name}" if test else self.task.name
        warn_of_unnamed_labels(held, self.target.groups, whose)

    def references(self) -> list[Path]:
        """The scan of each case that stands for its place: that of the first slot."""
        return [self._files(case)[0] for case in self.cases]

    def masked_references(self) -> list[tuple[Path, Path | None]]:
        """The same scans with their brain masks."""
        masks = [c.maps.get(self.mask) if self.mask else None for c in self.cases]
        return list(zip(self.references(), masks, strict=True))

    def features(self, name: str) -> NDArray[np.float64]:
        """(N, F) features of all cases, from the cache where they are there; of several names side by side."""
        return np.concatenate(
            [
                np.stack([self._features(part, place) for place in range(len(self.cases))])
                for part in parts_of(name)
            ],
            1,
        )

    def views(self) -> NDArray[np.float64]:
        """(N, 1 + VIEWS, F) coarse features of all cases and of views of each, from the cache too."""
        rows = self.features(_VIEWS)
        return rows.reshape(len(rows), 1 + VIEWS, -1)

    def checksums(self) -> dict[str, str]:
        """SHA-256 of the file and of the content of every scan that the task reads -> case.

        Raises:
            VCMError: A scan cannot be read.
        """
        return {
            checksum: case.name
            for case in track(self.cases, "Comparing scans")
            for path in self._files(case)
            for checksum in identity(path, self.cache)
        }

    def subjects(self) -> list[set[Path]]:
        """By what the subject of each case is known: the folders sub-X of its scans, its name within the data."""
        data = Path(self.data).resolve()
        found = []
        for case in self.cases:
            homes = {home for path in self._files(case) for home in _homes(path)}
            named = {data / case.subject} if self.data else set()
            # A folder that holds all of the data is no subject.
            found.append(homes.difference(data.parents) | named)
        return found

    def fingerprint(self) -> str:
        """Changes with every case, label, scan and mask."""
        parts = [
            f"{case.name}={label!r}:{self._key('', place)}"
            for place, (case, label) in enumerate(
                zip(self.cases, self.labels.tolist(), strict=True)
            )
        ]
        if self.task.kind == "segmentation":
            parts += [sha256(case.maps[self.target.label]) for case in self.cases]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _files(self, case: Case) -> list[Path]:
        """The scans of a case that the task reads, its reference first."""
        return [case.images[s] for s in self.task.fill(case.images, case.name).values()]

    def _features(self, name: str, place: int) -> NDArray[np.float64]:
        file = self.cache / name / f"{self._key(name, place)}.npy"
        if not file.is_file():
            scans, mask = self.scans(place)
            parent = self.parents.get(name)
            network = parent.network if parent else None
            with torch.inference_mode():
                if name == _VIEWS:
                    found = views_of_shot(scans, self.task.slots, mask).ravel()
                else:
                    found = features(name, scans, self.task.slots, mask, network)
            write_whole(file, lambda part: np.save(part, found.astype(np.float32)))
        return np.load(file, allow_pickle=False).astype(np.float64)

    def _key(self, name: str, place: int) -> str:
        case = self.cases[place]
        filled = self.task.fill(case.images, case.name)
        parts = [f"{_FEATURES_VERSION}", name, *self.task.slots]
        parts += [self.parents[name].checksum] if name in self.parents else []
        parts += [f"{slot}={sha256(case.images[s])}" for slot, s in filled.items()]
        if self.mask:
            parts += [sha256(case.maps[self.mask]) if self.mask in case.maps else self.mask]
        return hashlib.sha256("|".join(parts).encode()).hexdigest()[:32]


def refuse_seen(train: Pool, test: Pool) -> None:
    """Raise VCMError where a test case is one of the training pool, or of one of its subjects.

    A scan is known by its content, a subject by its folder, and by its name where both are of one folder or table.
    """
    seen = train.checksums()
    for checksum, name in test.checksums().items():
        if checksum in seen:
            raise VCMError(
                f"The test case {name} is the training case {seen[checksum]} (the scans hold the same "
                "voxels): take it out of one of the two."
            )
    owner = {
        known: case.name
        for case, subject in zip(train.cases, train.subjects(), strict=True)
        for known in subject
    }
    for case, subject in zip(test.cases, test.subjects(), strict=True):
        common = subject & owner.keys()
        if common:
            raise VCMError(
                f"The test case {case.name} is of the same subject as the training case {owner[min(common)]}: "
                "give all sessions of a subject the same split."
            )


def refuse_repeats(pool: Pool) -> None:
    """Raise VCMError where two subjects have one scan: a cross-validation would train on it and test with it."""
    seen: dict[str, Case] = {}
    for case, files in zip(pool.cases, map(pool._files, pool.cases), strict=True):
        for checksum in (one for file in files for one in identity(file, pool.cache)):
            other = seen.setdefault(checksum, case)
            if other.subject != case.subject:
                raise VCMError(
                    f"{case.name} and {other.name} hold the same scan, and would be of different folds: keep one."
                )


def refuse_seen_by_parents(test: Pool) -> None:
    """Raise VCMError where a pretrained network saw a test scan, of any sequence that the task reads."""
    telling = {feature: parent.known() for feature, parent in test.parents.items() if parent.seen}
    checksums = test.checksums() if telling else {}
    for feature, known in telling.items():
        for checksum, name in checksums.items():
            if checksum in known:
                raise VCMError(
                    f"The test case {name} is the scan of {known[checksum]} that the network of "
                    f"the method '{feature}' was pretrained on: pretrain without it, or take it out of the tests."
                )


def _homes(path: Path) -> set[Path]:
    """The folder sub-X or sub_X that a scan lies in, and that of the file that it links to.

    DataLad keeps the files of a dataset in .git/annex, whose folders name no subject.
    """
    found = (_home(path.absolute()), _home(path.resolve()))
    return {home.resolve() for home in found if home is not None}


def _home(path: Path) -> Path | None:
    """The nearest folder above a file that is named for a subject."""
    return next((p for p in path.parents if p.name.startswith(("sub-", "sub_"))), None)
