"""Where a scan of finer slices, of any contrast, lies beside a thick one, and whether it shows the same head.

Knows scans in memory; nothing of results. What it shows of a result is in `vcm.upsampling.guide`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VCMError
from vcm.imaging.background import on_black
from vcm.imaging.brain import range_in_brain, refuse_unfit
from vcm.imaging.extraction import find_brain
from vcm.imaging.geometry import resample
from vcm.imaging.registration import align_to
from vcm.imaging.volume import Volume
from vcm.upsampling.scans.same_head import Likeness, ShownBrain, brain_on_slices, likeness
from vcm.upsampling.scans.space import Image, ResultSpace
from vcm.upsampling.scans.thick_scan import ThickScan

#: The least overlap (Dice) of the two brains after the registration.
LEAST_OVERLAP = 0.85
#: A guide is finer than the scan across its slices by this factor at least.
FINER = 1.5


@dataclass(frozen=True)
class Guide:
    """A guide in the place of a scan.

    Attributes:
        source: Name of its file.
        image: (X, Y, Z) on the fine grid of the scan, 0..1 in its brain.
        seen: (X, Y, Z) where its brain and that of the scan are.
        to_scan: (4, 4) rigid, its world -> that of the scan, RAS+ [mm].
        overlap: Dice of the two brains.
        likeness: How well the slices of the scan follow it.
    """

    source: str
    image: Image
    seen: NDArray[np.bool_]
    to_scan: NDArray[np.float64]
    overlap: float
    likeness: Likeness


def place_guide(volume: Volume, scan: ThickScan) -> Guide:
    """Find where a guide lies, and refuse one of another head.

    Args:
        volume: Of the head of the scan, in any contrast, with the skull or without.
        scan: It.

    Raises:
        VCMError: It is no finer than the scan, shows no brain, or that of another head or place.
    """
    guide = find_guide(volume, scan)
    if guide.overlap < LEAST_OVERLAP:
        raise VCMError(
            f"The brain of {volume.source} overlaps that of {scan.volume.source} by {guide.overlap:.2f} (Dice) where "
            f"the best rigid motion puts it, expected at least {LEAST_OVERLAP:g}: give a guide of the same head, near "
            "the same place.",
            argument="guide",
        )
    if not guide.likeness.is_of_one_head:
        raise VCMError(
            f"{volume.source} shows another head than {scan.volume.source}, or left and right are exchanged in one of "
            f"them ({guide.likeness}): give a guide of the same head.",
            argument="guide",
        )
    return guide


def find_guide(volume: Volume, scan: ThickScan) -> Guide:
    """Find where a guide lies, whosever head it shows; otherwise as `place_guide`."""
    _refuse_coarse(volume, scan)
    found = find_brain(volume).mask
    refuse_unfit(volume, found)
    brain = ShownBrain(_scaled(volume, found), found)
    fixed = brain_on_slices(scan).image
    try:
        motion = align_to(fixed, brain.image)
    except RuntimeError as error:  # of SimpleITK: the two do not overlap
        raise VCMError(
            f"{volume.source} and {scan.volume.source} cannot be registered: their headers place them too far apart. "
            "Give a guide of the same session, or register it first.",
            argument="guide",
        ) from error
    moved = brain.moved(motion)
    there = moved.image.with_data(found.astype(np.float32))
    inside = resample(there, scan.fine, order=1) > 0.5
    share = ResultSpace(scan).share_of_brain > 0.5
    overlap = float(2 * (inside & share).sum() / max(inside.sum() + share.sum(), 1))
    image = resample(moved.image, scan.fine, order=3)
    found_alike = likeness(scan, fixed, moved)
    return Guide(volume.source, image, inside & share, motion, overlap, found_alike)


def _scaled(volume: Volume, found: NDArray[np.bool_]) -> Volume:
    """Its brain, 0..1 but for the outermost percentiles, on 0."""
    shown, _ = on_black(volume, found)
    low, high = range_in_brain(shown.data, found, source=volume.source)
    scaled = (shown.data - low) / (high - low)
    return shown.with_data(np.where(found, scaled, 0).astype(np.float32))


def _refuse_coarse(volume: Volume, scan: ThickScan) -> None:
    across = scan.volume.affine[:3, scan.acquisition.axis]
    direction = across / np.linalg.norm(across)
    # Its voxel size along the direction of the scan's slices.
    size = float(np.abs(np.linalg.inv(volume.affine[:3, :3]) @ direction).max()) ** -1
    if size * FINER > scan.acquisition.spacing:
        raise VCMError(
            f"{volume.source} has voxels of {size:.2g} mm across the slices of {scan.volume.source}, which are "
            f"{scan.acquisition.spacing:.2g} mm apart: give a guide that is finer there, such as a scan of 1 mm.",
            argument="guide",
        )
