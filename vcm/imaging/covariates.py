"""The four covariates of the frozen model: their order, units and trained ranges.

sex is 0 (F) or 1 (M), age in years, ventricular and brain volume in mL. The networks read them scaled to
0..1 by the ranges seen in training, as BrainLDM does (arXiv 2209.07162).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vcm.errors import VCMError

if TYPE_CHECKING:
    from vcm.imaging.prepared_set import Subject

#: Order everywhere: as context of the attention and as channels beside the latent.
COVARIATES = ("sex", "age", "ventricular_volume", "brain_volume")
UNITS = {"sex": "0 F, 1 M", "age": "years", "ventricular_volume": "mL", "brain_volume": "mL"}
#: Least and greatest value of each covariate, in its unit.
Ranges = Mapping[str, tuple[float, float]]


def sex_number(sex: str | None) -> float | None:
    """F -> 0, M -> 1, None where unknown.

    Raises:
        VCMError: It is anything else.
    """
    if sex is None:
        return None
    if sex.upper() not in ("F", "M"):
        raise VCMError(f"sex is '{sex}': the model knows F and M, as its training data do.")
    return float(sex.upper() == "M")


def to_unit(values: Mapping[str, float], ranges: Ranges) -> list[float]:
    """Scale covariates for the networks.

    Args:
        values: Of every covariate, in its unit.
        ranges: Those seen in training.

    Returns:
        (K,) in the order of COVARIATES; 0..1 inside the ranges.
    """
    return [(values[n] - ranges[n][0]) / (ranges[n][1] - ranges[n][0]) for n in COVARIATES]


def refuse_outside(values: Mapping[str, float], ranges: Ranges) -> None:
    """Refuse the first covariate outside the range seen in training.

    Raises:
        VCMError: There is one.
    """
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
    """Fit what a user who gives age and sex alone means.

        log volume = a + b sex + c age, by least squares over training subjects

    Args:
        sex: 0 F or 1 M, one of each subject, as the others.
        age: In years.
        ventricular: In mL.
        brain: In mL.

    Returns:
        [a, b, c] of each volume.
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


def trained_ranges(subjects: Sequence[Subject]) -> dict[str, tuple[float, float]]:
    """Least and greatest value of each covariate over subjects; sex is 0 to 1.

    Raises:
        VCMError: A covariate is unknown of all, or the same for all.
    """
    ranges = {"sex": (0.0, 1.0)}
    for name in COVARIATES[1:]:
        values = [float(v) for v in (getattr(s, name) for s in subjects) if v is not None]
        if not values or min(values) == max(values):
            raise VCMError(
                f"The training subjects do not vary in {name}, so it cannot be a covariate: prepare "
                "scans of different subjects, with age and sex in participants.tsv and label maps."
            )
        ranges[name] = (min(values), max(values))
    return ranges


def describe_population(subjects: Sequence[Subject]) -> dict[str, object]:
    """What is assumed where a user says nothing, over the subjects of whom all four covariates are known.

    Returns:
        typical_age [years], the median, and expected_volumes, see `fit_expected_volumes`.

    Raises:
        VCMError: There is no such subject.
    """
    rows = [
        (sex_number(s.sex), s.age, s.ventricular_volume, s.brain_volume)
        for s in subjects
        if None not in (s.sex, s.age, s.ventricular_volume, s.brain_volume)
    ]
    if not rows:
        raise VCMError(
            f"None of the {len(subjects)} subjects has sex, age and both volumes: complete "
            "participants.tsv, add label maps, and prepare them again."
        )
    sex, age, ventricular, brain = np.asarray(rows, dtype=np.float64).T
    return {
        "typical_age": float(np.median(age)),
        "expected_volumes": fit_expected_volumes(
            sex.tolist(), age.tolist(), ventricular.tolist(), brain.tolist()
        ),
    }
