"""Label maps of cases as a task names their classes: 1, 2, ... by the groups of their indices.

Knows label maps and classes; nothing of scans or networks.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vcm.errors import VCMError, VCMWarning, first_names
from vcm.fewshot.cases.tasks import Task
from vcm.imaging.geometry import resample
from vcm.imaging.volume import Grid, Volume


def labels_on(
    labels: Volume, grid: Grid, groups: Mapping[str, Sequence[int]], classes: int
) -> NDArray[np.uint8]:
    """A label map on the prepared grid: 1, 2, ... by the groups of its indices, or as they are.

    Each class is resampled linearly and the largest share of a voxel wins, which follows borders
    better than the nearest voxel.
    """
    parts = _class_masks(labels, groups, classes)
    shares = [resample(labels.with_data(m.astype(np.float32)), grid, order=1) for m in parts]
    stack = np.stack([1 - np.sum(shares, axis=0), *shares])
    return np.asarray(stack.argmax(0), dtype=np.uint8)


def grouped(labels: Volume, groups: Mapping[str, Sequence[int]], classes: int) -> NDArray[np.uint8]:
    """A label map on its own voxels: 1, 2, ... by the groups of its indices, or as they are."""
    out = np.zeros(labels.data.shape, dtype=np.uint8)
    for number, mask in enumerate(_class_masks(labels, groups, classes), start=1):
        out[mask] = number
    return out


def _class_masks(
    labels: Volume, groups: Mapping[str, Sequence[int]], classes: int
) -> list[NDArray[np.bool_]]:
    if groups:
        return [np.isin(labels.data, list(indices)) for indices in groups.values()]
    highest = int(labels.data.max())
    if highest > classes:
        raise VCMError(
            f"{labels.source} holds the label {highest}, but the task has {classes} classes: add the "
            "class, or say under groups which indices make up each class."
        )
    return [labels.data == n for n in range(1, classes + 1)]


def warn_of_absent_classes(task: Task, held: Iterable[ArrayLike], where: str) -> None:
    """A VCMWarning names the classes of a task that no label map has.

    Args:
        task: A segmentation.
        held: Labels 1, 2, ... that each map has.
        where: Whose maps they are, for the sentence.
    """
    found = {int(label) for labels in held for label in np.ravel(labels)}
    absent = [name for n, name in enumerate(task.classes, start=1) if n not in found]
    if absent:
        warnings.warn(
            f"No label map {where} of {task.name} has a voxel of {', '.join(absent)}, so the class is not learned "
            "there, and a map without it counts as right (Dice 1): check classes and groups of the task.",
            VCMWarning,
            stacklevel=2,
        )


def warn_of_unnamed_labels(
    held: Iterable[int], groups: Mapping[str, Sequence[int]], of: str
) -> None:
    """A VCMWarning names the labels that the groups of a task leave to background; without groups there are none.

    Args:
        held: Labels of the files of all maps.
        groups: Class -> labels that make it up.
        of: Whose maps they are, for the sentence.
    """
    left = sorted(set(held) - {0}.union(*groups.values())) if groups else []
    if left:
        warnings.warn(
            f"The label maps of {of} hold {first_names([str(label) for label in left])}, which no group of the task "
            "names: their voxels count as background.",
            VCMWarning,
            stacklevel=3,
        )
