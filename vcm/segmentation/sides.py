"""Left for right: which class lies on the other side of a class, and what a voice says of a brain both ways.

Where every structure has its counterpart, a mirrored brain is a brain like others, whose left structures bear the
names of the right ones. So a voice is asked twice, and the registered atlas is one of two brains. Knows
arrays on a grid whose middle plane is that of the brain; nothing of networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from vcm.segmentation.labelled import UNKNOWN, LabelledBrain

#: Least Dice of a class with the mirror image of its counterpart: seven structures of two brains have 0.5 to 0.9 at
#: 2 mm, classes that are no counterparts hardly any.
LEAST_OVERLAP = 0.3
#: A voice: image and mask (X, Y, Z) -> (..., N, C) at the voxels of the mask.
Ask = Callable[[NDArray[np.float32], NDArray[np.bool_]], NDArray[np.float32]]


def mirrored(volume: NDArray) -> NDArray:
    """(X, Y, Z), left for right."""
    return np.ascontiguousarray(volume[::-1])


def counterparts(brains: Sequence[LabelledBrain], classes: int) -> NDArray[np.int64] | None:
    """The class on the other side of each class, itself where it is on both; None where one has none.

    Args:
        brains: Labelled wholly or in some slices; voxels count where they and their mirror images are labelled.
        classes: C, background among them.

    Returns:
        (C,) or None: a mirrored brain would be no brain of this kind.
    """
    both = np.zeros((classes, classes))
    size = np.zeros(classes)
    for brain in brains:
        labels, other = brain.labels, mirrored(brain.labels)
        known = (labels != UNKNOWN) & (other != UNKNOWN)
        labels, other = labels[known].astype(np.int64), other[known].astype(np.int64)
        both += np.bincount(labels * classes + other, minlength=classes**2).reshape(both.shape)
        size += np.bincount(labels, minlength=classes)
    overlap = 2 * both / np.maximum(size[:, None] + size[None], 1)
    found = overlap[1:, 1:].argmax(1) + 1
    found = np.concatenate([[0], found])
    alike = overlap[np.arange(classes), found][1:].min() >= LEAST_OVERLAP
    return found if alike and np.array_equal(found[found], np.arange(classes)) else None


def both_ways(
    ask: Ask,
    image: NDArray[np.float32],
    mask: NDArray[np.bool_],
    other_side: NDArray[np.int64] | None,
) -> NDArray[np.float32]:
    """Mean of what a voice says of a brain and of its mirror image, (..., N, C) at the voxels of the mask.

    Args:
        ask: The voice.
        image: (X, Y, Z).
        mask: (X, Y, Z).
        other_side: See `counterparts`; None: the brain alone is asked about.
    """
    found = ask(image, mask)
    if other_side is None:
        return found
    number = np.empty(mask.shape, np.int64)
    number[mask] = np.arange(found.shape[-2])
    flipped = mirrored(mask)
    back = np.empty(found.shape[-2], np.int64)
    back[mirrored(number)[flipped]] = np.arange(len(back))
    other = ask(mirrored(image), flipped)[..., back, :]
    return ((found + other[..., other_side]) / 2).astype(np.float32)
