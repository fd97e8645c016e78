"""A scan's brain on the model's grid: aligned rigidly, masked, intensities in 0..1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VCMError
from vcm.imaging.conditions import PLAUSIBLE_BRAIN
from vcm.imaging.geometry import to_model_grid
from vcm.imaging.registration import align_rigid
from vcm.imaging.volume import Grid, Volume


@dataclass(frozen=True)
class AlignedBrain:
    """image (X, Y, Z) in 0..1, 0 outside the brain; to_common: scan world -> model world [mm]."""

    image: NDArray[np.float32]
    to_common: NDArray[np.float64]
    intensity_range: tuple[float, float]


def brain_mask(image: Volume) -> NDArray[np.bool_]:
    """What is above 0 in a brain-extracted scan. Raises VCMError for one with its skull on."""
    mask: NDArray[np.bool_] = image.data > 0
    if mask.mean() > 0.6 and np.percentile(image.data, 2) > 0:
        raise VCMError(
            f"{image.source} is not brain-extracted: strip the skull first (for instance with "
            "SynthStrip), or where a label map is read too, add a *_dseg.nii.gz."
        )
    return mask


def align_brain(image: Volume, mask: NDArray[np.bool_], grid: Grid) -> AlignedBrain:
    """Bring the masked scan to `grid` in the common space. Raises VCMError if it is no brain."""
    to_common = align_rigid(image.with_data(np.where(mask, image.data, 0).astype(np.float32)))
    moved = to_model_grid(image, grid, to_common, order=1)
    inside = to_model_grid(image.with_data(mask.astype(np.float32)), grid, to_common, order=1) > 0.5
    volume = float(inside.sum()) * grid.voxel_volume
    low, high = PLAUSIBLE_BRAIN
    if not low < volume < high:
        large = (
            "the skull may still be on, so strip it (for instance with SynthStrip) or give a mask; "
        )
        raise VCMError(
            f"{image.source} has {volume:.0f} mL inside its brain mask, expected {low:.0f} to "
            f"{high:.0f} mL: {large if volume > high else ''}check the mask or label map, and the "
            "voxel size."
        )
    scaled, used = to_unit_range(moved, inside)
    return AlignedBrain(scaled, to_common, used)


#: Percentiles inside the brain that become 0 and 1.
PERCENTILES = (0.5, 99.5)


def to_unit_range(
    data: NDArray, mask: NDArray[np.bool_], percentiles: tuple[float, float] = PERCENTILES
) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """Map the two percentiles inside `mask` to 0 and 1, clip, and set 0 outside the mask.

    Returns the values and the two source intensities, so that the way back is known.
    """
    low, high = np.percentile(data[mask], percentiles)
    scaled = np.clip((data - low) / max(high - low, 1e-6), 0.0, 1.0)
    return np.where(mask, scaled, 0.0).astype(np.float32), (float(low), float(high))
