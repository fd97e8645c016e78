from pathlib import Path

import numpy as np
import pytest

from vcm.errors import VCMError
from vcm.imaging.covariates import (
    describe_population,
    expected_volumes,
    fit_expected_volumes,
    refuse_outside,
    sex_number,
    to_unit,
    trained_ranges,
)
from vcm.imaging.prepared_set import Subject

RANGES = {
    "sex": (0.0, 1.0), "age": (20.0, 80.0), "ventricular_volume": (5.0, 105.0),
    "brain_volume": (900.0, 1900.0),
}  # fmt: skip


def subject(age=40.0, sex="F", ventricles=20.0, brain=1200.0):
    return Subject("sub-1", "train", age, sex, ventricles, brain, Path())


def test_scaled_to_the_trained_range_in_one_order():
    values = {"brain_volume": 1400.0, "age": 35.0, "ventricular_volume": 5.0, "sex": 1.0}
    assert to_unit(values, RANGES) == [1.0, 0.25, 0.0, 0.5]
    refuse_outside(values, RANGES)
    with pytest.raises(VCMError, match=r"age is 81 years, outside the 20 to 80") as found:
        refuse_outside(values | {"age": 81.0}, RANGES)
    assert found.value.argument == "allow_extrapolation" and "--" not in str(found.value)


def test_sex_is_a_number_or_unknown():
    assert [sex_number(x) for x in ("F", "m", None)] == [0.0, 1.0, None]
    with pytest.raises(VCMError, match="'X'"):
        sex_number("X")


def test_the_expected_volumes_are_those_that_made_the_data():
    """Of noise-free volumes the fit finds the coefficients; of noisy ones, the normal equations' answer."""
    random = np.random.default_rng(0)
    sex, age = random.integers(0, 2, 40).astype(float), random.uniform(20, 80, 40)
    truth = {"ventricular_volume": (2.5, 0.12, 0.013), "brain_volume": (7.1, 0.1, -0.002)}
    made = [np.exp(a + b * sex + c * age) for a, b, c in truth.values()]
    found = fit_expected_volumes(sex, age, *made)
    for name, coefficients in truth.items():
        assert found[name] == pytest.approx(coefficients, abs=1e-9)
    at = expected_volumes(1.0, 60.0, found)
    assert at["brain_volume"] == pytest.approx(np.exp(7.1 + 0.1 - 0.12))
    noisy = made[0] * np.exp(random.normal(0, 0.2, 40))
    design = np.stack([np.ones(40), sex, age], 1)
    normal = np.linalg.solve(design.T @ design, design.T @ np.log(noisy))
    fitted = fit_expected_volumes(sex, age, noisy, made[1])["ventricular_volume"]
    assert fitted == pytest.approx(normal.tolist(), rel=1e-8)


def test_a_population_is_described_by_those_of_whom_all_is_known():
    known = [subject(30, "F", 10, 1100), subject(50, "M", 20, 1300), subject(80, "F", 40, 1000)]
    described = describe_population([*known, subject(95, None), subject(None), subject(brain=None)])
    assert described == describe_population(known) and described["typical_age"] == 50
    with pytest.raises(VCMError, match="None of the 1 subjects"):
        describe_population([subject(age=None)])


def test_ranges_of_the_training_subjects():
    ranges = trained_ranges([subject(30, "F", 10, 1100), subject(50, "M", None, 1300), subject(35)])
    assert ranges == {
        "sex": (0.0, 1.0), "age": (30.0, 50.0), "ventricular_volume": (10.0, 20.0),
        "brain_volume": (1100.0, 1300.0),
    }  # fmt: skip
    with pytest.raises(VCMError, match="do not vary in age"):
        trained_ranges([subject(30), subject(30)])
