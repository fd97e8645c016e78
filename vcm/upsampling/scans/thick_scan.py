"""A scan of thick slices made ready for a model: how it was cut, where its brain lies, its intensities.

Values are scaled so that the brain's percentiles become 0 and 1, as in training; the scan's own
units come back at the end. Knows slices, grids [mm] and intensities; nothing of files or networks.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VCMWarning
from vcm.imaging.acquisition import (
    Acquisition,
    SliceProfile,
    find_acquisition,
    in_plane_grid,
    isotropic_grid,
)
from vcm.imaging.background import find_background, on_black
from vcm.imaging.brain import align_brain, refuse_label_map
from vcm.imaging.contrast import Contrast
from vcm.imaging.degradation import Degradation
from vcm.imaging.extraction import Brain, find_brain
from vcm.imaging.geometry import straight_grid, straightened, straightened_mask
from vcm.imaging.thick import as_thick, nearness_to_slices
from vcm.imaging.volume import Grid, Volume
from vcm.upsampling.scans.border import interpolate_to_border
from vcm.upsampling.scans.lost_slices import fill, find_lost, without_lost
from vcm.upsampling.scans.profile import EstimatedWidth, NoEstimate, ProfileChoice, estimate_width
from vcm.upsampling.scans.rim import rim_of
from vcm.weights.contrast import find_contrast

#: A voxel outside the brain shows something where it is this much of the brain's range above the darkest,
#: and a scan does where more than this share of them does.
SHOWN, LEAST_SHOWN = 0.05, 0.02


@dataclass(frozen=True)
class Background:
    """What a scan holds where it shows nothing, for scans that do not hold 0 there.

    Attributes:
        value: Intensity of the scan.
        where: (X, Y, Z) of its voxels.
    """

    value: float
    where: NDArray[np.bool_]


@dataclass(frozen=True)
class ThickScan:
    """One scan.

    Attributes:
        volume: Scaled to 0..1 inside the brain, not clipped, everything outside kept. Lost slices are
            filled by interpolation.
        brain: (X, Y, Z) of its voxels.
        acquisition: How it was cut.
        fine: Grid of the result, along the scan's axes but where the result has the voxels of another scan.
        model: Grid of the model in common space.
        to_common: (4, 4) rigid, world of the scan -> common space, RAS+ [mm].
        units: (low, high), source intensities that are 0 and 1 here.
        contrast: Of the scan, and what tells it.
        lost: Numbers of the slices, from 0, that hold no measurement.
        background: That the scan had, and the result is to have; None: 0 as it comes.
        found: The brain on the voxels of the file, and what tells it; None for a scan that was made here.
        rim: (X, Y, Z) in a brain that was cut out of its slices, what the dropped voxels beside it would have
            measured of it, scaled likewise, and NaN elsewhere; None: the scan was not cut, or not so.
        width: Of the slices, where it was found in the scan; None: it was given, or taken for the spacing.
        motion: (4, 4) rigid, world of the file -> that of the first scan of the head, RAS+ [mm], by which it was
            brought here; None: it lies where its header says.
    """

    volume: Volume
    brain: NDArray[np.bool_]
    acquisition: Acquisition
    fine: Grid
    model: Grid
    to_common: NDArray[np.float64]
    units: tuple[float, float]
    contrast: Contrast
    lost: tuple[int, ...] = ()
    background: Background | None = None
    found: Brain | None = None
    rim: NDArray[np.float32] | None = None
    width: EstimatedWidth | None = None
    motion: NDArray[np.float64] | None = None

    @cached_property
    def degradation(self) -> Degradation:
        """Fine grid -> the slices that were measured."""
        whole = Degradation.between(self.fine, self.volume.grid, self.acquisition)
        return without_lost(whole, self.acquisition.axis, self.lost)

    @cached_property
    def slices(self) -> NDArray[np.float32]:
        """(X, Y, Z) what the result is made of: the scan, with its rim filled."""
        data = self.volume.data
        if self.rim is None:
            return data
        return np.where(np.isnan(self.rim), data, self.rim).astype(np.float32)

    def as_it_came(self, order: int = 3) -> NDArray[np.float32]:
        """The scan on the fine grid, its rim not filled: what a result is compared with. Orders as `interpolated`."""
        return interpolate_to_border(self.volume.data, self.volume.grid, self.fine, order)

    @property
    def shows_more_than_brain(self) -> bool:
        """Whether there is anything but background outside the brain."""
        outside = self.volume.data[~self.brain]
        darkest = float(self.volume.data.min())
        return bool((outside > darkest + SHOWN).mean() > LEAST_SHOWN) if outside.size else False

    @property
    def is_measured(self) -> NDArray[np.bool_]:
        """(slices,) True where a slice was measured."""
        slices = np.arange(self.volume.data.shape[self.acquisition.axis])
        return ~np.isin(slices, self.lost)

    @property
    def measured_brain(self) -> NDArray[np.bool_]:
        """(X, Y, Z) voxels of the brain that were measured."""
        shape = [1, 1, 1]
        shape[self.acquisition.axis] = -1
        return self.brain & self.is_measured.reshape(shape)

    def interpolated(self, order: int = 3) -> NDArray[np.float32]:
        """The slices on the fine grid: 0 nearest, 1 linear, 3 cubic. Beyond the outermost slices it is constant."""
        return interpolate_to_border(self.slices, self.volume.grid, self.fine, order)

    def condition(self) -> NDArray[np.float32]:
        """(2, X, Y, Z) on the model's grid, as modules are trained on it."""
        masked = np.where(self.brain, np.clip(self.volume.data, 0, 1), 0).astype(np.float32)
        thick = self.volume.with_data(masked)
        return as_thick(thick, self.acquisition, self.model, self.to_common, self.lost)

    def nearness(self) -> NDArray[np.float32]:
        """(X, Y, Z) on the fine grid: 1 at the centre of a measured slice, 0 halfway between two."""
        return nearness_to_slices(self.volume, self.acquisition, self.fine, lost=self.lost)

    def describe_profile(self) -> dict[str, Any]:
        """What a sidecar says of its slices [mm]."""
        acquisition, width = self.acquisition, self.width
        return {
            "Scan": Path(self.volume.source).name,
            "SpacingBetweenSlices": round(acquisition.spacing, 4),
            "SliceProfile": acquisition.profile.kind,
            "SliceThickness": round(acquisition.thickness, 4),
            "SliceThicknessStd": None if width is None else round(width.std, 4),
            "SliceThicknessFrom": "setting, JSON file or spacing"
            if width is None
            else "the scan itself",
            "Motion": None if self.motion is None else self.motion.tolist(),
        }

    def width_in_words(self) -> str:
        """How it was cut, and how sure that is where the scan itself told it."""
        sure = "" if self.width is None else f"; its thickness, found in the scan, is {self.width}"
        return f"{self.volume.source}: {self.acquisition}{sure}."

    def at_spacing(self, spacing: float) -> ThickScan:
        """The same scan with another fine grid, of that spacing [mm]."""
        return replace(self, fine=isotropic_grid(self.volume.grid, self.acquisition, spacing))

    def in_units(self, data: NDArray) -> NDArray[np.float32]:
        """Scaled values (X, Y, Z) on the fine grid -> the scan's own intensities, on its own background."""
        low, high = self.units
        values = (low + data * (high - low)).astype(np.float32)
        if self.background is not None:
            shows = ~self.background.where
            if self.rim is not None:
                shows = shows | ~np.isnan(self.rim)
            near = interpolate_to_border(shows, self.volume.grid, self.fine, order=1)
            values[near <= 0] = self.background.value
        return values


def to_thick_scan(
    image: Volume,
    model: Grid,
    spacing: float,
    axis: str | None = None,
    thickness: float | None = None,
    profile: ProfileChoice = "gaussian",
    mask: Volume | None = None,
    in_plane: bool = False,
) -> ThickScan:
    """Find the slices, align the brain, scale.

    A scan whose slices are not stacked at right angles, as with a tilted gantry, is straightened slice by
    slice, so that nothing is interpolated across slices.

    Args:
        image: A scan of thick slices, of any contrast and intensities; its name may tell the contrast.
        model: Grid of the model's volumes, in common space.
        spacing: Of the result [mm].
        axis: axial, coronal or sagittal; None: the header tells.
        thickness: Of a slice [mm]; None: the spacing between slices.
        profile: Of a slice; auto: Gaussian, as wide as the scan tells. Where it does not tell, a VCMWarning
            says so, and a slice is as thick as the spacing.
        mask: Brain of the scan, on its voxels; None: it is found.
        in_plane: Keep the scan's voxels in plane: `spacing` holds across the slices alone.

    Raises:
        VCMError: The scan cannot be upsampled.
    """
    straight = (
        replace(image, affine=straight_grid(image.grid).affine) if image.grid.is_sheared else image
    )
    kind = "gaussian" if profile == "auto" else profile
    acquisition = find_acquisition(straight, axis, thickness, kind)
    lost = find_lost(image, acquisition.axis)
    if lost:
        warnings.warn(_lost_in_words(image, lost), VCMWarning, stacklevel=2)
    found = find_brain(image, mask)
    refuse_label_map(image, found.mask)
    image, brain, black, background = _straight_on_black(image, found.mask)
    make = in_plane_grid if in_plane else isotropic_grid
    fine = make(image.grid, acquisition, spacing)
    width = _width(image, brain, acquisition, fine, lost) if profile == "auto" else None
    if width is not None:
        acquisition = replace(acquisition, profile=SliceProfile("gaussian", width.fwhm))
    image, brain = fill(image, brain, acquisition.axis, lost)
    aligned = align_brain(image, brain, model, any_contrast=True)
    contrast = find_contrast(aligned.image, model, image.source)
    low, high = aligned.intensity_range
    range_ = high - low  # above 0: a brain that is all alike cannot be aligned
    scaled = ((image.data - low) / range_).astype(np.float32)
    rim = _rim(image, brain, acquisition, fine, SHOWN * range_)
    return ThickScan(
        image.with_data(scaled), brain, acquisition, fine, model, aligned.to_common,
        (low + black, high + black), contrast, lost, background, found,
        None if rim is None else ((rim - low) / range_).astype(np.float32), width,
    )  # fmt: skip


def _rim(
    image: Volume, brain: NDArray[np.bool_], acquisition: Acquisition, fine: Grid, shown: float
) -> NDArray[np.float32] | None:
    """The rim of a brain-extracted scan on a background of 0, see `rim_of`; None for any other scan."""
    if (image.data[~brain] > shown).mean() > LEAST_SHOWN:
        return None
    return rim_of(image, brain | (image.data > 0), acquisition, fine)


def _width(
    image: Volume,
    brain: NDArray[np.bool_],
    acquisition: Acquisition,
    fine: Grid,
    lost: Sequence[int],
) -> EstimatedWidth | None:
    """Of the slices, as the scan tells; None, after a warning, where it does not."""
    try:
        return estimate_width(image, brain, acquisition, fine, lost)
    except NoEstimate as error:
        warnings.warn(
            f"{image.source} does not tell how thick its slices are ({error}): they are taken to be as thick as "
            f"they are apart, {acquisition.spacing:.3g} mm; if you know better, give profile gaussian and "
            "slice_thickness.",
            VCMWarning,
            stacklevel=3,
        )
        return None


def _lost_in_words(image: Volume, lost: Sequence[int]) -> str:
    return (
        f"{image.source}: slice {', '.join(map(str, lost))} (counted from 0) is empty, dimmed or a copy of "
        "another, so it is not taken for a measurement: what lies there is generated."
    )


def _straight_on_black(
    image: Volume, brain: NDArray[np.bool_]
) -> tuple[Volume, NDArray[np.bool_], float, Background | None]:
    """The scan on straight voxels and a background of 0.

    Returns:
        It, its brain there, the intensity that is 0 now, and the background that it had.
    """
    nothing = find_background(image.data)
    dark, black = on_black(image, brain, nothing)
    background = None
    if dark is not image:
        there = ~straightened_mask(~nothing, image)
        background = (
            Background(float(np.median(image.data[nothing])), there) if nothing.any() else None
        )
    return straightened(dark, order=3), straightened_mask(brain, image), black, background
