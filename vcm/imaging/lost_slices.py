"""Which slices of a stack hold no measurement: lost ones, copies of others, and those that lost their signal.

A scanner, a transfer or a converter that loses a slice leaves a constant one in its place, mostly of zeros,
or a part of it, or repeats a neighbour; motion and metal darken one. Knows arrays alone; nothing of mm, of files, or of what stands in for a lost slice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

#: A slice whose values differ by less than this share of the width of all values is constant.
CONSTANT = 1e-5
#: The head begins where a slice shows this share of what the fullest shows: a speck above it is no head.
LEAST_AREA = 0.05
#: Where the head ends, slices shrink to less than this share of the fullest before they are empty.
EDGE_AREA = 0.1
#: Two slices with at least this many voxels that are not background do not agree by chance.
TELLING = 50
#: A slice with less than this share of the area, or of the mean intensity above the darkest, lost signal.
DIMMED = 0.6
#: Percentile of what the stack shows that is its darkest intensity.
BLACK = 0.1
#: So near to the middle between its neighbours, a repeated slice may have been either.
UNCLEAR = 0.05


def lost_slices(data: NDArray, axis: int) -> list[int]:
    """Slices that are constant though slices on both sides of them are not.

    Args:
        data: (X, Y, Z) intensities of the stack.
        axis: Across the slices, 0 to 2.

    Returns:
        Their numbers from 0, ascending. Constant slices beyond the head are background, not lost, and so
        are those between the two parts of a head that is folded over, see `is_folded_over`.
    """
    return [n for gap, lost in _gaps(data, axis) if lost for n in gap]


def is_folded_over(data: NDArray, axis: int) -> bool:
    """Whether a head leaves its field of view at one side and goes on at the other.

    Its slices shrink to nothing on both sides of the empty ones between, as they do not where slices were lost.

    Args:
        data: (X, Y, Z) intensities.
        axis: Across the slices, 0 to 2.
    """
    return any(not lost for _, lost in _gaps(data, axis))


def _gaps(data: NDArray, axis: int) -> list[tuple[list[int], bool]]:
    """Constant slices side by side inside the head, and whether they were lost."""
    slices = np.moveaxis(data, axis, 0)
    width = float(data.max()) - float(data.min())
    constant = np.array([float(s.max()) - float(s.min()) <= CONSTANT * width for s in slices])
    areas = np.array([_area(one, CONSTANT * width) for one in slices])
    head = np.flatnonzero(areas >= max(LEAST_AREA * areas.max(), 1))
    if not head.size:
        return []
    empty = np.array([n for n in np.flatnonzero(constant) if head[0] < n < head[-1]], int)
    gaps = np.split(empty, np.flatnonzero(np.diff(empty) > 1) + 1) if empty.size else []
    return [(gap.tolist(), not _is_between_parts(areas, gap[0], gap[-1])) for gap in gaps]


def _is_between_parts(areas: NDArray, first: int, last: int) -> bool:
    """Whether the slices shrink to nothing towards those gaps, from both sides."""
    edge = EDGE_AREA * areas.max()
    sides = ((first - 1, first - 2), (last + 1, last + 2))
    return all(
        areas[near] < edge and 0 <= far < len(areas) and areas[near] < areas[far]
        for near, far in sides
    )


def dimmed_slices(data: NDArray, axis: int) -> list[int]:
    """Slices that show much less of the head than those on both sides of them, or show it much darker.

    Compared with the better of the two nearest slices on each side, so that two side by side are found.

    Args:
        data: (X, Y, Z) intensities of the stack.
        axis: Across the slices, 0 to 2.

    Returns:
        Their numbers from 0, ascending; constant ones among them. The outermost are never among them.
    """
    slices = np.moveaxis(data, axis, 0)
    values, counts = np.unique(slices, return_counts=True)
    shown = slices != values[counts.argmax()]
    areas = shown.sum((1, 2))
    if areas.max() < TELLING:
        return []
    black = float(np.percentile(slices[shown], BLACK))
    light = np.array(
        [float(s[m].mean()) - black if m.any() else 0.0 for s, m in zip(slices, shown, strict=True)]
    )
    found = []
    for n in range(1, len(slices) - 1):
        sides = (slice(max(n - 2, 0), n), slice(n + 1, n + 3))
        area, level = (min(v[side].max() for side in sides) for v in (areas, light))
        if area >= TELLING and (areas[n] < DIMMED * area or light[n] < DIMMED * level):
            found.append(n)
    return found


def repeated_slices(data: NDArray, axis: int) -> list[int]:
    """Slices that are, value for value, copies of another one.

    Of equal slices side by side the first or the last is taken for the measured one, whichever fits
    between its neighbours; where that is unclear none is. Of others the first is.

    Args:
        data: (X, Y, Z) intensities of the stack.
        axis: Across the slices, 0 to 2.

    Returns:
        Their numbers from 0, ascending. Slices that show next to nothing are left out.
    """
    slices = np.moveaxis(data, axis, 0)
    alike: dict[bytes, list[int]] = {}
    for number, one in enumerate(slices):
        if _area(one) >= TELLING:
            alike.setdefault(np.ascontiguousarray(one).tobytes(), []).append(number)
    repeated = []
    for numbers in alike.values():
        side_by_side = numbers[-1] - numbers[0] == len(numbers) - 1
        kept = _measured(slices, numbers[0], numbers[-1]) if side_by_side else {numbers[0]}
        repeated += [n for n in numbers if n not in kept]
    return sorted(repeated)


def _area(one: NDArray, least: float = 0.0) -> int:
    """Voxels of a slice that differ from its most frequent value, by more than what interpolation leaves."""
    values, counts = np.unique(one, return_counts=True)
    return int((np.abs(one - values[counts.argmax()]) > least).sum())


def _measured(slices: NDArray, start: int, end: int) -> set[int]:
    """Which of equal slices is no copy: {start} or {end}, empty where it cannot be told.

    t is how far the slice has come from the one before them to the one behind them, 0..1.
    """
    if start == 0 or end == len(slices) - 1 or start == end:
        return {start} if start == 0 else {end}
    before, one, behind = (slices[n].astype(np.float64) for n in (start - 1, start, end + 1))
    background = np.median(slices[[0, -1]])
    inside = (before != background) & (one != background) & (behind != background)
    way = (behind - before)[inside]
    length = float(way @ way)
    t = float((one - before)[inside] @ way) / length if length > 0 else 0.5
    if abs(t - 0.5) < UNCLEAR:
        return set()
    return {start} if t < 0.5 else {end}


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
