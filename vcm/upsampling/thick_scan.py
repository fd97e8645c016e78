"""A scan of thick slices made ready for a model: how it was cut, where its brain lies, its intensities.

Values are scaled so that the brain's percentiles become 0 and 1, as in training; the scan's own
units come back at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vcm.imaging.acquisition import Acquisition, ProfileKind, find_acquisition, isotropic_grid
from vcm.imaging.brain import align_brain, brain_mask
from vcm.imaging.contrast import refuse_other_contrast
from vcm.imaging.degradation import Degradation
from vcm.imaging.geometry import resample
from vcm.imaging.thick import as_thick
from vcm.imaging.volume import Grid, Volume, read_volume, refuse_other_voxels


@dataclass(frozen=True)
class ThickScan:
    """One scan.

    volume        scaled to 0..1 inside the brain, not clipped, everything outside kept
    brain         of its voxels
    fine          isotropic grid of the result; model: grid of the model in common space
    to_common     (4, 4) rigid, world of the scan -> common space, RAS+ [mm]
    units         (low, high): source intensities that are 0 and 1 here
    separation    of white from grey matter, see vcm.imaging.contrast
    """

    volume: Volume
    brain: NDArray[np.bool_]
    acquisition: Acquisition
    fine: Grid
    model: Grid
    to_common: NDArray[np.float64]
    units: tuple[float, float]
    separation: float

    @cached_property
    def degradation(self) -> Degradation:
        """Fine grid -> this scan."""
        return Degradation.between(self.fine, self.volume.grid, self.acquisition)

    def interpolated(self, order: int = 3) -> NDArray[np.float32]:
        """The whole scan on the fine grid: 1 linear, 3 cubic. The border slices hold outside."""
        return interpolate_to_border(self.volume.data, self.volume.grid, self.fine, order)

    def condition(self) -> NDArray[np.float32]:
        """(2, X, Y, Z) on the model's grid, as modules are trained on it."""
        masked = np.where(self.brain, np.clip(self.volume.data, 0, 1), 0).astype(np.float32)
        thick = self.volume.with_data(masked)
        return as_thick(thick, self.acquisition, self.model, self.to_common)

    def scaled_by(self, gain: float, offset: float) -> ThickScan:
        """Intensities v -> gain v + offset, and units that undo it."""
        low, high = self.units
        width = (high - low) / gain
        units = (low - offset * width, low - offset * width + width)
        data = (gain * self.volume.data + offset).astype(np.float32)
        return replace(self, volume=self.volume.with_data(data), units=units)

    def in_units(self, data: NDArray) -> NDArray[np.float32]:
        """Scaled values -> the scan's own intensities."""
        low, high = self.units
        return (low + data * (high - low)).astype(np.float32)


def read_thick(
    path: Path,
    model: Grid,
    spacing: float,
    axis: str | None = None,
    thickness: float | None = None,
    profile: ProfileKind = "gaussian",
    mask: Path | None = None,
    any_contrast: bool = False,
) -> ThickScan:
    """Read, find the slices, align the brain, scale. Raises VCMError for what cannot be upsampled."""
    image = read_volume(path)
    acquisition = find_acquisition(image, axis, thickness, profile)
    fine = isotropic_grid(image.grid, acquisition, spacing)
    brain = _mask(image, mask)
    aligned = align_brain(image, brain, model)
    separation = 1.0
    if not any_contrast:
        separation = refuse_other_contrast(aligned.image, model, image.source)
    low, high = aligned.intensity_range
    scaled = ((image.data - low) / max(high - low, 1e-6)).astype(np.float32)
    return ThickScan(
        image.with_data(scaled), brain, acquisition, fine, model, aligned.to_common,
        (low, high), separation,
    )  # fmt: skip


def interpolate_to_border(data: NDArray, grid: Grid, fine: Grid, order: int) -> NDArray[np.float32]:
    """Interpolate; beyond the outermost centres the border voxels hold, so nothing fades there."""
    pad = 3
    padded = np.pad(data, pad, mode="edge").astype(np.float32)
    affine = grid.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, float(pad))
    return resample(Volume(padded, affine), fine, order=order).astype(np.float32)


def _mask(image: Volume, path: Path | None) -> NDArray[np.bool_]:
    if path is None:
        return brain_mask(image)
    mask = read_volume(path)
    refuse_other_voxels(mask, image, "resample the mask to the scan, nearest neighbour")
    inside: NDArray[np.bool_] = mask.data > 0.5
    return inside
