"""Scans whose contrast the frozen model does not know: their slices alone, and a network that knows no contrast.

Knows the slices, their degradation and the network of vcm.upsampling.pretraining.contrast_training; nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vcm.errors import VCMError
from vcm.imaging.contrast import T1W
from vcm.nets.detail import DetailNet
from vcm.upsampling.detail.consistency import DataConsistency, Projection
from vcm.upsampling.detail.head_detail import add_head_detail
from vcm.upsampling.detail.several import DetailedScan, combine
from vcm.upsampling.detail.widen import widen_at_rim, widen_over_lost
from vcm.upsampling.results.upsampled import OF_DETAIL, OF_NO_MODEL, Upsampled
from vcm.upsampling.scans.space import ResultSpace
from vcm.upsampling.scans.thick_scan import ThickScan


def upsample_without_model(
    scan: ThickScan,
    others: Sequence[ThickScan],
    net: DetailNet | None,
    projection: Projection,
) -> Upsampled:
    """Cubic interpolation projected onto the slices, or the detail of a network if one is given.

    Args:
        scan: Of any contrast.
        others: Further scans of the same head and contrast.
        net: Trained on any contrast; None: none.
        projection: Onto the slices.
    """
    space = ResultSpace(scan)
    noise, detail_noise = projection.noise, projection.detail_noise
    measured = DataConsistency(scan, tuple(others), detail_noise)
    image = expected = measured.project(space.cubic) if projection.consistency else space.cubic
    std, generated, what = None, np.zeros(scan.fine.shape, np.float32), OF_NO_MODEL
    if net is not None and projection.consistency:
        each = [
            DetailedScan(one, *add_head_detail(one, net, noise, detail_noise, projection.mirrors))
            for one in (scan, *others)
        ]
        made = combine(each, noise) if others else each[0]
        image, generated = made.image, made.share
        std = made.std if others else widen_at_rim(made.std, scan)
        std, what = widen_over_lost(std, scan), OF_DETAIL
    none = np.empty((0, *scan.fine.shape), np.float32)
    before = measured.residual(space.as_it_came)
    residual = {"cubic": before, "before": before, "after": measured.residual(image)}
    return Upsampled(
        scan, {}, image, std, what, expected, none, none, space.as_it_came, generated, residual,
        others=tuple(others),
    )  # fmt: skip


def in_words(
    scan: ThickScan, with_network: bool, consistency: bool = True, idle: Sequence[str] = ()
) -> str:
    """What is done with a scan that the model does not know, and why.

    Args:
        scan: That the model does not know.
        with_network: A network adds detail.
        consistency: The result is projected onto the slices.
        idle: What the user chose for the model, such as "age=40", and what has no effect therefore.
    """
    contrast, source = scan.contrast, scan.volume.source
    if contrast.name in T1W:
        what = f"is named {contrast.name} but does not look T1-weighted"
    else:
        what = f"is {contrast.name} by its {contrast.method}"
    if not consistency:
        done = (
            "the result is interpolated, without detail from any network, as consistency is false"
        )
    elif with_network:
        done = "its detail comes from a network that knows no contrast"
    else:
        done = "the result is interpolated and made consistent with the slices, without detail from the model"
    said = f"{source} {what} ({contrast.evidence}), and the model knows T1w only: {done}."
    if idle:
        said += f" So this has no effect here: {', '.join(idle)}."
    return said


def refuse_other_contrasts(scans: Sequence[ThickScan]) -> None:
    """Raise VCMError for scans of several contrasts: they do not measure one image."""
    first = scans[0]
    for other in scans[1:]:
        same = other.contrast.name == first.contrast.name
        if not same or other.contrast.is_t1w != first.contrast.is_t1w:
            raise VCMError(
                f"{other.volume.source} is {other.contrast.name} by its {other.contrast.method}, and "
                f"{first.volume.source} {first.contrast.name} by its {first.contrast.method}: give scans of "
                "one contrast, each contrast in a command of its own."
            )


def in_doubt(scan: ThickScan) -> str:
    """What is said of a scan that is T1w by its intensities, and not by much."""
    return (
        f"{scan.volume.source} is taken for T1w by its intensities alone ({scan.contrast.evidence}): if it is "
        "another contrast, let its file name say so, such as sub-1_FLAIR.nii.gz."
    )
