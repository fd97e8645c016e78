"""A scan of another contrast and finer slices as the guide of a result: its edges, where the result follows them.

The guide is cut into the slices of the scan and upsampled like it, so that what is lost on the way is known of the
guide, and a regression in every neighbourhood says how much of that the scan shows too. The projection onto the
slices has the last word. Knows images in memory; no files.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vcm.nets.detail import DetailNet
from vcm.upsampling.detail.consistency import DataConsistency, Projection
from vcm.upsampling.detail.head_detail import add_head_detail
from vcm.upsampling.detail.local_detail import add_detail
from vcm.upsampling.results.upsampled import Upsampled
from vcm.upsampling.scans.lost_slices import fill
from vcm.upsampling.scans.placed_guide import Guide

#: Neighbourhood that tells how far the scan follows the guide [mm], chosen on two brains (docs/study/any_contrast.md).
WINDOW = 2.0
#: Power of the share of variance that the guide explains there, see `add_detail`: with 0 a FLAIR takes 0.5 dB from a T2w.
CAUTION = 1.0


def follow(
    result: Upsampled,
    guide: Guide,
    net: DetailNet | None,
    projection: Projection,
) -> Upsampled:
    """A result with what the guide shows of it.

    Args:
        result: On the fine grid of its scan, consistent with its slices.
        guide: In the same place.
        net: A network for any contrast, which upsamples the guide's slices; None: they are interpolated.
        projection: Onto the slices.

    Returns:
        The same with another mean and residual. Its stated error is that of the result without the guide.
    """
    scan = result.scan
    whole = replace(scan, lost=())
    cut = scan.volume.with_data(whole.degradation.degrade(guide.image).astype(np.float32))
    cut, _ = fill(cut, scan.brain, scan.acquisition.axis, scan.lost)
    thick = replace(scan, volume=cut, rim=None, background=None)
    if net is None:
        smooth = DataConsistency(thick, noise=projection.noise).interpolated
    else:
        end = (projection.noise, projection.detail_noise, projection.mirrors)
        smooth, _, _ = add_head_detail(thick, net, *end)
    spacing = scan.fine.spacing
    added = add_detail(result.mean, guide.image, smooth, guide.seen, spacing, WINDOW, CAUTION)
    measured = DataConsistency(scan, result.others, projection.detail_noise)
    mean = measured.project(added)
    residual = result.residual | {"after": measured.residual(mean)}
    return replace(result, mean=mean, residual=residual, guide=guide)
