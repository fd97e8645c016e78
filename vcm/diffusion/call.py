"""What a call may ask of a sampler: values in their ranges, seeds, and numbers that agree."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Generator, Tensor

from vcm.errors import VCMError

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped


#: Covariates are 0..1 over the trained range; one this far off is not scaled.
MOST_SCALED = 10.0


def check_values(
    output_type: str,
    steps: int,
    most_steps: int,
    temperature: float | None,
    scale: float,
    window: tuple[float, float],
) -> None:
    """Raise VCMError for a value of a call that lies outside its range."""
    if output_type not in ("pt", "np", "latent"):
        raise VCMError(f"output_type is '{output_type}': choose pt, np or latent.")
    if not 1 <= steps <= most_steps:
        raise VCMError(f"{steps} steps: the model has {most_steps}, choose 1 to {most_steps}.")
    if temperature is not None and not 0 <= temperature <= 2:
        raise VCMError(f"temperature is {temperature}: choose 0 to 2; 1 is plain noise.")
    if not math.isfinite(scale):
        raise VCMError(f"conditioning_scale is {scale}: choose a number.")
    if not 0 <= window[0] <= window[1] <= 1:
        raise VCMError(
            f"The module is to act from {window[0]:g} to {window[1]:g} of the steps: choose fractions "
            "with 0 <= start <= end <= 1."
        )


def check_rows(covariates: Tensor, expected: int, scaled: bool = False) -> None:
    """Raise VCMError where covariates are not (1 or B, expected) or, of a model that scales them, in their units."""
    if covariates.ndim != 2 or covariates.shape[1] != expected or not len(covariates):
        raise VCMError(
            f"covariates has shape {tuple(covariates.shape)}: give (1 or B, {expected}) values in the "
            "order of `inputs`."
        )
    largest = float(covariates.abs().max())
    if scaled and largest > MOST_SCALED:
        raise VCMError(
            f"covariates hold {largest:g}, but this model reads them scaled to 0..1 over its trained ranges: scale them, "
            "or give age, sex and so on by name."
        )


def as_seeds(seed: Any) -> int | list[int] | None:
    """A seed, or one per volume, as plain whole numbers of Python or numpy give them. Raises VCMError for others."""
    if seed is None:
        return None
    try:
        if np.ndim(seed) == 0:
            return operator.index(seed)
        return [operator.index(s) for s in seed]
    except TypeError as error:
        raise VCMError(f"seed is {seed!r}: give a whole number, or one for each volume.") from error


def seeded(
    seed: int | list[int] | None,
    generator: Generator | list[Generator] | None,
    latents: Float[Tensor, "B C x y z"] | None,
    count: int,
) -> tuple[list[int] | None, Generator | list[Generator] | None]:
    """(seeds, generators); where no noise is given in any way, a seed is drawn by torch."""
    if generator is not None or latents is not None:
        if seed is not None:
            raise VCMError("seed is given, and generator or latents too: give one of them.")
        return None, generator
    if seed is None:
        seed = int(torch.randint(2**31, (1,)))
    if isinstance(seed, int):
        seed = list(range(seed, seed + count))
    return seed, [torch.Generator().manual_seed(s) for s in seed]


def count_volumes(
    asked: int | None,
    seed: int | list[int] | None,
    generator: Generator | list[Generator] | None,
    latents: Float[Tensor, "B C x y z"] | None,
    covariates: Float[Tensor, "_ K"],
    conditions: Sequence[Shaped[Tensor, "_ _ X Y Z"] | None] | None,
    features: Float[Tensor, "_ F u v w"] | None,
) -> int:
    """How many volumes; one row of covariates, conditions or features serves all of them."""
    given = {
        "num_volumes": asked,
        "seed": len(seed) if isinstance(seed, list) else None,
        "generator": len(generator) if isinstance(generator, list) else None,
        "latents": None if latents is None else len(latents),
        "covariates": len(covariates) if len(covariates) > 1 else None,
        "features": len(features) if features is not None and len(features) > 1 else None,
    }
    for k, condition in enumerate(conditions or []):
        if condition is not None and len(condition) > 1:
            given[f"condition {k}"] = len(condition)
    counts = {name: n for name, n in given.items() if n is not None}
    if len(set(counts.values())) > 1:
        raise VCMError(f"The numbers of volumes disagree ({counts}): give one number throughout.")
    count = next(iter(counts.values()), 1)
    if count < 1:
        raise VCMError(f"{next(iter(counts))} asks for {count} volumes: ask for at least 1.")
    return count
