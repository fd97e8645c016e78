"""Label maps as conditions: vocabularies, eight classes, one-hot. Knows what labels mean.

A vocabulary is a small YAML table:

    name: mine
    classes:            # class 1..8 -> the indices that belong to it
      1: [2, 41]
    background: [30]    # indices to ignore, beside 0
    ranges:             # optional: inclusive ranges per class, or for background
      background: [[86, 999]]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from vcm.errors import VCMError
from vcm.imaging import conditions
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
VENTRICLES = 3
CSF = 7

#: Typical T1w intensity per class, 0..1: a picture of a label map that a registration can read.
T1W_CONTRAST = (0.0, 0.85, 0.6, 0.2, 0.7, 0.6, 0.6, 0.2, 0.8)

#: A brain outside this range [mL] was not masked or labelled whole, or is not in millimetres.
PLAUSIBLE_BRAIN = (600.0, 2300.0)

_FOLDER = Path(__file__).parent / "vocabularies"
BUILT_IN = ("dlmuse", "freesurfer", "vcm8")


@dataclass(frozen=True)
class Vocabulary:
    """Which class each index belongs to; class 0 is background."""

    name: str
    classes: dict[int, int]
    ranges: tuple[tuple[int, int, int], ...] = field(default=())

    def unknown(self, labels: NDArray) -> list[int]:
        """Labels that this vocabulary does not name."""
        return [int(v) for v in np.unique(labels) if self._class_of(int(v)) is None]

    def to_classes(self, labels: NDArray, source: str = "label map") -> NDArray[np.uint8]:
        """Indices -> classes 0..8. Raises VCMError that lists unknown indices."""
        unknown = self.unknown(labels)
        if unknown:
            shown = ", ".join(map(str, unknown[:12])) + (" ..." if len(unknown) > 12 else "")
            raise VCMError(
                f"{source} holds labels that the vocabulary '{self.name}' does not name: {shown}; "
                f"choose another with --labels ({', '.join(BUILT_IN)}) or give a YAML table that "
                "says which class each belongs to."
            )
        values, inverse = np.unique(labels, return_inverse=True)
        classes = np.array([self._class_of(int(v)) for v in values], dtype=np.uint8)
        return classes[inverse].reshape(labels.shape)

    def _class_of(self, label: int) -> int | None:
        if label in self.classes:
            return self.classes[label]
        return next((c for low, high, c in self.ranges if low <= label <= high), None)


def load_vocabulary(name: str | Path) -> Vocabulary:
    """A built-in vocabulary by name, or a YAML table by path. Raises VCMError."""
    path = _FOLDER / f"{name}.yaml" if str(name) in BUILT_IN else Path(name)
    if not path.is_file():
        raise VCMError(
            f"The vocabulary '{name}' is neither built in ({', '.join(BUILT_IN)}) nor a file: "
            "give one of these names or the path of a YAML table."
        )
    try:
        table = OmegaConf.to_container(OmegaConf.load(path))
        assert isinstance(table, dict)
        classes = {0: 0} | {int(i): 0 for i in table.get("background", [])}
        for number, indices in table["classes"].items():
            if not 1 <= int(number) <= NUMBER_OF_CLASSES:
                raise ValueError(f"class {number} is not between 1 and {NUMBER_OF_CLASSES}")
            for index in indices:
                if classes.setdefault(int(index), int(number)) != int(number):
                    raise ValueError(f"index {index} is given twice")
        ranges = tuple(
            (int(low), int(high), 0 if number == "background" else int(number))
            for number, pairs in table.get("ranges", {}).items()
            for low, high in pairs
        )
    except (
        AssertionError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        OmegaConfBaseException,
        YAMLError,
    ) as error:
        raise VCMError(
            f"{path.name} is not a vocabulary ({error}): write 'name: NAME' and 'classes:' with one "
            "line '1: [indices]' for each class used, 1 to 8."
        ) from error
    return Vocabulary(str(table.get("name", path.stem)), classes, ranges)


def guess_vocabulary(labels: NDArray, source: str = "label map") -> Vocabulary:
    """The one built-in vocabulary that names every label. Raises VCMError if none or several do.

    Labels 1..8 only are taken for the eight classes.
    """
    if labels.max() <= NUMBER_OF_CLASSES:
        return load_vocabulary("vcm8")
    fitting = [v for v in map(load_vocabulary, BUILT_IN) if not v.unknown(labels)]
    if len(fitting) == 1:
        return fitting[0]
    found = ", ".join(map(str, np.unique(labels)[:15]))
    names = ", ".join(v.name for v in fitting) or "none of the built-in ones"
    raise VCMError(
        f"{source} holds the labels {found}{' ...' if np.unique(labels).size > 15 else ''}, named by "
        f"{names}: say which vocabulary it is with --labels ({', '.join(BUILT_IN)} or a YAML table)."
    )


def one_hot(classes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Classes (D, H, W) -> (8, D, H, W) of 0 and 1; background has no channel."""
    numbers = np.arange(1, NUMBER_OF_CLASSES + 1).reshape(-1, 1, 1, 1)
    return (classes[None] == numbers).astype(np.float32)


#: Channels of each condition that a module can be trained on. The last two are made of images, see
#: vcm.imaging.thick.
CONDITION_CHANNELS = {"classes": NUMBER_OF_CLASSES, "ventricles": 1, "partial": 2, "thick": 2}


def as_condition(name: str, classes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Classes (D, H, W) -> the condition of that name (C, D, H, W), 0 and 1. Raises VCMError.

    classes       the eight-class semantic map, one-hot
    ventricles    the mask of the ventricles alone
    """
    if name not in ("classes", "ventricles"):
        raise VCMError(f"The condition '{name}' is not made of a label map: give an image for it.")
    hot = one_hot(classes)
    return hot if name == "classes" else hot[VENTRICLES - 1 : VENTRICLES]


def check_conditions(names: Sequence[str]) -> None:
    """Raise VCMError for a condition that does not exist, or for none."""
    unknown = [name for name in names if name not in CONDITION_CHANNELS]
    if unknown or not names:
        raise VCMError(
            f"conditions is [{', '.join(names)}]: name one or more of {', '.join(CONDITION_CHANNELS)}."
        )


def as_contrast(classes: Volume) -> Volume:
    """A T1w-like picture of a class map, for registration."""
    return classes.with_data(np.asarray(T1W_CONTRAST, dtype=np.float32)[classes.data])


def class_volumes(classes: NDArray, voxel_volume: float) -> dict[str, float]:
    """Volume of each class [mL]."""
    counts = np.bincount(classes.ravel(), minlength=len(CLASS_NAMES))
    return {name: float(counts[i] * voxel_volume) for i, name in enumerate(CLASS_NAMES) if i}


def ventricular_and_brain_volume(classes: NDArray, voxel_volume: float) -> tuple[float, float]:
    """(ventricles, brain) [mL]; brain is every class but extracerebral CSF and ventricles."""
    volumes = class_volumes(classes, voxel_volume)
    ventricles = volumes[CLASS_NAMES[VENTRICLES]]
    return ventricles, sum(volumes.values()) - ventricles - volumes[CLASS_NAMES[CSF]]


def read_classes(path: Path, labels: str, image: Volume) -> Volume:
    """Eight classes of a label map on the voxels of its scan. Raises VCMError."""
    found = read_label_map(path)
    refuse_other_voxels(found, image, "resample the labels to the scan, nearest neighbour")
    vocabulary = (
        conditions.guess_vocabulary(found.data, path.name)
        if labels == "auto"
        else conditions.load_vocabulary(labels)
    )
    return found.with_data(vocabulary.to_classes(found.data, path.name))


#: Conditions that are made of the scan itself rather than of its label map.
IMAGE_CONDITIONS = ("partial", "thick")
