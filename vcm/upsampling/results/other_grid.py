"""Bring a result to the voxels of another scan, turned against the first or not.

What was added to the interpolation is moved, not the result: what the slices show in their plane stays
as sharp as they have it. Knows grids and the slices; nothing of networks or files.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np

from vcm.errors import VCMError, VCMWarning
from vcm.imaging.acquisition import runs_along
from vcm.imaging.volume import Volume
from vcm.upsampling.detail.consistency import DataConsistency
from vcm.upsampling.results.upsampled import Upsampled
from vcm.upsampling.scans.border import in_view, interpolate_to_border
from vcm.upsampling.scans.space import Image
from vcm.upsampling.scans.thick_scan import ThickScan

#: Voxels along the scan's axes, at most this much larger than the scan's own in plane, are projected onto the
#: slices again: the operator is exact there. On others it is not, and a projection would do harm: 2 dB on
#: turned voxels of 1.5 mm.
AS_FINE = 1.2
#: The voxels of another scan hold at least this share of the brain, or some of it is said to be cut off.
MOST_OF_BRAIN = 0.95


def refuse_grid(like: Volume, scan: ThickScan) -> None:
    """Raise VCMError for voxels that the result cannot have."""
    if like.grid.is_sheared:
        raise VCMError(
            f"the voxel axes of {like.source} are not at right angles, so a result cannot lie on them: "
            "give a scan whose axes are, or none."
        )
    coarsest, slices = max(like.grid.spacing), scan.acquisition.spacing
    if coarsest >= slices:
        raise VCMError(
            f"{like.source} has voxels of {coarsest:.3g} mm, which do not refine slices {slices:.3g} mm "
            "apart: give a scan of smaller voxels, or none."
        )
    if not in_view(scan.volume.grid, like.grid).any():
        raise VCMError(
            f"{like.source} shows nothing of what {scan.volume.source} shows: give a scan that lies in the "
            "same place, or register it to that scan first."
        )


def warn_of_cut(like: Volume, scan: ThickScan) -> None:
    """Say with a VCMWarning that the voxels of another scan leave out a part of the brain."""
    inside = in_view(like.grid, scan.volume.grid)[scan.brain]
    if inside.mean() < MOST_OF_BRAIN:
        warnings.warn(
            f"{like.source} holds {100 * inside.mean():.0f} % of the brain of {scan.volume.source}, and the result "
            "lacks the rest: look whether both lie in the same place, or register one to the other first.",
            VCMWarning,
            stacklevel=3,
        )


def on_grid_of(result: Upsampled, like: Volume, noise: float | None) -> Upsampled:
    """The result on the voxels of another scan; beyond its own field of view it shows nothing.

    Args:
        result: On a grid of its own.
        like: Whose voxels are wanted, in the same world.
        noise: Of the projection onto the slices that ends it where the voxels run along the scan's and are
            as fine, see DataConsistency; None: no projection.

    Raises:
        VCMError: The two scans do not meet, or the voxels are no finer than the slices.
    """
    own = result.scan
    refuse_grid(like, own)
    scan = replace(own, fine=like.grid)
    measured = DataConsistency(scan, noise=noise) if noise and _is_exact(scan) else None
    view = in_view(own.volume.grid, like.grid)
    darkest = float(own.volume.data.min())
    begins, begun_here = own.interpolated(), scan.interpolated()

    def moved(image: Image, order: int = 3) -> Image:
        return interpolate_to_border(image, own.fine, like.grid, order)

    def placed(image: Image) -> Image:
        begun = begun_here + moved(image - begins)
        ended = begun if measured is None else measured.project(begun)
        return np.where(view, ended, darkest).astype(np.float32)

    def masked(image: Image) -> Image:
        return np.where(view, np.maximum(moved(image, 1), 0), 0).astype(np.float32)

    mean = placed(result.mean)
    each = [[placed(image) for image in images] for images in (result.samples, result.unprojected)]
    samples, unprojected = (
        np.stack(v) if v else np.empty((0, *like.grid.shape), np.float32) for v in each
    )
    return replace(
        result, scan=scan, mean=mean, std=None if result.std is None else masked(result.std),
        expected=placed(result.expected), samples=samples, unprojected=unprojected,
        cubic=np.where(view, scan.as_it_came(), darkest).astype(np.float32),
        generated_share=masked(result.generated_share), like=like,
    )  # fmt: skip


def _is_exact(scan: ThickScan) -> bool:
    """Whether what the slices measure is told exactly by an image on its fine grid."""
    if not runs_along(scan.fine, scan.volume.grid):
        return False
    own = [s for k, s in enumerate(scan.volume.grid.spacing) if k != scan.acquisition.axis]
    return max(scan.fine.spacing) <= AS_FINE * min(own)
