"""Slices of a stack that hold no measurement: empty ones, and copies of a neighbour.

A converter or a transfer leaves them where the scanner's slice is missing. They are found, filled for
whoever needs a whole stack, and taken out of the measurements. Knows stacks; nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import overload

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from vcm.errors import VCMError
from vcm.imaging.degradation import Degradation
from vcm.imaging.turned import TurnedDegradation
from vcm.imaging.volume import Volume

#: A slice shows the head where this share of the fullest slice's area differs from the background.
LEAST_AREA = 0.05
#: A stack that lacks more than this share of its slices is refused.
MOST_LOST = 1 / 3
#: So near to the middle between its neighbours, a repeated slice may have been either.
UNCLEAR = 0.05


def find_lost(image: Volume, axis: int) -> tuple[int, ...]:
    """Numbers of the slices across `axis`, from 0, that hold no measurement.

    Lost is a slice of one value between slices that show the head, and, of several equal slices side by
    side, all but the first or the last, whichever fits between its neighbours; all where that is unclear.

    Raises:
        VCMError: More than a third of the slices that show the head are lost.
    """
    stack = np.moveaxis(image.data, axis, 0)
    shows = _shows_head(stack)
    if not shows.any():
        return ()
    first, last = (int(n) for n in np.flatnonzero(shows)[[0, -1]])
    flat = stack.reshape(len(stack), -1)
    constant = flat.max(1) == flat.min(1)
    lost = {n for n in range(first, last + 1) if constant[n]}
    for start, end in _runs_of_copies(flat, shows):
        lost |= set(range(start, end + 1)) - _original(flat, start, end)
    if len(lost) > MOST_LOST * (last + 1 - first):
        raise VCMError(
            f"{len(lost)} of the {last + 1 - first} slices of {image.source} that show the head are empty or "
            "copies of another: give the scan as the scanner stored it."
        )
    return tuple(sorted(lost))


def fill(
    image: Volume, brain: NDArray[np.bool_], axis: int, lost: Sequence[int]
) -> tuple[Volume, NDArray[np.bool_]]:
    """Image and brain mask with lost slices interpolated between the nearest measured ones.

    Values change linearly; the mask's border by its distance [voxels], linear too.
    """
    if not lost:
        return image, brain
    stack = np.moveaxis(image.data, axis, 0).astype(np.float32)
    mask = np.moveaxis(brain, axis, 0).copy()
    measured = np.setdiff1d(np.arange(len(stack)), lost)
    for n in lost:
        below, above = measured[measured < n], measured[measured > n]
        if not len(below) or not len(above):
            nearest = above[0] if len(above) else below[-1]
            stack[n], mask[n] = stack[nearest], mask[nearest]
            continue
        low, high = below[-1], above[0]
        part = (n - low) / (high - low)
        stack[n] = (1 - part) * stack[low] + part * stack[high]
        mask[n] = (1 - part) * _depth(mask[low]) + part * _depth(mask[high]) > 0
    return image.with_data(np.moveaxis(stack, 0, axis)), np.moveaxis(mask, 0, axis)


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


def _shows_head(stack: NDArray) -> NDArray[np.bool_]:
    """(slices,) whether a slice differs from the background, the value in the stack's corners, in enough places."""
    background = np.median(stack[:: len(stack) - 1, :: stack.shape[1] - 1, :: stack.shape[2] - 1])
    range_ = float(stack.max() - stack.min())
    differs = np.abs(stack - background) > 0.02 * range_
    area = differs.reshape(len(stack), -1).mean(1)
    # A slice of one value shows nothing, whatever the value.
    varies = np.ptp(stack.reshape(len(stack), -1), axis=1) > 0
    shows: NDArray[np.bool_] = (area >= LEAST_AREA * area.max()) & varies
    return shows


def _runs_of_copies(flat: NDArray, shows: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(first, last) of each run of equal slices that show the head."""
    runs: list[tuple[int, int]] = []
    for n in range(1, len(flat)):
        if shows[n] and np.array_equal(flat[n], flat[n - 1]):
            start = runs.pop()[0] if runs and runs[-1][1] == n - 1 else n - 1
            runs.append((start, n))
    return runs


def _original(flat: NDArray, start: int, end: int) -> set[int]:
    """Which of equal slices is no copy: {start} or {end}, empty where it cannot be told.

    t is how far the slice has come from the one before the run to the one behind it, 0..1.
    """
    if start == 0 or end == len(flat) - 1:
        return {start} if start == 0 else {end}
    before, slice_, behind = (flat[n].astype(np.float64) for n in (start - 1, start, end + 1))
    background = np.median(flat[[0, -1]])
    inside = (before != background) & (slice_ != background) & (behind != background)
    way = (behind - before)[inside]
    t = float((slice_ - before)[inside] @ way) / max(float(way @ way), 1e-12)
    if abs(t - 0.5) < UNCLEAR:
        return set()
    return {start} if t < 0.5 else {end}


def _depth(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance [voxels] to the border of a mask, negative outside."""
    if mask.all() or not mask.any():
        return np.full(mask.shape, 1.0 if mask.any() else -1.0)
    inside = distance_transform_edt(mask) - distance_transform_edt(~mask)
    return np.asarray(inside)
