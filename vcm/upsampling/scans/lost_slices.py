"""Take the slices that hold no measurement out of a stack: fill them, and leave them out of the degradation.

Which they are, vcm.imaging.lost_slices tells. Knows stacks; nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import overload

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VCMError
from vcm.imaging.degradation import Degradation
from vcm.imaging.lost_slices import bridged, dimmed_slices, lost_slices, repeated_slices
from vcm.imaging.turned import TurnedDegradation
from vcm.imaging.volume import Volume

#: A stack that lacks more than this share of its slices is refused.
MOST_LOST = 1 / 3


def find_lost(image: Volume, axis: int) -> tuple[int, ...]:
    """Numbers of the slices across `axis`, from 0, that are empty within the head, dimmed, or copies.

    Raises:
        VCMError: They are more than a third of the stack.
    """
    finders = (lost_slices, dimmed_slices, repeated_slices)
    lost = sorted({number for find in finders for number in find(image.data, axis)})
    count = image.data.shape[axis]
    if len(lost) > MOST_LOST * count:
        raise VCMError(
            f"{len(lost)} of the {count} slices of {image.source} are empty within the head, dimmed, or "
            "copies of another: give the scan as the scanner stored it."
        )
    return tuple(lost)


def fill(
    image: Volume, brain: NDArray[np.bool_], axis: int, lost: Sequence[int]
) -> tuple[Volume, NDArray[np.bool_]]:
    """Image and brain mask with lost slices interpolated between the nearest measured ones.

    Values change linearly, the mask as `bridged` has it. A lost slice at the end of the stack becomes
    the nearest measured one.
    """
    if not lost:
        return image, brain
    stack = np.moveaxis(image.data, axis, 0).astype(np.float32)
    measured = np.setdiff1d(np.arange(len(stack)), lost)
    for n in lost:
        low = measured[measured < n][-1] if n > measured[0] else measured[0]
        high = measured[measured > n][0] if n < measured[-1] else measured[-1]
        part = (n - low) / (high - low) if high > low else 0.0
        stack[n] = (1 - part) * stack[low] + part * stack[high]
    filled = image.with_data(np.moveaxis(stack, 0, axis))
    return filled, bridged(brain, axis, lost)


@overload
def without_lost(degradation: Degradation, axis: int, lost: Sequence[int]) -> Degradation: ...


@overload
def without_lost(
    degradation: TurnedDegradation, axis: int, lost: Sequence[int]
) -> TurnedDegradation: ...


def without_lost(
    degradation: Degradation | TurnedDegradation, axis: int, lost: Sequence[int]
) -> Degradation | TurnedDegradation:
    """The degradation with lost slices unseen: nothing is projected onto them, no residual counts them."""
    if not lost:
        return degradation
    if isinstance(degradation, TurnedDegradation):
        seen = degradation.seen.copy()
        np.moveaxis(seen, axis, 0)[list(lost)] = False
        return replace(degradation, seen=seen)
    matrices = [matrix.copy() for matrix in degradation.matrices]
    matrices[axis][list(lost)] = 0
    x, y, z = matrices
    return replace(degradation, matrices=(x, y, z))
