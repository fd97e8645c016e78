"""Which slices of a stack hold no measurement: lost ones, and copies of others.

A scanner, a transfer or a converter that loses a slice leaves a constant one in its place, mostly of zeros,
or repeats a neighbour. Knows arrays alone; nothing of mm, of files, or of what stands in for a lost slice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

#: A slice whose values differ by less than this share of the width of all values is constant.
CONSTANT = 1e-5
#: Two slices with at least this many voxels that are not background do not agree by chance.
TELLING = 50


def lost_slices(data: NDArray, axis: int) -> list[int]:
    """Slices that are constant though slices on both sides of them are not.

    Args:
        data: (X, Y, Z) intensities of the stack.
        axis: Across the slices, 0 to 2.

    Returns:
        Their numbers from 0, ascending. Constant slices beyond the head are background, not lost.
    """
    slices = np.moveaxis(data, axis, 0)
    width = float(data.max()) - float(data.min())
    shows = np.array([float(s.max()) - float(s.min()) > CONSTANT * width for s in slices])
    there = np.flatnonzero(shows)
    if not there.size:
        return []
    return [int(n) for n in np.flatnonzero(~shows) if there[0] < n < there[-1]]


def repeated_slices(data: NDArray, axis: int) -> list[int]:
    """Slices that are, value for value, copies of an earlier one, which is taken for the measured one.

    Args:
        data: (X, Y, Z) intensities of the stack.
        axis: Across the slices, 0 to 2.

    Returns:
        Their numbers from 0, ascending. Slices that show next to nothing are left out.
    """
    seen: set[bytes] = set()
    repeated = []
    for number, one in enumerate(np.moveaxis(data, axis, 0)):
        _, counts = np.unique(one, return_counts=True)
        if one.size - counts.max() < TELLING:
            continue
        values = np.ascontiguousarray(one).tobytes()
        if values in seen:
            repeated.append(number)
        seen.add(values)
    return repeated


def bridged(mask: NDArray[np.bool_], axis: int, lost: Sequence[int]) -> NDArray[np.bool_]:
    """A brain mask with its lost slices filled in from the nearest slices that were measured.

    The outline moves evenly from one to the other: the distance to it [voxels] is interpolated.

    Args:
        mask: (X, Y, Z) the brain, in whatever way it looks in the lost slices.
        axis: Across the slices, 0 to 2.
        lost: Numbers of the slices without a measurement.

    Returns:
        (X, Y, Z). A lost slice at the end of the stack stays as it is.
    """
    slices = np.moveaxis(mask.copy(), axis, 0)
    gone = set(lost)
    measured = [n for n in range(len(slices)) if n not in gone]
    for number in sorted(gone):
        below = max((n for n in measured if n < number), default=None)
        above = min((n for n in measured if n > number), default=None)
        if below is None or above is None:
            continue
        share = (number - below) / (above - below)
        depth = (1 - share) * _depth(slices[below]) + share * _depth(slices[above])
        slices[number] = depth > 0
    return np.moveaxis(slices, 0, axis)


def _depth(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance to the outline [voxels], negative outside; far outside where there is no brain."""
    if not mask.any():
        return np.full(mask.shape, -float(max(mask.shape)))
    inside: NDArray[np.float64] = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    return inside - distance_transform_edt(~mask)
