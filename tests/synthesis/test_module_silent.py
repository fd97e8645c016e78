"""A module that acts in no step: the volume is that of the frozen model, and the sidecar says so."""

import json

import numpy as np
import pytest
from small_brains import aligned_by_header, brain2mm_like, write_files

from vcm.diffusion.steering import acts
from vcm.errors import VCMError, VCMWarning
from vcm.imaging.volume import read_volume
from vcm.synthesis.configuration import Synthesis
from vcm.synthesis.synthesize import check_settings, describe, synthesize_files


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A label map, and a model that recommends a temperature for its module and clears the background."""
    folder = tmp_path_factory.mktemp("given")
    model = brain2mm_like()
    model.register_to_config(sampling={"temperature": 0.5}, clear_background=True)
    model.save_pretrained(folder / "model")
    return {"condition": write_files(folder)["labels"], "model": str(folder / "model")}


def made(given, monkeypatch, out, **settings):
    aligned_by_header(monkeypatch)
    config = Synthesis(**given, labels="vcm8", steps=2, out=out, super_resolution=False, **settings)
    (path,) = synthesize_files(config)
    sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
    return read_volume(path).data, json.loads(sidecar.read_text())


def test_the_steps_of_a_window_are_counted():
    assert acts(1.0, (0.0, 1.0), 1) and acts(1.4, (0.5, 1.0), 2)
    assert not acts(0.0, (0.0, 1.0), 5)
    assert not acts(1.0, (0.0, 0.0), 5) and not acts(1.0, (0.9, 1.0), 5)


def test_a_window_without_a_step_is_as_no_module(given, monkeypatch, tmp_path):
    """It was cut along the label map, at the temperature of steered volumes, and called steered."""
    off, said = made(given, monkeypatch, tmp_path / "0", conditioning_scale=0.0)
    late = {"control_guidance_start": 0.6}
    with pytest.warns(VCMWarning, match="None of the 2 steps begins between 0.6 and 1"):
        silent, told = made(given, monkeypatch, tmp_path / "late", **late)
    none, _ = made(given, monkeypatch, tmp_path / "none", control_guidance_end=0.0)
    on, steered = made(given, monkeypatch, tmp_path / "on")
    np.testing.assert_array_equal(silent, off)
    np.testing.assert_array_equal(none, off)
    for one in (said, told):
        assert not one["Steered"] and not one["BackgroundCleared"] and one["Temperature"] == 1.0
    assert steered["Steered"] and steered["BackgroundCleared"] and steered["Temperature"] == 0.5
    assert np.abs(on - off).max() > 0.01


def test_the_plan_says_that_nothing_is_steered(given, monkeypatch):
    aligned_by_header(monkeypatch)
    config = Synthesis(**given, labels="vcm8", steps=2, control_guidance_end=0.0)
    assert describe(config)["condition"].endswith("not steered")


@pytest.mark.parametrize(
    "settings",
    [{"conditioning_scale": 2.0}, {"control_guidance_end": 0.5}, {"control_guidance_start": 0.5}],
)
def test_settings_of_a_module_that_is_left_out_are_refused(settings):
    (name,) = settings
    with pytest.raises(VCMError, match=f"{name} is .* uncontrolled samples the frozen model"):
        check_settings(Synthesis(uncontrolled=True, **settings))
