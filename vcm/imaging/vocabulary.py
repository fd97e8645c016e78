"""What the numbers of a label map mean: vocabularies, which name the class of each label.

Knows label maps and tables; nothing of networks. Never guesses: a map whose labels mean one thing in
one vocabulary and another in the next is refused until its vocabulary is named.

A vocabulary is a small YAML table:

    name: mine
    meaning: what a reader is to know of it      # optional
    classes:            # class 1..8 -> the labels that belong to it
      1: [2, 41]
    background: [30]    # labels to ignore, beside 0
    ranges:             # optional: inclusive ranges per class, or for background
      background: [[86, 999]]
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from vcm.errors import VCMError, VCMWarning
from vcm.imaging.anatomy import ill_lit, misplaced
from vcm.imaging.volume import Volume, read_label_map, refuse_other_voxels

#: The eight-class semantic map of the Volumetric Conditioning Module (WACV 2025).
CLASS_NAMES = (
    "background",
    "white matter",
    "grey matter",
    "ventricles",
    "deep grey matter",
    "hippocampus",
    "amygdala",
    "extracerebral CSF",
    "brainstem",
)
NUMBER_OF_CLASSES = len(CLASS_NAMES) - 1

#: Volume of each class in a head, atrophy and infants included [mL].
PLAUSIBLE_CLASSES = {
    1: (150.0, 900.0),
    2: (300.0, 1100.0),
    3: (2.0, 300.0),
    4: (10.0, 100.0),
    5: (1.5, 15.0),
    6: (0.5, 8.0),
    7: (15.0, 900.0),
    8: (8.0, 60.0),
}
#: Classes that every vocabulary tells; others a map may leave out, in part or as a whole.
ALWAYS_THERE = (1, 2)

#: Labels below this are counted and translated by a table of that length.
_SMALL = 2**16
_FOLDER = Path(__file__).parent / "vocabularies"
#: In the order in which they are offered. A map of the last ones is recognised only where it is named.
BUILT_IN = ("freesurfer", "synthseg", "dlmuse", "vcm8", "bids", "fast", "5tt", "mask")


@dataclass(frozen=True)
class Vocabulary:
    """The class of each label; class 0 is background.

    Attributes:
        name: As it is asked for and recorded.
        classes: Label -> class 0..8.
        ranges: (lowest label, highest label, class), for labels that `classes` does not hold.
        meaning: What a reader is to know of it, in a few words.
        tells_classes: False where the map says no more than where the brain is.
    """

    name: str
    classes: Mapping[int, int]
    ranges: tuple[tuple[int, int, int], ...] = ()
    meaning: str = ""
    tells_classes: bool = True

    def class_of(self, label: int) -> int | None:
        """The class 0..8 of one label, None where the vocabulary does not name it."""
        if label in self.classes:
            return self.classes[label]
        return next((c for low, high, c in self.ranges if low <= label <= high), None)

    def is_brain(self, label: int) -> bool:
        """Whether a label but 0 lies inside the brain; of a mask all do."""
        return not self.tells_classes or bool(self.class_of(label))

    def names_all(self, labels: Iterable[int]) -> bool:
        """Whether every label has a class."""
        return all(self.class_of(label) is not None for label in labels)

    def refuse_unnamed(self, label_map: Volume, volumes: Mapping[int, float]) -> None:
        """Raise VCMError where a label is not named; all of them are listed with their volume.

        Args:
            label_map: For its name.
            volumes: Of each of its labels [mL].
        """
        unnamed = {k: v for k, v in volumes.items() if self.class_of(k) is None}
        if not unnamed or not self.tells_classes:
            return
        others = [v.name for v in fitting_vocabularies(volumes)]
        remedy = (
            f"choose {' or '.join(others)}, which names them"
            if others
            else "add them to a YAML table that says which class each belongs to"
        )
        raise VCMError(
            f"{label_map.source} holds labels that the vocabulary '{self.name}' does not name: "
            f"{in_words(unnamed)}; {remedy}.",
            argument="labels",
        )

    def to_classes(self, label_map: Volume) -> Volume:
        """Translate a label map.

        Args:
            label_map: Whole numbers of at least 0, (X, Y, Z).

        Returns:
            The classes 0..8 on the same voxels, uint8.

        Raises:
            VCMError: A label is not named (every such label is listed with its volume), or the
                vocabulary tells no classes.
        """
        if not self.tells_classes:
            raise VCMError(
                f"{label_map.source} is given as a {self.name}, which says where the brain is but not "
                "its tissues: give a label map, or make one of the scan with vcm segment."
            )
        labels = label_volumes(label_map)
        self.refuse_unnamed(label_map, labels)
        values = np.array([0, *labels])
        classes = np.array([self.class_of(int(v)) for v in values], dtype=np.uint8)
        out = np.empty_like(label_map.data, np.uint8)
        if values[-1] < _SMALL:
            table = np.zeros(values[-1] + 1, np.uint8)
            table[values] = classes
        for part, given in zip(_planes(out), _planes(label_map.data), strict=True):
            part[...] = (
                table[given] if values[-1] < _SMALL else classes[np.searchsorted(values, given)]
            )
        return label_map.with_data(out)


def label_volumes(label_map: Volume) -> dict[int, float]:
    """Volume of each label but 0 [mL]."""
    data, counts = label_map.data, dict[int, int]()
    for part in _planes(data):
        values, found = _counts(part)
        for value, count in zip(values.tolist(), found.tolist(), strict=True):
            counts[value] = counts.get(value, 0) + count
    voxel = label_map.grid.voxel_volume
    return {label: count * voxel for label, count in sorted(counts.items()) if label}


def _planes(data: NDArray) -> NDArray:
    """(Z, X, Y): one plane after the other, as they lie in memory, so that large maps need little more."""
    return np.moveaxis(data, -1, 0)


def _counts(labels: NDArray) -> tuple[NDArray, NDArray]:
    """Values and how often each occurs; without sorting where the labels are small, as they mostly are."""
    if labels.size and labels.min() >= 0 and labels.max() < _SMALL:
        found = np.bincount(labels.ravel())
        values = np.flatnonzero(found)
        return values, found[values]
    return np.unique(labels, return_counts=True)


def in_words(labels: Mapping[int, float], most: int = 12) -> str:
    """Labels with their volumes, the largest first: '99 (2.1 mL), 1000 (0.4 mL)'."""
    ordered = sorted(labels.items(), key=lambda item: -item[1])
    shown = ", ".join(
        f"{label} ({volume:.0f} mL)" if volume >= 10 else f"{label} ({volume:.2g} mL)"
        for label, volume in ordered[:most]
    )
    return shown + (f" and {len(ordered) - most} more" if len(ordered) > most else "")


def load_vocabulary(name: str | Path) -> Vocabulary:
    """A built-in vocabulary by name, or a YAML table by path.

    Raises:
        VCMError: There is none of that name, or the table cannot be read as one.
    """
    path = _FOLDER / f"{name}.yaml" if str(name) in BUILT_IN else Path(name)
    if not path.is_file():
        raise VCMError(
            f"The vocabulary '{name}' is neither built in ({', '.join(BUILT_IN)}) nor a file: "
            "give one of these names or the path of a YAML table."
        )
    try:
        return _from_table(OmegaConf.to_container(OmegaConf.load(path)), path.stem)
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        UnicodeDecodeError,
        OmegaConfBaseException,
        YAMLError,
    ) as error:
        raise VCMError(
            f"{path.name} is not a vocabulary ({' '.join(str(error).split())}): write 'name: NAME' and 'classes:' with one "
            "line '1: [labels]' for each class used, 1 to 8."
        ) from error


def _from_table(table: Any, name: str) -> Vocabulary:
    """Raises ValueError and its kind for a table that contradicts itself or names no such class."""
    if not isinstance(table, dict):
        raise ValueError("it holds no table")
    classes = {0: 0}
    groups = {**table["classes"], "background": table.get("background", [])}
    for group, labels in groups.items():
        for label in map(_whole, labels):
            if classes.setdefault(label, _class_number(group)) != _class_number(group):
                raise ValueError(f"label {label} is given twice")
    ranges: list[tuple[int, int, int]] = []
    for group, pairs in table.get("ranges", {}).items():
        for low, high in (map(_whole, pair) for pair in pairs):
            if low > high:
                raise ValueError(f"the range {low} to {high} is empty")
            for first, last, number in ranges:
                if low <= last and first <= high and number != _class_number(group):
                    raise ValueError(f"the range {low} to {high} overlaps that of class {number}")
            ranges.append((low, high, _class_number(group)))
    return Vocabulary(
        str(table.get("name", name)),
        classes,
        tuple(ranges),
        str(table.get("meaning", "")),
        bool(table.get("tells_classes", True)),
    )


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value} is not a whole number of at least 0")
    return value


def _class_number(group: object) -> int:
    if group == "background":
        return 0
    number = int(str(group))
    if not 1 <= number <= NUMBER_OF_CLASSES:
        raise ValueError(f"class {number} is not between 1 and {NUMBER_OF_CLASSES}")
    return number


@lru_cache(maxsize=1)
def _built_in() -> tuple[Vocabulary, ...]:
    return tuple(map(load_vocabulary, BUILT_IN))


def fitting_vocabularies(labels: Iterable[int]) -> list[Vocabulary]:
    """The built-in ones that name every label; any map of one label may be a mask."""
    labels = list(labels)
    return [
        v for v in _built_in() if v.names_all(labels) or (not v.tells_classes and len(labels) == 1)
    ]


def recognise(label_map: Volume) -> Vocabulary:
    """The vocabulary of a label map, where its labels leave no doubt.

    The built-in ones that name every label must agree on the class of each, and what they read must have
    the volumes of a head. The numbers 1 to 8 alone could be anything, so they are the eight classes only
    where all eight are there, each with the volume that it has in a head
    and where it lies in one.

    Args:
        label_map: Whole numbers of at least 0, (X, Y, Z).

    Raises:
        VCMError: No vocabulary names all labels, or several do and differ, or the labels are few, or
            what they would mean is not a brain.
    """
    labels = label_volumes(label_map)
    fitting = fitting_vocabularies(labels)
    if not fitting:
        raise VCMError(f"{label_map.source} {_nearest(labels)}", argument="labels")
    if len(labels) == 1:
        doubt = "a plain mask"
    elif max(labels) <= NUMBER_OF_CLASSES and len(labels) < NUMBER_OF_CLASSES:
        doubt = "few labels, as a tissue map does"
    elif len({tuple(v.class_of(label) for label in labels) for v in fitting}) > 1:
        doubt = "labels that these vocabularies read differently"
    elif not _plausible(labels, fitting[0]):
        doubt = (
            f"labels that, read as {fitting[0].name}, give volumes that no brain has (or its voxel "
            "size is wrong)"
        )
    elif max(labels) <= NUMBER_OF_CLASSES and (
        where := misplaced(fitting[0].to_classes(label_map))
    ):
        doubt = f"labels that, read as {fitting[0].name}, put {where}"
    else:
        return fitting[0]
    raise _doubtful(label_map, doubt, fitting)


def _doubtful(label_map: Volume, doubt: str, fitting: Iterable[Vocabulary]) -> VCMError:
    """The error for labels that may mean several things, with the vocabularies that name them."""
    offered = "; ".join(f"{v.name} ({v.meaning})" for v in fitting)
    return VCMError(
        f"{label_map.source} holds {doubt}: {in_words(label_volumes(label_map))}. Name its vocabulary: "
        f"{offered}; or a YAML table of your own.",
        argument="labels",
    )


def _plausible(labels: Mapping[int, float], vocabulary: Vocabulary) -> bool:
    """Whether the volumes of the classes fit a head.

    No class is too large, and white and grey matter are not too small; none is where the labels are the
    bare numbers 1 to 8.
    """
    volumes = dict.fromkeys(PLAUSIBLE_CLASSES, 0.0)
    for label, volume in labels.items():
        number = vocabulary.class_of(label)
        if number:
            volumes[number] += volume
    needed = PLAUSIBLE_CLASSES if max(labels) <= NUMBER_OF_CLASSES else ALWAYS_THERE
    return all(
        volumes[number] <= high and (volumes[number] >= low or number not in needed)
        for number, (low, high) in PLAUSIBLE_CLASSES.items()
    )


def _nearest(labels: Mapping[int, float]) -> str:
    """The vocabulary that leaves the least volume unnamed, and what it leaves."""
    left = {
        vocabulary.name: {k: v for k, v in labels.items() if vocabulary.class_of(k) is None}
        for vocabulary in _built_in()
    }
    name = min(left, key=lambda n: sum(left[n].values()))
    return (
        f"holds labels that no built-in vocabulary names all of; nearest is {name}, which does not "
        f"name {in_words(left[name])}: write a YAML table that says which class each belongs to, or "
        "set what is no tissue to 0."
    )


def read_classes(given: Path | Volume, labels: str = "auto") -> tuple[Volume, Vocabulary]:
    """Read a label map as eight classes.

    Args:
        given: A NIfTI file of labels, or the labels in memory.
        labels: Name of its vocabulary, the path of a YAML table, or 'auto'.

    Returns:
        The classes 0..8 (X, Y, Z) on the map's own voxels, and the vocabulary.

    Raises:
        VCMError: The map cannot be read, or its labels are not those of the vocabulary.
    """
    label_map = given if isinstance(given, Volume) else read_label_map(given)
    vocabulary = recognise(label_map) if labels == "auto" else load_vocabulary(labels)
    classes = vocabulary.to_classes(label_map)
    if labels != "auto":
        _warn_of_doubt(classes, vocabulary)
    return classes, vocabulary


def _warn_of_doubt(classes: Volume, vocabulary: Vocabulary) -> None:
    """Say what is odd about a map whose vocabulary was named: volumes of the classes, and their place."""
    odd = [
        f"{CLASS_NAMES[number]} {volume:.3g} mL ({low:g} to {high:g} expected)"
        for number, volume in label_volumes(classes).items()
        for low, high in [PLAUSIBLE_CLASSES[number]]
        if volume > high or (volume < low and number in ALWAYS_THERE)
    ]
    where = misplaced(classes)
    if odd or where:
        warnings.warn(
            f"{classes.source}, read as {vocabulary.name}, has "
            + "; ".join([*odd, *([where] if where else [])])
            + ": check that this is its vocabulary.",
            VCMWarning,
            stacklevel=3,
        )


def brain_of(label_map: Volume, labels: str = "auto") -> NDArray[np.bool_]:
    """Where the brain is, by a label map or mask whose tissues need not be told apart.

    Args:
        label_map: Whole numbers of at least 0, (X, Y, Z).
        labels: Name of its vocabulary, the path of a YAML table, or 'auto': any number of labels
            serves, if the built-in ones that name them all agree on which are brain.

    Returns:
        True inside the brain; labels of the head around it are outside.

    Raises:
        VCMError: A label is not named, or the vocabularies differ on where the brain is.
    """
    volumes = label_volumes(label_map)
    if labels == "auto":
        fitting = fitting_vocabularies(volumes)
        if not fitting:
            raise VCMError(f"{label_map.source} {_nearest(volumes)}", argument="labels")
    else:
        fitting = [load_vocabulary(labels)]
        fitting[0].refuse_unnamed(label_map, volumes)
    readings = {tuple(label for label in volumes if v.is_brain(label)) for v in fitting}
    if len(readings) > 1:
        raise _doubtful(label_map, "labels whose brain these vocabularies differ on", fitting)
    inside: NDArray[np.bool_] = np.isin(label_map.data, readings.pop())
    return inside


def read_brain(path: Path, labels: str, image: Volume) -> tuple[NDArray[np.bool_], Volume | None]:
    """Where the brain of a scan is, by its label map or mask.

    Args:
        path: A NIfTI file of labels, or of a mask where `labels` is 'mask'.
        labels: As in `read_classes`.
        image: The scan, on whose voxels it must lie.

    Returns:
        The brain (X, Y, Z), and the classes 0..8 where the vocabulary tells them, else None.

    Raises:
        VCMError: As `read_classes`, and where it lies on other voxels than the scan, or where bare
            numbers contradict the scan's contrast. Of other maps a VCMWarning says so.
    """
    label_map = read_label_map(path)
    refuse_other_voxels(label_map, image, "resample the labels to the scan, nearest neighbour")
    vocabulary = recognise(label_map) if labels == "auto" else load_vocabulary(labels)
    if not vocabulary.tells_classes:
        return label_map.data > 0, None
    classes = vocabulary.to_classes(label_map)
    wrong = ill_lit(classes, image)
    if wrong and labels == "auto" and label_map.data.max() <= NUMBER_OF_CLASSES:
        raise VCMError(
            f"{path.name} does not fit its T1-weighted scan: read as {vocabulary.name}, {wrong}. Check what "
            "its numbers mean, and name its vocabulary or write a YAML table of your own.",
            argument="labels",
        )
    if wrong:
        warnings.warn(
            f"{path.name}, read as {vocabulary.name}, is odd on its T1-weighted scan: {wrong}. Check what "
            "its numbers mean.",
            VCMWarning,
            stacklevel=2,
        )
    return classes.data > 0, classes
