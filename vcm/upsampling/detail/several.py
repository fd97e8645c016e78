"""Several thick scans of one head: the detail of each, averaged, and projected onto all of them.

A network for detail knows slices of one direction. So each scan gets its own, on its own grid, and what the
network guesses wrong in one is measured by another. Knows images and grids; nothing of networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vcm.upsampling.detail.consistency import DataConsistency, scale_between
from vcm.upsampling.scans.border import in_view, interpolate_to_border
from vcm.upsampling.scans.space import Image
from vcm.upsampling.scans.thick_scan import ThickScan

#: Errors below this are the fade of an interpolation to where no network took part.
LEAST_STD = 1e-3


@dataclass(frozen=True)
class DetailedScan:
    """One scan with its detail, on its own fine grid, scaled as it is.

    Attributes:
        scan: It.
        image: (X, Y, Z).
        std: Of its error, 0 where no network took part.
        share: Share of each voxel that a network made, 0..1.
    """

    scan: ThickScan
    image: Image
    std: Image
    share: Image


def combine(each: Sequence[DetailedScan], noise: float) -> DetailedScan:
    """One image of several scans, on the grid and in the scale of the first.

    Args:
        each: At least one.
        noise: Of the projection onto all of them, see DataConsistency.

    Returns:
        The projected mean; where several scans state an error, that of their weighted mean as if the errors
        were independent, which the projection makes smaller still.
    """
    scan = each[0].scan
    total, views, precision, share = (np.zeros(scan.fine.shape, np.float32) for _ in range(4))
    for one in each:
        own, seen = one.scan, in_view(one.scan.volume.grid, scan.fine)
        gain, offset = scale_between(scan, own)
        image, std, made = (
            interpolate_to_border(v, own.fine, scan.fine, order)
            for v, order in ((one.image, 3), (one.std, 1), (one.share, 1))
        )
        total += np.where(seen, gain * image + offset, 0)
        views += seen
        stated = seen & (std > LEAST_STD)
        precision[stated] += 1 / (gain * std[stated]) ** 2
        share = np.maximum(share, np.where(seen, made, 0))
    mean = (total / np.maximum(views, 1)).astype(np.float32)
    std = np.where(precision > 0, 1 / np.sqrt(np.maximum(precision, 1e-12)), 0).astype(np.float32)
    measured = DataConsistency(scan, tuple(one.scan for one in each[1:]), noise)
    return DetailedScan(scan, measured.project(mean), std, share)
