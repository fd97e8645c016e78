"""What `vcm upsample --bids` keeps of an earlier run, and what it refuses."""

import json
import shutil

import numpy as np
import pytest

from vcm.derivatives import derive
from vcm.errors import VCMError
from vcm.imaging.volume import Volume, write_volume
from vcm.upsampling.configuration import Upsampling
from vcm.upsampling.derivation import upsampling_derivation


@pytest.fixture
def dataset(tmp_path):
    """One scan, with a JSON file beside it."""
    anat = tmp_path / "raw" / "sub-1" / "anat"
    values = np.random.default_rng(0).uniform(0, 9, (6, 7, 8)).astype(np.float32)
    write_volume(Volume(values, np.eye(4)), anat / "sub-1_T1w.nii.gz")
    (anat / "sub-1_T1w.json").write_text('{"SliceThickness": 4, "EchoTime": 1}')
    return tmp_path / "raw"


@pytest.fixture
def model(thick_model, tmp_path):
    """A model of the user's own."""
    return shutil.copytree(thick_model, tmp_path / "model")


@pytest.fixture
def status(dataset, model, tmp_path, monkeypatch):
    """How the scan came out of a run; nothing is computed."""

    def upsample_files(config, command):
        name = config.out / "sub-1_desc-upsampled_T1w.nii.gz"
        shutil.copy(config.scans[0], name)
        return [name]

    monkeypatch.setattr("vcm.upsampling.derivation.upsample_files", upsample_files)

    def run(**settings):
        config = Upsampling(scans=[dataset], **({"model": str(model)} | settings))
        (row,) = derive(upsampling_derivation(config), dataset, tmp_path / "out")
        return str(row["status"])

    return run


def test_another_thickness_beside_the_scan_is_another_setting(status, dataset):
    sidecar = dataset / "sub-1" / "anat" / "sub-1_T1w.json"
    assert status() == "done"
    sidecar.write_text(json.dumps({"EchoTime": 2, "SliceThickness": 4}))
    assert status() == "kept"
    for other in ('{"SliceThickness": 3}', "{", "[]"):
        sidecar.write_text(other)
        assert status().startswith("was done before")


@pytest.mark.parametrize("settings", [{"slice_thickness": 3.0}, {"profile": "auto"}])
def test_a_thickness_that_is_not_read_changes_nothing(status, dataset, settings):
    assert status(**settings) == "done"
    (dataset / "sub-1" / "anat" / "sub-1_T1w.json").write_text('{"SliceThickness": 3}')
    assert status(**settings) == "kept"


def test_other_weights_of_a_model_of_one_name_are_another_setting(status, model):
    assert [status(), status()] == ["done", "kept"]
    weights = next(model.rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes() + b"x")
    assert status().startswith("was done before")


@pytest.mark.parametrize("role", ["detail", "translator"])
def test_other_weights_of_a_network_of_one_name_are_another_setting(
    dataset, thick_model, tmp_path, role
):
    (tmp_path / "model.safetensors").write_bytes(b"first")
    config = Upsampling(scans=[dataset], model=str(thick_model), to="T1w")
    setattr(config, role, str(tmp_path))
    one = upsampling_derivation(config, "T2w").settings
    assert upsampling_derivation(config, "T2w").settings == one
    (tmp_path / "model.safetensors").write_bytes(b"second")
    assert upsampling_derivation(config, "T2w").settings != one


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"like": "sub-1_T1w.nii.gz"}, "like belongs to single scans"),
        ({"guide": "sub-1_T1w.nii.gz"}, "guide belongs to single scans"),
        ({"masks": ["mask.nii.gz"]}, "masks belongs to single scans"),
        ({"whole_head": True, "detail": "none"}, "whole_head lets the detail network"),
        ({"whole_head": True, "output": "sample"}, "output is sample"),
        ({"output": "best"}, "choose mean or sample"),
        ({"model": "nowhere"}, "'nowhere' is neither embedded"),
    ],
)
def test_what_no_dataset_can_be_made_with_is_refused(dataset, settings, words):
    with pytest.raises(VCMError, match=words):
        upsampling_derivation(Upsampling(scans=[dataset], **settings))
