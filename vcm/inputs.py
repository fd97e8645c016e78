"""What a frozen model is told beside the latent, whoever asks: a user, a training scan, a test subject.

Knows three families. brain2mm and its kin read sex, age and two volumes in millilitres; BrainLDM the
same four, but what its volumes mean in millilitres was never published, so they stay in the middle
of their range; MAISI reads the voxel spacing and the class of the contrast. Knows nothing of
networks, files or how a condition was read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch
from torch import Tensor

from vcm.errors import VCMError
from vcm.imaging import covariates
from vcm.imaging.covariates import COVARIATES, UNITS, Ranges

if TYPE_CHECKING:
    from vcm.imaging.prepared_set import Subject

#: The covariates that a label map determines [mL].
VOLUMES = ("ventricular_volume", "brain_volume")
SPACINGS = ("spacing_x", "spacing_y", "spacing_z")

#: What becomes of a covariate outside the range seen in training.
Outside = Literal["refuse", "keep", "clamp"]

GIVEN = "given"
SEX_ASSUMED = "not given, taken as F"


@dataclass(frozen=True)
class InputRequest:
    """What is said of one volume; None where nothing is said.

    Attributes:
        age: In years.
        sex: F or M.
        ventricular_volume: In mL; for BrainLDM 0..1.
        brain_volume: Without ventricles and CSF, in mL; for BrainLDM 0..1.
        contrast: By name, for models that make several.
    """

    age: float | None = None
    sex: str | None = None
    ventricular_volume: float | None = None
    brain_volume: float | None = None
    contrast: str | None = None


@dataclass(frozen=True)
class ModelInput:
    """One input of a model.

    Attributes:
        value: In its unit: years, mL, mm, or 0 (F) and 1 (M).
        source: Where it comes from, in words: "given", "condition", "population", "model" and so on.
    """

    value: float
    source: str


@dataclass(frozen=True)
class InputRule:
    """What one frozen model is told, and what it assumes where nothing is said.

    Attributes:
        names: Its inputs, in the order of the denoiser.
        ranges: Least and greatest value of each covariate in training, in its unit.
        population: "typical_age" [years] and "expected_volumes" of the training subjects; for
            models that make several contrasts "contrasts" (name -> class) and "contrast".
        spacing: Of the model's voxels along x, y, z [mm].
    """

    names: tuple[str, ...] = COVARIATES
    ranges: Ranges = field(default_factory=dict)
    population: Mapping[str, Any] = field(default_factory=dict)
    spacing: tuple[float, ...] = ()

    @property
    def reads_contrast(self) -> bool:
        """Whether it is told spacing and contrast instead of covariates."""
        return "contrast" in self.names

    @property
    def reads_millilitres(self) -> bool:
        """Whether its two volumes mean millilitres, which a label map can tell."""
        return not self.reads_contrast and "expected_volumes" in self.population

    @property
    def needs(self) -> tuple[str, ...]:
        """The covariates that a training scan must have."""
        if self.reads_contrast:
            return ()
        return COVARIATES if self.reads_millilitres else ("sex", "age")


def as_outside(name: str) -> Outside:
    """What becomes of covariates outside the trained range, by its name. Raises VCMError for an unknown one."""
    for known in get_args(Outside):
        if name == known:
            return cast(Outside, known)
    raise VCMError(f"outside is '{name}': choose {', '.join(get_args(Outside))}.")


def resolve_inputs(
    rule: InputRule,
    request: InputRequest,
    measured: tuple[float, float] | None = None,
    outside: Outside = "refuse",
) -> dict[str, ModelInput]:
    """Every input of the model, in its order.

    A covariate is what is given, else what the condition determines, else what is typical of the
    training population, and where that is unknown the middle of the trained range. An unstated sex
    is F, and its source says so.

    Args:
        rule: Of the model.
        request: What is said.
        measured: (ventricular, brain) volume of the condition [mL], if it determines them.
        outside: Refuse a covariate outside the trained range, keep it, or clamp it and say so.

    Returns:
        Value and source of each input, by its name.

    Raises:
        VCMError: For a value that the model does not take.
    """
    if rule.reads_contrast:
        return _spacing_and_contrast(rule, request)
    if request.contrast is not None:
        raise VCMError(
            f"contrast is {request.contrast}, but this model knows T1w only: leave it out."
        )
    if not rule.ranges:
        raise VCMError(
            "The model has no covariate ranges, so it cannot scale any: pass covariates."
        )
    found = _covariates(rule, request, measured)
    if outside == "clamp":
        return {name: _clamped(name, given, rule.ranges[name]) for name, given in found.items()}
    if outside == "refuse":
        covariates.refuse_outside({n: given.value for n, given in found.items()}, rule.ranges)
    return found


def as_numbers(rule: InputRule, inputs: Mapping[str, ModelInput]) -> list[float]:
    """The K numbers that the denoiser reads: covariates 0..1 by the trained ranges; spacing [mm], class."""
    values = {name: given.value for name, given in inputs.items()}
    if rule.reads_contrast:
        return [values[name] for name in rule.names]
    return covariates.to_unit(values, rule.ranges)


def network_inputs(rule: InputRule, inputs: Mapping[str, ModelInput]) -> Tensor:
    """The same as a tensor (1, K)."""
    return torch.tensor([as_numbers(rule, inputs)])


def scan_request(rule: InputRule, subject: Subject) -> InputRequest:
    """What a prepared scan says to this model: of its covariates, those that the model reads."""
    return InputRequest(**{name: getattr(subject, name) for name in rule.needs})


def scan_inputs(rule: InputRule, subject: Subject, volume_factor: float = 1.0) -> list[float]:
    """The K numbers that the denoiser reads of a training scan.

    Args:
        rule: Of the model.
        subject: Has every covariate in `rule.needs`.
        volume_factor: Growth of a moved copy, > 0. Millilitres grow along, also beyond the range.
    """
    request = scan_request(rule, subject)
    grown = {n: v * volume_factor for n in VOLUMES if (v := getattr(request, n)) is not None}
    # What is out of range in millilitres is so by its motion; an age is not.
    outside: Outside = "keep" if rule.reads_millilitres else "clamp"
    return as_numbers(rule, resolve_inputs(rule, replace(request, **grown), outside=outside))


def with_complete_covariates(subjects: Sequence[Subject], needs: Sequence[str]) -> list[Subject]:
    """Scans that have every covariate in `needs`. Raises VCMError if there are none."""
    complete = [s for s in subjects if all(getattr(s, name) is not None for name in needs)]
    if not complete:
        raise VCMError(
            f"None of the {len(subjects)} subjects has {', '.join(needs)}: complete "
            "participants.tsv of the source folder (and give label maps, or a segmenter), then "
            "prepare it again."
        )
    return complete


def assumptions(inputs: Mapping[str, ModelInput]) -> str:
    """What was not taken as given, in words; empty: nothing."""
    return "; ".join(f"{n}: {i.source}" for n, i in inputs.items() if i.source != GIVEN)


def in_words(inputs: Mapping[str, ModelInput]) -> dict[str, str]:
    """For people: value, unit and source of each input."""
    units = UNITS | {"contrast": "class"}
    return {
        name: f"{i.value:.4g} ({units.get(name, 'mm')}; {i.source})" for name, i in inputs.items()
    }


def _covariates(
    rule: InputRule, request: InputRequest, measured: tuple[float, float] | None
) -> dict[str, ModelInput]:
    given = _given(request)
    middle = {n: ModelInput(sum(rule.ranges[n]) / 2, "middle of the range") for n in rule.names}
    found = middle | {"sex": ModelInput(0.0, SEX_ASSUMED)}
    if "typical_age" in rule.population:
        found["age"] = ModelInput(float(rule.population["typical_age"]), "population")
    found |= {name: given[name] for name in ("sex", "age") if name in given}
    if rule.reads_millilitres:
        expected = covariates.expected_volumes(
            found["sex"].value, found["age"].value, rule.population["expected_volumes"]
        )
        found |= {name: ModelInput(value, "population") for name, value in expected.items()}
        if measured is not None:
            volumes = zip(VOLUMES, measured, strict=True)
            found |= {name: ModelInput(value, "condition") for name, value in volumes}
    return found | given


def _given(request: InputRequest) -> dict[str, ModelInput]:
    values = {name: getattr(request, name) for name in COVARIATES}
    values["sex"] = covariates.sex_number(request.sex)
    stated = {name: float(value) for name, value in values.items() if value is not None}
    for name, value in stated.items():
        if not isfinite(value):
            raise VCMError(f"{name} is {value}: give a number [{UNITS[name]}].")
    return {name: ModelInput(value, GIVEN) for name, value in stated.items()}


def _clamped(name: str, given: ModelInput, limits: tuple[float, float]) -> ModelInput:
    value = min(max(given.value, limits[0]), limits[1])
    if value == given.value:
        return given
    was = f"{given.value:.4g} {UNITS[name]}"
    return ModelInput(value, f"{given.source}, {was} clamped to {value:.4g}")


def _spacing_and_contrast(rule: InputRule, request: InputRequest) -> dict[str, ModelInput]:
    for name in COVARIATES:
        if getattr(request, name) is not None:
            raise VCMError(
                f"{name} is given, but this model is told spacing and contrast only: leave it out."
            )
    contrasts: Mapping[str, int] = rule.population["contrasts"]
    named = request.contrast or str(rule.population["contrast"])
    if named not in contrasts:
        raise VCMError(
            f"contrast is {named}, which this model does not know: choose {', '.join(contrasts)}."
        )
    found = {n: ModelInput(s, "model") for n, s in zip(SPACINGS, rule.spacing, strict=True)}
    source = GIVEN if request.contrast else "model"
    return found | {"contrast": ModelInput(float(contrasts[named]), source)}
