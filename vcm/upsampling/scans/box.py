"""The box of voxels around what a mask marks: a network sees that and not the air. Knows arrays alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Along three axes.
Box = tuple[slice, slice, slice]
#: The box that leaves nothing out.
WHOLE: Box = (slice(None), slice(None), slice(None))


def box_around(mask: NDArray[np.bool_], margin: int, least: int = 1) -> Box:
    """The smallest box that holds a mask and a margin, cut at the border of the array.

    Args:
        mask: (X, Y, Z); where it marks nothing, the box is the whole array.
        margin: Voxels on each side.
        least: Edge of the box where the array has room for it [voxel].
    """
    box = []
    for axis, extent in enumerate(mask.shape):
        there = np.flatnonzero(mask.any(tuple(k for k in range(3) if k != axis)))
        low, high = (int(there[0]), int(there[-1]) + 1) if there.size else (0, extent)
        low = max(0, min(low - margin, extent - least))
        box.append(slice(low, min(extent, max(high + margin, low + least))))
    x, y, z = box
    return x, y, z
