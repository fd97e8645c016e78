"""A scan of thick slices interpolated to a finer grid, up to its border. Knows grids [mm] alone."""

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
