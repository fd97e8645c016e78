"""What can be refused of the settings of `vcm upsample` before a scan is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vcm.errors import VCMError
from vcm.pipeline import VCMPipeline
from vcm.precision import check_precision
from vcm.upsampling.configuration import Upsampling
from vcm.upsampling.scans.profile import check_profile

#: Seeds are whole numbers below this.
MOST_SEED = 2**63


def how_many_samples(asked: int | None, pipeline: VCMPipeline, consistency: bool) -> int:
    """As asked; else 1 where the model's detail network states the error, and 4 where their spread is all there is."""
    if asked is not None:
        return asked
    return 1 if pipeline.detail is not None and consistency else 4


def check_settings(
    profile: str,
    slice_thickness: float | None,
    samples: int,
    steps: int,
    seed: int,
    noise: float,
    detail_noise: float,
    precision: str,
) -> None:
    """Refuse with VCMError what makes no sense for any scan. Arguments as `upsample` has them."""
    check_profile(profile, slice_thickness)
    for name, value, least in (("samples", samples, 0), ("steps", steps, 1)):
        if value < least:
            raise VCMError(f"{name} is {value}: choose a whole number from {least}.")
    if not 0 <= seed < MOST_SEED - samples:
        raise VCMError(f"seed is {seed}: choose a whole number from 0, below 2^63 - samples.")
    for name, ratio, usual in (("noise", noise, 0.1), ("detail_noise", detail_noise, 0.5)):
        if not 0 < ratio < np.inf:
            raise VCMError(f"{name} is {ratio}: choose a number above 0, such as {usual}.")
    check_precision(precision)


def refuse_mismatched(scans: Sequence[Any], masks: Sequence[Any]) -> None:
    """Raise VCMError where there is no scan, or where masks are given that are not one for each."""
    if not scans:
        raise VCMError("No scan is given: add a scan of thick slices.")
    if masks and len(masks) != len(scans):
        raise VCMError(
            f"{len(masks)} masks are given for {len(scans)} scans: give one for each, in the same "
            "order, or none, and the brains are found."
        )


def refuse_guide(config: Upsampling) -> None:
    """Raise VCMError where a guide is given beside a setting that it contradicts."""
    if config.guide is None:
        return
    if not config.consistency:
        raise VCMError(
            "guide sharpens a result that agrees with its slices, and consistency is false: leave one of the two out.",
            argument="guide",
        )
    if config.output == "sample":
        raise VCMError(
            "guide sharpens the expected brain, and output is sample: choose output mean, or leave guide out.",
            argument="guide",
        )


def refuse_whole_head(whole_head: bool, scans: int, detail: bool, consistency: bool) -> None:
    """Raise VCMError where detail outside the brain is asked for, and another setting keeps it away.

    Args:
        whole_head: Whether it is asked for.
        scans: How many scans of the head are given.
        detail: Whether there is a network that adds it.
        consistency: Whether results are projected onto the slices.
    """
    if not whole_head:
        return
    why, remedy = "", "leave whole_head out"
    if scans > 1:
        why, remedy = f"{scans} scans are given", f"{remedy}, or give one scan"
    elif not detail:
        why, remedy = "detail is none", f"{remedy}, or name a detail network, such as heads1mm"
    elif not consistency:
        why, remedy = "consistency is false", f"{remedy}, or leave consistency as it is"
    if why:
        raise VCMError(
            "whole_head lets the detail network add the detail outside the brain of one scan that agrees with its "
            f"slices, and {why}: {remedy}.",
            argument="whole_head",
        )


def refuse_several(scans: int, consistency: bool) -> None:
    """Raise VCMError for several scans that nothing brings together: the projection does, and without it one is read.

    Args:
        scans: How many scans of the head are given.
        consistency: Whether results are projected onto the slices.
    """
    if scans > 1 and not consistency:
        raise VCMError(
            f"{scans} scans are given, and consistency is false: the projection onto the slices is what combines them, "
            "and all but the first would have no part in the result. Leave consistency as it is, or give one scan.",
            argument="consistency",
        )


def refuse_output(output: str, samples: int, whole_head: bool = False) -> None:
    """Raise VCMError for a kind of result that is unknown, not made, or without what is asked for beside it.

    Args:
        output: mean or sample.
        samples: How many are drawn.
        whole_head: Whether detail outside the brain is asked for, which samples have none of.
    """
    if output not in ("mean", "sample"):
        raise VCMError(f"output is {output}: choose mean or sample.")
    if output == "sample" and not samples:
        raise VCMError("output is sample and samples is 0: draw at least 1.")
    if output == "sample" and whole_head:
        raise VCMError(
            "whole_head adds detail to the expected brain's head, and output is sample, which is interpolated outside "
            "the brain: choose output mean, or leave whole_head out.",
            argument="whole_head",
        )
