"""State an honest error where nothing was measured: where slices are lost, and at a rim that was filled.

How far off one is in a gap wider than any that a model was trained on, the rest of the scan tells: measured
slices are left out in gaps as wide, interpolated, and compared. Knows the slices of a scan and the error that
was stated; no networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vcm.upsampling.scans.border import interpolate_to_border
from vcm.upsampling.scans.space import Image
from vcm.upsampling.scans.thick_scan import ThickScan

#: How many times larger than stated the error is in voxels of a filled rim, beside that further in: 1.2 to 1.5
#: with brain1mm and 1.8 to 2.3 with heads1mm, on three training subjects of ds002748.
AT_RIM = 1.7


def widen_at_rim(std: Image, scan: ThickScan) -> Image:
    """Raise the stated error where the rim of a brain that was cut out of its slices was filled.

    Args:
        std: As `widen_over_lost` has it.
        scan: The scan, with its rim.
    """
    if scan.rim is None:
        return std
    filled = np.isfinite(scan.rim).astype(np.float32)
    share = interpolate_to_border(filled, scan.volume.grid, scan.fine, order=1).clip(0, 1)
    return (std * (1 + (AT_RIM - 1) * share)).astype(np.float32)


def widen_over_lost(std: Image, scan: ThickScan) -> Image:
    """Raise the stated error in each gap to that of interpolation over such a gap, where it is less.

    Args:
        std: Stated standard deviation (X, Y, Z) on the fine grid, in 0..1 of the brain; 0 where there
            is none.
        scan: The scan, with what it has lost.

    Returns:
        The same outside the gaps; inside each multiplied by one number, at least 1, which leaves where
        the error is larger and where smaller.
    """
    widened = std.copy()
    for first, last in runs(scan.lost):
        error = error_over_gap(scan, last - first + 1)
        gap = np.moveaxis(widened, _across(scan), 0)[_fine_slices(scan, first, last)]
        stated = gap[gap > 0]
        if error is not None and stated.size:
            gap *= max(1.0, error / float(np.sqrt(np.square(stated).mean())))
    return widened


def error_over_gap(scan: ThickScan, width: int) -> float | None:
    """Root mean square error in the brain of linear interpolation over `width` slices left out.

    Over every place of the stack where that many slices, and one on each side, are measured; None
    where there is no such place.
    """
    axis = scan.acquisition.axis
    data, brain = (np.moveaxis(v, axis, 0) for v in (scan.volume.data, scan.brain))
    measured = scan.is_measured
    squares: list[NDArray] = []
    for low in range(len(data) - width - 1):
        high = low + width + 1
        if not measured[low : high + 1].all():
            continue
        for n in range(low + 1, high):
            share = (n - low) / (high - low)
            guess = (1 - share) * data[low] + share * data[high]
            squares.append(np.square(guess - data[n])[brain[n]])
    values = np.concatenate(squares) if squares else np.empty(0)
    return float(np.sqrt(values.mean())) if values.size else None


def runs(lost: Sequence[int]) -> list[tuple[int, int]]:
    """(first, last) of each run of slices side by side."""
    found: list[tuple[int, int]] = []
    for n in lost:
        start = found.pop()[0] if found and found[-1][1] == n - 1 else n
        found.append((start, n))
    return found


def _across(scan: ThickScan) -> int:
    return scan.degradation.axes[scan.acquisition.axis]


def _fine_slices(scan: ThickScan, first: int, last: int) -> slice:
    """Fine voxels along the slice axis whose nearest slice is in the gap."""
    steps = np.linalg.inv(scan.volume.affine) @ scan.fine.affine
    axis, across = scan.acquisition.axis, _across(scan)
    middle = (np.asarray(scan.fine.shape) - 1) / 2
    begin = steps[axis, :3] @ middle + steps[axis, 3]
    index = begin + steps[axis, across] * (np.arange(scan.fine.shape[across]) - middle[across])
    inside = np.flatnonzero((index > first - 0.5) & (index < last + 0.5))
    return slice(int(inside[0]), int(inside[-1]) + 1) if inside.size else slice(0, 0)
