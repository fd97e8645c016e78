"""What a module is conditioned on, made of an eight-class map: one-hot classes, volumes, a T1w-like picture.

Knows arrays of classes and the conditions a module can read; what the labels of a file mean is in
vcm.imaging.vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VCMError
from vcm.imaging.vocabulary import CLASS_NAMES, NUMBER_OF_CLASSES
from vcm.imaging.volume import Volume

VENTRICLES = 3
CSF = 7

#: Typical T1w intensity per class, 0..1: a picture of a label map that a registration can read.
T1W_CONTRAST = (0.0, 0.85, 0.6, 0.2, 0.7, 0.6, 0.6, 0.2, 0.8)

#: A brain outside this range [mL] was not masked or labelled whole, or is not in millimetres.
PLAUSIBLE_BRAIN = (600.0, 2300.0)


def one_hot(classes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """One channel per class.

    Args:
        classes: Classes 0..8, (X, Y, Z).

    Returns:
        (8, X, Y, Z) of 0 and 1; background has no channel.
    """
    numbers = np.arange(1, NUMBER_OF_CLASSES + 1).reshape(-1, 1, 1, 1)
    return (classes[None] == numbers).astype(np.float32)


#: Channels of each condition that a module can be trained on. The last two are made of images, see
#: vcm.imaging.thick.
CONDITION_CHANNELS = {"classes": NUMBER_OF_CLASSES, "ventricles": 1, "partial": 2, "thick": 2}
#: Conditions that are made of the scan itself rather than of its label map.
IMAGE_CONDITIONS = ("partial", "thick")


def as_condition(name: str, classes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A condition of label maps.

    Args:
        name: 'classes', the eight-class semantic map, or 'ventricles', their mask alone.
        classes: Classes 0..8, (X, Y, Z).

    Returns:
        (C, X, Y, Z) of 0 and 1.

    Raises:
        VCMError: A condition of that name is made of an image.
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
    planes = np.moveaxis(classes, -1, 0)  # one after the other, since numpy counts in 64 bits
    counts = np.sum([np.bincount(p.ravel(), minlength=len(CLASS_NAMES)) for p in planes], axis=0)
    return {name: float(counts[i] * voxel_volume) for i, name in enumerate(CLASS_NAMES) if i}


def ventricular_and_brain_volume(classes: NDArray, voxel_volume: float) -> tuple[float, float]:
    """What the label map says of two covariates.

    Args:
        classes: Classes 0..8, (X, Y, Z).
        voxel_volume: Of one voxel [mL].

    Returns:
        (ventricles, brain) [mL]; brain is every class but extracerebral CSF and ventricles.
    """
    volumes = class_volumes(classes, voxel_volume)
    ventricles = volumes[CLASS_NAMES[VENTRICLES]]
    return ventricles, sum(volumes.values()) - ventricles - volumes[CLASS_NAMES[CSF]]
