"""What a header says about thick slices: axis, spacing, thickness. Knows affines and mm, no values.

A scan of thick slices is coarse along one voxel axis. NIfTI stores the spacing between slice
centres but not the slice thickness: the scanner may leave a gap (thickness below spacing) or let
slices overlap (above), so thickness is given by the user and is the spacing unless said otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from vcm.errors import VCMError
from vcm.imaging.nifti import SPACING_RANGE
from vcm.imaging.volume import Grid, Volume

ProfileKind = Literal["gaussian", "boxcar"]

#: The direction across the slices, by the world axis (x, y, z of RAS+) nearest to it.
SLICE_NAMES = ("sagittal", "coronal", "axial")
#: Thick slices are at least this far apart [mm] ...
THICK_SPACING = 2.0
#: ... and at least this many times as far as the voxels of the coarser in-plane axis.
THICK_RATIO = 1.4
#: Slices thicker than this many spacings are not a plausible overlap.
MOST_OVERLAP = 3.0
#: Most drift [fine voxels] over a scan whose axes still count as parallel to a fine grid's.
PARALLEL_DRIFT = 0.05
#: Headers in single precision store 2 mm as 1.999997 mm.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class SliceProfile:
    """How much each depth contributes to a slice.

    Attributes:
        kind: gaussian, whose full width at half maximum is the thickness, or boxcar, which is as wide.
        thickness: Of the slice [mm].
    """

    kind: ProfileKind
    thickness: float

    def __post_init__(self) -> None:
        """Refuse what is no profile, with VCMError."""
        if self.kind not in get_args(ProfileKind):
            raise VCMError(f"profile '{self.kind}' is unknown: choose gaussian or boxcar.")
        if not (np.isfinite(self.thickness) and self.thickness > 0):
            raise VCMError(
                f"a slice thickness of {self.thickness:g} mm is not possible: give a positive "
                "thickness in millimetres, or leave it out to use the spacing between slices."
            )

    def weights(self, offsets: NDArray[np.float64], width: float) -> NDArray[np.float64]:
        """Share of each fine voxel in a slice; sums to 1 over the last axis.

        `offsets` [mm] are fine voxel centres minus the slice centre, `width` [mm] the fine voxel
        size; the profile is integrated over each fine voxel. A part of the profile that lies
        beyond the fine voxels is left out and the rest scaled to sum 1, as if the mean out there
        were the mean inside. Where no fine voxel meets the profile, all weights are 0.
        """
        parts = self._up_to(offsets + width / 2) - self._up_to(offsets - width / 2)
        total = parts.sum(-1, keepdims=True)
        return parts / np.where(total > 0, total, 1.0)

    def _up_to(self, depth: NDArray[np.float64]) -> NDArray[np.float64]:
        """Integral of the profile from minus infinity to `depth` [mm]."""
        if self.kind == "boxcar":
            return np.clip(depth / self.thickness + 0.5, 0.0, 1.0)
        return np.asarray(ndtr(depth * np.sqrt(8 * np.log(2)) / self.thickness))


@dataclass(frozen=True)
class Acquisition:
    """How a scan was cut.

    Attributes:
        axis: Voxel axis across the slices, 0 to 2.
        name: axial, coronal or sagittal, to whose direction that axis is nearest.
        spacing: From the centre of a slice to that of the next [mm].
        profile: Of a slice.
        in_plane: The other two voxel sizes [mm], in voxel order.
    """

    axis: int
    name: str
    spacing: float
    profile: SliceProfile
    in_plane: tuple[float, float]

    @property
    def thickness(self) -> float:
        """Slice thickness [mm]: a Gaussian's full width at half maximum, a boxcar's width."""
        return self.profile.thickness

    def __str__(self) -> str:
        """In words, for messages and sidecars."""
        u, v = self.in_plane
        return (
            f"{self.name} slices {self.spacing:.3g} mm apart, {self.thickness:.3g} mm thick "
            f"({self.profile.kind}), {u:.3g} x {v:.3g} mm in plane"
        )


def find_acquisition(
    scan: Volume | Grid,
    axis: str | None = None,
    thickness: float | None = None,
    profile: ProfileKind = "gaussian",
) -> Acquisition:
    """Read slice axis and spacings from the affine.

    Args:
        scan: The thick scan, or its grid.
        axis: axial, coronal or sagittal. None: the scan must show its thick slices, one spacing of at
            least 2 mm that is at least 1.4 times each of the others. A name replaces that rule (slices of
            1.5 mm, two coarse axes); then no other axis may be 1.4 times coarser than the named one.
        thickness: Of a slice [mm]; None: the spacing.
        profile: Of a slice.

    Raises:
        VCMError: No thick slices, one slice, axes that are not at right angles, or a thickness that is
            not positive or above three spacings.
    """
    grid = scan if isinstance(scan, Grid) else scan.grid
    source = "the scan" if isinstance(scan, Grid) else scan.source
    names = axis_names(grid, source)
    if axis is None:
        across = _thickest_axis(grid, source)
    else:
        across = _named_axis(grid, names, axis, source)
    spacing = grid.spacing[across]
    if grid.shape[across] < 2:
        raise VCMError(
            f"{source} has {grid.shape[across]} {names[across]} slice, but at least 2 are needed "
            "to fill in what lies between: give the whole stack."
        )
    shape = SliceProfile(profile, spacing if thickness is None else float(thickness))
    if shape.thickness > MOST_OVERLAP * spacing * (1 + _ROUNDING):
        raise VCMError(
            f"a slice thickness of {shape.thickness:g} mm is more than {MOST_OVERLAP:g} times the "
            f"{spacing:.3g} mm between the slices of {source}: give the thickness in millimetres, "
            "or leave it out to use the spacing."
        )
    u, v = (s for k, s in enumerate(grid.spacing) if k != across)
    return Acquisition(across, names[across], spacing, shape, (u, v))


def in_plane_grid(scan: Grid, acquisition: Acquisition, spacing: float = 1.0) -> Grid:
    """The scan's own voxels in plane, and `spacing` [mm] across the slices, about the same centre.

    It covers the scan's field of view as `isotropic_grid` does.

    Args:
        scan: Grid of the thick scan.
        acquisition: How it was cut.
        spacing: Across the slices [mm].

    Raises:
        VCMError: The spacing is not below that of the slices.
    """
    across = acquisition.axis
    fine = isotropic_grid(scan, acquisition, spacing)
    shape, sizes = list(scan.shape), list(scan.spacing)
    shape[across], sizes[across] = fine.shape[across], spacing
    return grid_about((shape[0], shape[1], shape[2]), scan, (sizes[0], sizes[1], sizes[2]))


def isotropic_grid(scan: Grid, acquisition: Acquisition, spacing: float = 1.0) -> Grid:
    """The scan's axes, order and flips with isotropic voxels, about the same centre.

    It covers the scan's field of view, outer voxel border to outer voxel border, to half a fine
    voxel: each axis has round(extent / spacing) voxels, at least 1.

    Args:
        scan: Grid of the thick scan.
        acquisition: How it was cut.
        spacing: Of the result [mm].

    Raises:
        VCMError: The spacing is not below that of the slices.
    """
    low = SPACING_RANGE[0]
    if not low <= spacing < acquisition.spacing:
        raise VCMError(
            f"voxels of {spacing:g} mm do not refine slices {acquisition.spacing:.3g} mm apart: "
            f"give a spacing of at least {low:g} mm and below that of the slices."
        )
    return isotropic_about(scan, spacing)


def isotropic_about(like: Grid, spacing: float) -> Grid:
    """The axes, the centre and, to half a voxel of `spacing` [mm], the field of view of `like`."""
    i, j, k = (
        max(1, round(n * s / spacing)) for n, s in zip(like.shape, like.spacing, strict=True)
    )
    return grid_about((i, j, k), like, (spacing,) * 3)


def grid_about(
    shape: tuple[int, int, int], like: Grid, spacing: tuple[float, float, float]
) -> Grid:
    """A grid with the axes and the centre of `like`, but another shape and `spacing` [mm]."""
    affine = np.eye(4)
    affine[:3, :3] = like.affine[:3, :3] / like.spacing * spacing
    affine[:3, 3] = like.centre - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return Grid(shape, affine)


def axis_names(grid: Grid, source: str = "the scan") -> tuple[str, str, str]:
    """For each voxel axis the name of slices across it; oblique axes take the nearest name.

    Raises VCMError where the axes are not at right angles.
    """
    if grid.is_sheared:
        raise VCMError(
            f"{source} has voxel axes at {np.degrees(np.arccos(min(grid.cosine, 1.0))):.2f} degrees to "
            "each other, but slices are stacked at right angles: use the header as the scanner "
            "wrote it (before an affine registration), or resample to a grid without shear."
        )
    i, j, k = (
        SLICE_NAMES[int(world)] for world in nib.orientations.io_orientation(grid.affine)[:, 0]
    )
    return i, j, k


def parallel_axes(fine: Grid, scan: Grid) -> tuple[int, int, int]:
    """For each scan axis the fine axis it runs along, forward or backward.

    Raises VCMError where the scan is turned against the fine grid.
    """
    (i, j, k), steps, drift = _runs(fine, scan)
    if drift > PARALLEL_DRIFT:
        cosine = (steps / scan.spacing)[[i, j, k], [0, 1, 2]].min()
        raise VCMError(
            f"the scan's voxel axes are turned by {np.degrees(np.arccos(min(cosine, 1.0))):.2f} "
            "degrees against those of the fine grid, but only parallel axes (any order, any "
            "direction) are supported: build the fine grid from this scan, or resample the scan to "
            "parallel axes."
        )
    return i, j, k


def runs_along(fine: Grid, scan: Grid) -> bool:
    """Whether every scan axis runs along a fine axis."""
    return _runs(fine, scan)[2] <= PARALLEL_DRIFT


def _runs(fine: Grid, scan: Grid) -> tuple[tuple[int, int, int], NDArray[np.float64], float]:
    """How a scan runs through a fine grid.

    Returns:
        The fine axis nearest to each scan axis, |steps| [mm] of the latter along fine axes, and how far
        the scan runs aside [fine voxel].
    """
    voxel = np.linalg.inv(fine.affine[:3, :3]) @ scan.affine[:3, :3]  # scan steps -> fine steps
    steps = np.abs(voxel) * np.asarray(fine.spacing)[:, None]
    i, j, k = (int(axis) for axis in steps.argmax(axis=0))
    drift = np.abs(voxel) * scan.shape
    drift[[i, j, k], [0, 1, 2]] = 0
    return (i, j, k), steps, float(drift.max())


def _thickest_axis(grid: Grid, source: str) -> int:
    order = np.argsort(grid.spacing)
    middle, largest = (grid.spacing[k] for k in order[1:])
    voxels = " x ".join(f"{s:.3g}" for s in grid.spacing)
    remedy = "check the header's voxel sizes, or name the slice axis (axial, coronal or sagittal)."
    if largest < THICK_SPACING * (1 - _ROUNDING):
        raise VCMError(
            f"{source} has voxels of {voxels} mm and no thick slices: slices at least "
            f"{THICK_SPACING:g} mm apart are needed; {remedy}"
        )
    if largest < THICK_RATIO * middle * (1 - _ROUNDING):
        raise VCMError(
            f"{source} has voxels of {voxels} mm and no axis that stands out as that of thick "
            f"slices: one {THICK_RATIO:g} times coarser than the other two is needed; {remedy}"
        )
    return int(order[-1])


def _named_axis(grid: Grid, names: tuple[str, str, str], axis: str, source: str) -> int:
    if axis not in SLICE_NAMES:
        raise VCMError(f"slice axis '{axis}' is unknown: choose axial, coronal or sagittal.")
    named, coarsest = names.index(axis), int(np.argmax(grid.spacing))
    if grid.spacing[coarsest] >= THICK_RATIO * grid.spacing[named] * (1 - _ROUNDING):
        raise VCMError(
            f"{source} has {grid.spacing[named]:.3g} mm from one {axis} slice to the next but "
            f"{grid.spacing[coarsest]:.3g} mm from one {names[coarsest]} slice to the next, and "
            f"slices lie along the coarsest axis: name {names[coarsest]}, or correct the header."
        )
    return named
