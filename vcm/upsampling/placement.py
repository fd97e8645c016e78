"""Further scans of one head brought to where the first shows it: patients move between scans.

Each is registered to the first. It stays where its header places it unless that explains more of the first, and it is
refused where it shows another head. Knows scans in memory; no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VCMError
from vcm.imaging.registration import align_to
from vcm.imaging.volume import Grid, Volume
from vcm.upsampling.same_head import Brain, agreement, brain_on_slices, likeness
from vcm.upsampling.thick_scan import ThickScan

#: A registration must explain so much more of the first scan's local variance, or the header is believed.
WORTH = 0.01


def bring_together(scan: ThickScan, others: Sequence[ThickScan]) -> list[ThickScan]:
    """Further scans where the first shows their head.

    Args:
        scan: The first.
        others: Of the same head and contrast, near it by their headers.

    Raises:
        VCMError: One shows another head, or a mirrored one.
    """
    fixed = brain_on_slices(scan).image if others else None
    return [_brought(scan, fixed, other) for other in others if fixed is not None]


def _brought(scan: ThickScan, fixed: Volume, other: ThickScan) -> ThickScan:
    brain = brain_on_slices(other)
    motion = _motion(scan, fixed, brain)
    found = likeness(scan, fixed, brain if motion is None else brain.moved(motion))
    if not found.is_of_one_head:
        raise VCMError(
            f"{other.volume.source} shows another head than {scan.volume.source}, or left and right are exchanged in one "
            f"of them ({found}): give scans of one head."
        )
    return other if motion is None else moved(other, motion)


def _motion(scan: ThickScan, fixed: Volume, brain: Brain) -> NDArray[np.float64] | None:
    """(4, 4) rigid, that explains more than the header does; None: there is none."""
    try:
        motion = align_to(fixed, brain.image)
    except RuntimeError:  # of SimpleITK: the two do not overlap
        return None
    gain = agreement(scan, brain.moved(motion)) - agreement(scan, brain)
    return motion if gain > WORTH else None


def moved(scan: ThickScan, motion: NDArray[np.float64]) -> ThickScan:
    """A scan with its grids elsewhere, by a rigid motion (4, 4) of its world, RAS+ [mm]."""
    volume = replace(scan.volume, affine=motion @ scan.volume.affine)
    return replace(
        scan,
        volume=volume,
        fine=Grid(scan.fine.shape, motion @ scan.fine.affine),
        to_common=scan.to_common @ np.linalg.inv(motion),
        motion=motion,
    )


def distance(scan: ThickScan) -> float:
    """How far a scan was brought, the mean over its brain [mm]; 0: it lies where its header says."""
    if scan.motion is None:
        return 0.0
    voxels = np.argwhere(scan.brain)
    there = np.c_[voxels, np.ones(len(voxels))] @ scan.volume.affine.T
    back = there @ np.linalg.inv(scan.motion).T
    return float(np.linalg.norm((there - back)[:, :3], axis=1).mean())
