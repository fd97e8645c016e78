"""Images of one grid on another, up to the border of what a scan shows. Knows grids [mm] alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vcm.imaging.geometry import resample
from vcm.imaging.volume import Grid, Volume


def interpolate_to_border(data: NDArray, grid: Grid, fine: Grid, order: int) -> NDArray[np.float32]:
    """Interpolate to `fine`; beyond the outermost voxel centres values stay those of the border."""
    pad = 3
    padded = np.pad(data, pad, mode="edge").astype(np.float32)
    affine = grid.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, float(pad))
    return resample(Volume(padded, affine), fine, order=order).astype(np.float32)


def in_view(scan: Grid, grid: Grid) -> NDArray[np.bool_]:
    """Which voxels of a grid lie in the field of view of a scan, outer voxel border to outer voxel border."""
    steps = np.linalg.inv(scan.affine) @ grid.affine
    i, j, k = np.ogrid[tuple(slice(n) for n in grid.shape)]
    inside = np.ones(grid.shape, bool)
    for (a, b, c, d), extent in zip(steps[:3], scan.shape, strict=True):
        place = a * i + b * j + c * k + d
        inside &= (place >= -0.5 - 1e-4) & (place <= extent - 0.5 + 1e-4)
    return inside
