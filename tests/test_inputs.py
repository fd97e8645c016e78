"""What each family of frozen models is told, by a user, a training scan and a test subject."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vcm.errors import VCMError
from vcm.imaging.covariates import expected_volumes
from vcm.imaging.prepared_set import Subject
from vcm.inputs import (
    InputRequest,
    InputRule,
    ModelInput,
    as_numbers,
    assumptions,
    in_words,
    network_inputs,
    resolve_inputs,
    scan_inputs,
    scan_request,
    with_complete_covariates,
)

EXPECTED = {"ventricular_volume": [2.5, 0.1, 0.01], "brain_volume": [7.1, 0.1, -0.002]}
BRAIN2MM = InputRule(
    ranges={
        "sex": (0, 1), "age": (20, 80), "ventricular_volume": (5, 110), "brain_volume": (900, 1900),
    },
    population={"typical_age": 50.0, "expected_volumes": EXPECTED},
    spacing=(2.0, 2.0, 2.0),
)  # fmt: skip
BRAINLDM = InputRule(
    ranges={
        "sex": (0, 1), "age": (44, 82), "ventricular_volume": (0, 1), "brain_volume": (0, 1),
    },
)  # fmt: skip
MAISI = InputRule(
    ("spacing_x", "spacing_y", "spacing_z", "contrast"),
    population={"contrasts": {"t1": 9, "t2": 10}, "contrast": "t1"},
    spacing=(1.0, 1.2, 2.0),
)
SUBJECT = Subject("sub-1", "test", 60.0, "M", 25.0, 1200.0, Path())
FAMILIES = {"brain2mm": BRAIN2MM, "brainldm": BRAINLDM, "maisi": MAISI}


@pytest.mark.parametrize("rule", FAMILIES.values(), ids=FAMILIES)
def test_a_test_subject_is_told_what_training_told_of_the_same_scan(rule):
    trained = scan_inputs(rule, SUBJECT)
    tested = resolve_inputs(rule, scan_request(rule, SUBJECT), outside="clamp")
    assert as_numbers(rule, tested) == trained


def test_the_numbers_of_each_family():
    assert scan_inputs(BRAIN2MM, SUBJECT) == pytest.approx([1, 40 / 60, 20 / 105, 0.3])
    # Its volumes [mL] mean nothing to BrainLDM, so they stay in the middle.
    assert scan_inputs(BRAINLDM, SUBJECT) == pytest.approx([1, 16 / 38, 0.5, 0.5])
    assert scan_inputs(MAISI, SUBJECT) == [1.0, 1.2, 2.0, 9.0]


def test_a_grown_copy_is_told_larger_volumes_and_the_same_age():
    grown = scan_inputs(BRAIN2MM, SUBJECT, 2.0)
    assert grown == pytest.approx([1, 40 / 60, 45 / 105, 1.5])


def test_what_is_given_goes_before_the_condition_and_that_before_the_population():
    bare = resolve_inputs(BRAIN2MM, InputRequest())
    of_all = expected_volumes(0.0, 50.0, EXPECTED)
    assert bare["age"] == ModelInput(50.0, "population")
    assert bare["brain_volume"] == ModelInput(of_all["brain_volume"], "population")
    # Volumes are those expected at the age and sex that are given.
    older = resolve_inputs(BRAIN2MM, InputRequest(age=70, sex="M"))
    assert (
        older["ventricular_volume"].value
        == expected_volumes(1.0, 70.0, EXPECTED)["ventricular_volume"]
    )
    measured = resolve_inputs(BRAIN2MM, InputRequest(brain_volume=1000.0), (30.0, 1100.0))
    assert measured["ventricular_volume"] == ModelInput(30.0, "condition")
    assert measured["brain_volume"] == ModelInput(1000.0, "given")


@pytest.mark.parametrize("rule", [BRAIN2MM, BRAINLDM])
def test_an_unstated_sex_is_named_as_such(rule):
    assert resolve_inputs(rule, InputRequest())["sex"] == ModelInput(0.0, "not given, taken as F")
    assert resolve_inputs(rule, InputRequest(sex="f"))["sex"] == ModelInput(0.0, "given")


def test_brainldm_ignores_the_volumes_of_a_condition_and_takes_a_share_from_a_user():
    measured = resolve_inputs(BRAINLDM, InputRequest(brain_volume=0.7), (30.0, 1100.0))
    assert measured["ventricular_volume"] == ModelInput(0.5, "middle of the range")
    assert measured["brain_volume"] == ModelInput(0.7, "given")


def test_out_of_range_is_refused_kept_or_clamped():
    request = InputRequest(age=95)
    with pytest.raises(VCMError, match="age is 95 years, outside the 20 to 80"):
        resolve_inputs(BRAIN2MM, request)
    assert resolve_inputs(BRAIN2MM, request, outside="keep")["age"].value == 95
    clamped = resolve_inputs(BRAIN2MM, request, outside="clamp")
    assert clamped["age"] == ModelInput(80, "given, 95 years clamped to 80")
    assert "age: given, 95 years clamped to 80" in assumptions(clamped)


@pytest.mark.parametrize("outside", ["refuse", "keep", "clamp"])
def test_what_is_no_number_is_refused(outside):
    with pytest.raises(VCMError, match="age is nan: give a number"):
        resolve_inputs(BRAIN2MM, InputRequest(age=float("nan")), outside=outside)


@pytest.mark.parametrize(
    ("rule", "request_", "reason"),
    [
        (BRAIN2MM, InputRequest(contrast="t2"), "T1w only"),
        (BRAIN2MM, InputRequest(sex="X"), "sex is 'X'"),
        (MAISI, InputRequest(age=50), "age is given, but this model is told spacing"),
        (MAISI, InputRequest(contrast="pd"), "contrast is pd.*choose t1, t2"),
    ],
)
def test_what_a_model_does_not_take_is_refused(rule, request_, reason):
    with pytest.raises(VCMError, match=reason):
        resolve_inputs(rule, request_)


def test_tensor_and_words():
    found = resolve_inputs(MAISI, InputRequest(contrast="t2"))
    assert torch.equal(network_inputs(MAISI, found), torch.tensor([[1.0, 1.2, 2.0, 10.0]]))
    assert in_words(found)["spacing_z"] == "2 (mm; model)"
    assert in_words(found)["contrast"] == "10 (class; given)"


def test_scans_that_lack_what_the_model_needs_are_left_out():
    nameless = replace(SUBJECT, sex=None)
    assert with_complete_covariates([SUBJECT, nameless], BRAINLDM.needs) == [SUBJECT]
    assert with_complete_covariates([nameless], MAISI.needs) == [nameless]
    with pytest.raises(VCMError, match="None of the 1 subjects has sex, age"):
        with_complete_covariates([nameless], BRAINLDM.needs)
