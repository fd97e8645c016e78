"""What the frozen model is told beside the latent: settled from the user, the condition, the model.

BrainLDM and brain2mm are told four covariates in 0..1; MAISI the voxel spacing [mm] and the class
of the contrast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from vcm.errors import VCMError
from vcm.imaging import covariates
from vcm.imaging.covariates import UNITS
from vcm.imaging.placing import PlacedCondition
from vcm.pipeline import VCMPipeline

VOLUMES = ("ventricular_volume", "brain_volume")


class Wishes(Protocol):
    """What a user may say; None where nothing was said."""

    age: float | None
    sex: str | None
    ventricular_volume: float | None
    brain_volume: float | None
    contrast: str | None
    allow_extrapolation: bool


@dataclass(frozen=True)
class Told:
    """One value, in its unit, and where it comes from: given, condition, population or model."""

    value: float
    source: str


def settle(wishes: Wishes, pipeline: VCMPipeline, place: PlacedCondition) -> dict[str, Told]:
    """Every input of the model, in its order. Raises VCMError for what the model does not take."""
    if "contrast" in pipeline.config.inputs:
        return _flow_inputs(wishes, pipeline, place)
    if wishes.contrast is not None:
        raise VCMError(
            f"--contrast is {wishes.contrast}, but this model knows T1w only: leave it out."
        )
    told = _covariates(wishes, pipeline, place)
    if not wishes.allow_extrapolation:
        covariates.refuse_outside({name: t.value for name, t in told.items()}, pipeline.ranges)
    return told


def as_tensor(told: Mapping[str, Told], pipeline: VCMPipeline) -> Tensor:
    """(1, K) as the denoiser reads it."""
    values = {name: t.value for name, t in told.items()}
    if "contrast" in values:
        return torch.tensor([[values[name] for name in pipeline.config.inputs]])
    return torch.tensor([covariates.to_unit(values, pipeline.ranges)])


def in_words(told: Mapping[str, Told]) -> dict[str, str]:
    """For people: value, unit and source of each input."""
    units = UNITS | {"contrast": "class"}
    return {
        name: f"{t.value:.4g} ({units.get(name, 'mm')}; from {t.source})"
        for name, t in told.items()
    }


def _covariates(wishes: Wishes, pipeline: VCMPipeline, place: PlacedCondition) -> dict[str, Told]:
    """As given; else volumes from the condition; else what is typical of the training population,
    and where that is not known the middle of the trained range."""
    population, ranges = pipeline.config.population, pipeline.ranges
    middle = {n: Told(sum(ranges[n]) / 2, "middle of the range") for n in pipeline.config.inputs}
    sex = covariates.sex_number(wishes.sex)
    told = middle | {"sex": Told(0.0, "population")}
    if sex is not None:
        told["sex"] = Told(sex, "given")
    if "typical_age" in population:
        told["age"] = Told(float(population["typical_age"]), "population")
    if wishes.age is not None:
        told["age"] = Told(wishes.age, "given")
    if "expected_volumes" in population:
        expected = covariates.expected_volumes(
            told["sex"].value, told["age"].value, population["expected_volumes"]
        )
        told |= {name: Told(value, "population") for name, value in expected.items()}
        # Only such a model reads millilitres, which a condition can tell.
        measured = place.volumes
        if measured is not None:
            told |= {
                n: Told(value, "condition") for n, value in zip(VOLUMES, measured, strict=True)
            }
    given: dict[str, Any] = {name: getattr(wishes, name) for name in VOLUMES}
    return told | {name: Told(value, "given") for name, value in given.items() if value is not None}


def _flow_inputs(wishes: Wishes, pipeline: VCMPipeline, place: PlacedCondition) -> dict[str, Told]:
    for name in ("age", "sex", *VOLUMES):
        if getattr(wishes, name) is not None:
            raise VCMError(
                f"--{name.replace('_', '-')} is given, but this model is told spacing and contrast "
                "only: leave it out."
            )
    contrasts: Mapping[str, int] = pipeline.config.population["contrasts"]
    named = wishes.contrast or str(pipeline.config.population["contrast"])
    if named not in contrasts:
        raise VCMError(
            f"--contrast is {named}, which this model does not know: choose {', '.join(contrasts)}."
        )
    axes = ("spacing_x", "spacing_y", "spacing_z")
    told = {n: Told(s, "model") for n, s in zip(axes, place.placement.model.spacing, strict=True)}
    return told | {
        "contrast": Told(float(contrasts[named]), "given" if wishes.contrast else "model")
    }
