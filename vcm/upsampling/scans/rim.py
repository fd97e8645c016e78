"""The rim of a brain that was cut out of thick slices: it follows the fine grid, not the steps of the slices.

A brain mask keeps or drops whole voxels, so a brain that it cut out of thick slices ends in steps as thick as
they are, and what its outermost parts gave to the dropped voxels is lost. Here its outline is interpolated
between the slices by its distance (shape-based interpolation: Raya and Udupa 1990, IEEE Transactions on
Medical Imaging 9(1), 32-42), and the dropped voxels get what the slices would have measured of that brain:

    y = A (m x)       m: share of a fine voxel that lies within the outline, x: intensity of the nearest kept voxel

Knows a scan, how it was cut and the fine grid; nothing of networks or files.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from vcm.imaging.acquisition import Acquisition
from vcm.imaging.degradation import Degradation
from vcm.imaging.volume import Grid, Volume
from vcm.upsampling.scans.border import interpolate_to_border

#: Distances from the outline are believed up to here [voxel in plane].
FARTHEST = 10.0
#: A dropped voxel is filled where at least this share of it lies within the outline.
LEAST_COVERED = 0.02
#: A kept voxel has at least this share of brain, by the mask that kept it ...
KEPT = 0.5
#: ... and is taken for whole from this share on.
WHOLE = 0.95
#: Intensities of the rim are compared with those further in up to this ratio.
MOST_RATIO = 10.0
#: Those further in count as at least this share of the brightest.
DARKEST = 1e-6
#: So many voxels tell how much the rim's intensities fall with the share of brain.
LEAST_VOXELS = 100


def rim_of(
    image: Volume, brain: NDArray[np.bool_], acquisition: Acquisition, fine: Grid
) -> NDArray[np.float32] | None:
    """What the voxels that were dropped beside a brain would have measured of it.

    Args:
        image: (X, Y, Z), 0 in the background and positive in the brain.
        brain: (X, Y, Z) the voxels that were kept.
        acquisition: How the scan was cut.
        fine: Grid of the result.

    Returns:
        (X, Y, Z) intensities, NaN in the brain and far from it; None where there is nothing to fill. Beside a
        rim that fades by itself, as of a brain that was cut out before its slices were thickened, they are
        nearly 0.
    """
    degradation = Degradation.between(fine, image.grid, acquisition)
    distance = np.moveaxis(_distances(np.moveaxis(brain, acquisition.axis, 0)), 0, acquisition.axis)
    within = np.clip(interpolate_to_border(distance, image.grid, fine, order=1) + 0.5, 0, 1)
    covered = degradation.degrade(within)
    values = np.where(brain, image.data, 0).astype(np.float64)
    fall = _fall(values, np.clip(covered, KEPT, 1), brain, image.grid.spacing)
    values /= np.clip(covered, KEPT, 1) ** fall
    nearest = distance_transform_edt(
        ~brain, sampling=image.grid.spacing, return_distances=False, return_indices=True
    )
    extended = image.with_data(values[tuple(nearest)].astype(np.float32))
    whole = interpolate_to_border(extended.data, image.grid, fine, order=1)
    filled = ~brain & (covered >= LEAST_COVERED)
    measured = degradation.degrade(within * whole)
    return np.where(filled, measured, np.nan).astype(np.float32) if filled.any() else None


def _distances(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(K, X, Y) -> distances from the outline within each slice, positive inside [voxel].

    An empty slice lies as far outside as the widest place of its neighbours lies inside, so that what ends
    there ends halfway.
    """
    there = masks.any((1, 2))
    inside = np.stack([distance_transform_edt(m) if m.any() else np.zeros(m.shape) for m in masks])
    outside = np.stack(
        [distance_transform_edt(~m) if m.any() else np.zeros(m.shape) for m in masks]
    )
    widest = np.pad(inside.max((1, 2)), 1)
    empty = -np.maximum(widest[:-2], widest[2:])
    signed = np.where(masks, inside - 0.5, 0.5 - outside)
    signed[~there] = np.minimum(empty[~there], -0.5)[:, None, None]
    return np.clip(signed, -FARTHEST, FARTHEST).astype(np.float32)


def _fall(
    values: NDArray[np.float64],
    covered: NDArray[np.float64],
    brain: NDArray[np.bool_],
    spacing: tuple[float, float, float],
) -> float:
    """With which power of the share of brain intensities fall at the rim: 0 not, 1 as beside nothing.

    Beside tissue as bright as the brain a voxel of the rim is as bright as others; beside air, and nearly
    so beside fluid in T1w, it is dark by what it lacks.
    """
    whole = brain & (covered >= WHOLE)
    rim = brain & (covered < WHOLE) & (values > 0)
    if min(int(whole.sum()), int(rim.sum())) < LEAST_VOXELS:
        return 0.0
    nearest = distance_transform_edt(
        ~whole, sampling=spacing, return_distances=False, return_indices=True
    )
    further_in = np.maximum(values[tuple(nearest)][rim], DARKEST * values.max())
    ratio = np.clip(values[rim] / further_in, 1 / MOST_RATIO, MOST_RATIO)
    share = np.log(covered[rim])
    return float(np.clip(np.sum(share * np.log(ratio)) / np.sum(share**2), 0, 1))
