"""The four covariates of the frozen model: their order, units and trained ranges.

sex is 0 (F) or 1 (M), age in years, ventricular and brain volume in mL. The networks read them
scaled to 0..1 by the ranges seen in training, as BrainLDM does (arXiv 2209.07162).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vcm.errors import VCMError
from vcm.imaging import covariates
from vcm.imaging.prepared_set import Subject

#: Order everywhere: as context of the attention and as channels beside the latent.
COVARIATES = ("sex", "age", "ventricular_volume", "brain_volume")
UNITS = {"sex": "0 F, 1 M", "age": "years", "ventricular_volume": "mL", "brain_volume": "mL"}
Ranges = Mapping[str, tuple[float, float]]


def sex_number(sex: str | None) -> float | None:
    """F -> 0, M -> 1, None where unknown. Raises VCMError for anything else."""
    if sex is None:
        return None
    if sex.upper() not in ("F", "M"):
        raise VCMError(f"sex is '{sex}': the model knows F and M, as its training data do.")
    return float(sex.upper() == "M")


def to_unit(values: Mapping[str, float], ranges: Ranges) -> list[float]:
    """Covariates in their units -> 0..1, in the order of COVARIATES."""
    return [(values[n] - ranges[n][0]) / (ranges[n][1] - ranges[n][0]) for n in COVARIATES]


def refuse_outside(values: Mapping[str, float], ranges: Ranges) -> None:
    """Raise VCMError for the first covariate outside the range seen in training."""
    for name in COVARIATES:
        low, high = ranges[name]
        if not low <= values[name] <= high:
            raise VCMError(
                f"{name} is {values[name]:.4g} {UNITS[name]}, outside the {low:.4g} to {high:.4g} "
                f"seen in training: choose a value inside, or allow extrapolation.",
                argument="allow_extrapolation",
            )


def fit_expected_volumes(
    sex: Sequence[float], age: Sequence[float], ventricular: Sequence[float], brain: Sequence[float]
) -> dict[str, list[float]]:
    """Least squares of log volume on (1, sex, age) over training subjects; volumes in mL.

    Returns the three coefficients for each volume: what a user who gives age and sex alone means.
    """
    design = np.stack([np.ones(len(age)), sex, age], axis=1)
    volumes = {"ventricular_volume": ventricular, "brain_volume": brain}
    return {
        name: [float(c) for c in np.linalg.lstsq(design, np.log(values), rcond=None)[0]]
        for name, values in volumes.items()
    }


def expected_volumes(
    sex: float, age: float, coefficients: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    """Ventricular and brain volume [mL] expected at that sex (0 F, 1 M) and age [years]."""
    return {name: float(np.exp(a + b * sex + c * age)) for name, (a, b, c) in coefficients.items()}


def trained_ranges(subjects: list[Subject]) -> dict[str, tuple[float, float]]:
    """Least and greatest value of each covariate over subjects; sex is 0 to 1."""
    ranges = {"sex": (0.0, 1.0)}
    for name in COVARIATES[1:]:
        known = [float(v) for v in (getattr(s, name) for s in subjects) if v is not None]
        if not known or min(known) == max(known):
            raise VCMError(
                f"The training subjects do not vary in {name}: it cannot be a covariate."
            )
        ranges[name] = (min(known), max(known))
    return ranges


def describe_population(subjects: list[Subject]) -> dict[str, object]:
    """What is assumed where a user says nothing: typical age, volumes expected at age and sex."""
    sex = [covariates.sex_number(s.sex) or 0.0 for s in subjects]
    age, ventricular, brain = (
        [float(getattr(s, name) or np.nan) for s in subjects] for name in COVARIATES[1:]
    )
    return {
        "typical_age": float(np.median(age)),
        "expected_volumes": covariates.fit_expected_volumes(sex, age, ventricular, brain),
    }
