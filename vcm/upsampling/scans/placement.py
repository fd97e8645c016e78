"""Further scans of one head brought to where the first shows it: patients move between scans.

Each is registered to the first. It stays where its header places it unless that explains more of the first, and it is
refused where it shows another head. Knows scans in memory; no files.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VCMError, VCMWarning
from vcm.imaging.extraction import FOUND_BRAIN
from vcm.imaging.geometry import resample
from vcm.imaging.registration import align_to
from vcm.imaging.volume import Grid
from vcm.upsampling.scans.same_head import ShownBrain, agreement, brain_on_slices, likeness
from vcm.upsampling.scans.thick_scan import ThickScan

#: A registration must explain so much more of the first scan's local variance, or the header is believed.
WORTH = 0.01
#: Brains that overlap by less of the smaller one are not registered: two slabs may lie beside each other.
LEAST_OVERLAP = 0.2


def bring_together(scan: ThickScan, others: Sequence[ThickScan]) -> list[ThickScan]:
    """Further scans where the first shows their head.

    A VCMWarning names parts of brains that lie beside the first by their headers: they stay there. Whole brains are
    registered from wherever they lie.

    Args:
        scan: The first.
        others: Of the same head and contrast.

    Raises:
        VCMError: One shows another head, or a mirrored one.
    """
    if not others:
        return []
    fixed = brain_on_slices(scan)
    return [_brought(scan, fixed, other) for other in others]


def _brought(scan: ThickScan, fixed: ShownBrain, other: ThickScan) -> ThickScan:
    brain = brain_on_slices(other)
    beside = _overlap(fixed, brain) < LEAST_OVERLAP
    start = np.eye(4)
    if beside and min(_volume(fixed), _volume(brain)) >= FOUND_BRAIN[0]:
        # One head has no two whole brains: a header is wrong.
        start[:3, 3] = _centre(fixed) - _centre(brain)
    elif beside:
        warnings.warn(
            f"The brain in {other.volume.source} lies beside that in {scan.volume.source} by their headers: it stays "
            "there. Look whether both are of one session.",
            VCMWarning,
            stacklevel=4,
        )
        return other
    motion = align_to(fixed.image, brain.moved(start).image) @ start
    placed = brain.moved(motion)
    believed = not beside and agreement(scan, placed) - agreement(scan, brain) < WORTH
    found = likeness(scan, fixed.image, brain if believed else placed)
    if not found.is_of_one_head:
        raise VCMError(
            f"{other.volume.source} shows another head than {scan.volume.source}, or left and right are exchanged in one "
            f"of them ({found}): give scans of one head."
        )
    return other if believed else moved(other, motion)


def _overlap(one: ShownBrain, other: ShownBrain) -> float:
    """Share of the smaller brain that the other one covers, where their headers place them."""
    there = resample(
        other.image.with_data(other.inside.astype(np.float32)), one.image.grid, order=1
    )
    both = (there > 0.5) & one.inside
    shared = both.sum() * one.image.grid.voxel_volume
    return float(shared / max(min(_volume(one), _volume(other)), 1e-6))


def _volume(brain: ShownBrain) -> float:
    """What is shown of it [mL]."""
    return float(brain.inside.sum() * brain.image.grid.voxel_volume)


def _centre(brain: ShownBrain) -> NDArray[np.float64]:
    """RAS+ [mm] (3,)."""
    centre: NDArray[np.float64] = brain.image.affine @ np.append(
        np.argwhere(brain.inside).mean(0), 1
    )
    return centre[:3]


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
