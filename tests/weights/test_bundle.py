import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from command_line import vcm
from small_brains import GRID, classes_of

from vcm.errors import VCMError
from vcm.pipeline import VCMPipeline
from vcm.weights.bundle import import_bundle
from vcm.weights.exporting import export


@pytest.fixture(scope="module")
def bundle(small_model, tmp_path_factory):
    return export(small_model, tmp_path_factory.mktemp("bundles") / "bundle", "monai-bundle")


@pytest.fixture
def copied(bundle, tmp_path):
    return shutil.copytree(bundle, tmp_path / "copied")


def sampled(model) -> torch.Tensor:
    pipeline = VCMPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    classes = torch.zeros(1, pipeline.module.condition_channels[0], *pipeline.volume_grid.shape)
    classes[:, 1, 4:-4, 4:-4, 4:-4] = 1
    return pipeline(classes, seed=3, num_inference_steps=2, age=60, sex="F").volumes


def test_there_and_back_the_predictions_are_equal(small_model, bundle, tmp_path):
    import_bundle(bundle, tmp_path / "mine")
    first, again = sampled(small_model), sampled(tmp_path / "mine")
    assert first.std() > 0
    assert torch.equal(first, again)


def test_the_command_says_what_was_checked(bundle, tmp_path):
    result = vcm("weights", "import", bundle, "--out", tmp_path / "mine")
    assert result.exit_code == 0 and result.output.strip() == str(tmp_path / "mine")
    assert "tensors" in result.error and "as they were saved" in result.error
    record = json.loads((tmp_path / "mine" / "import.json").read_text())
    assert record["bundle"] == "small" and "denoiser/config.json" in record["files"]
    assert vcm("weights", "verify", tmp_path / "mine").exit_code == 0


def flip_a_byte(bundle):
    path = next((bundle / "models" / "denoiser").glob("*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def rewrite_checksums(bundle):
    path = bundle / "models" / "checksums.json"
    path.write_text(path.read_text() + " ")


def edit_metadata(bundle):
    path = bundle / "configs" / "metadata.json"
    table = json.loads(path.read_text())
    table["network_data_format"]["outputs"]["volume"]["spatial_shape"] = [9, 9, 9]
    path.write_text(json.dumps(table))


def list_in_metadata(bundle):
    path = bundle / "configs" / "metadata.json"
    table = json.loads(path.read_text())
    table["network_data_format"]["outputs"] = [1]
    path.write_text(json.dumps(table))


def drop_metadata_key(bundle):
    path = bundle / "configs" / "metadata.json"
    table = json.loads(path.read_text())
    del table["vcm_checksums_sha256"]
    path.write_text(json.dumps(table))


def link_away(bundle):
    path = next((bundle / "models" / "denoiser").glob("*.safetensors"))
    moved = path.rename(bundle / "elsewhere.safetensors")
    path.symlink_to(moved)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (flip_a_byte, "is not what it was when the model was saved"),
        (rewrite_checksums, "is not the one that the bundle's metadata.json records"),
        (edit_metadata, r"says that the spatial_shape of the volume is \[9, 9, 9\]"),
        (list_in_metadata, "says that the spatial_shape of the volume is None"),
        (drop_metadata_key, "bundle of another program"),
        (link_away, "is no file of a saved model"),
        (lambda b: torch.save({}, b / "models" / "model.pt"), r"model\.pt is no file of a saved"),
        (lambda b: (b / "models" / "denoiser" / "vcm.nets.denoiser.py").touch(), "can run code"),
        (lambda b: (b / "models" / "more.json").write_text("{}"), r"disagree about more\.json"),
        (lambda b: (b / "models" / "module" / "config.json").unlink(), "is missing"),
        (lambda b: (b / "configs" / "metadata.json").write_text("{"), "cannot be read"),
        (lambda b: (b / "configs" / "metadata.json").unlink(), "is no MONAI bundle"),
        (lambda b: (b / "models" / "checksums.json").unlink(), "lacks its model_index.json or"),
    ],
)
def test_what_is_refused_leaves_nothing(copied, tmp_path, break_it, words):
    break_it(copied)
    with pytest.raises(VCMError, match=words):
        import_bundle(copied, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_nothing_in_a_bundle_is_run(copied, tmp_path):
    harmful = copied / "configs" / "inference.json"
    harmful.write_text(json.dumps({"imports": [f"$open({str(tmp_path / 'ran')!r}, 'w')"]}))
    import_bundle(copied, tmp_path / "mine")
    assert not (tmp_path / "ran").exists()


def test_a_bundle_and_files_are_not_given_at_once(copied, tmp_path):
    result = vcm("weights", "import", copied, "--unet", "unet.pt", "--out", tmp_path / "mine")
    assert result.exit_code == 2 and "a bundle holds all its networks" in result.error
    result = vcm("weights", "import", "brainldm", "--out", tmp_path / "mine")
    assert result.exit_code == 2 and "--autoencoder is not given" in result.error
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kept").touch()
    result = vcm("weights", "import", copied, "--out", tmp_path / "mine")
    assert result.exit_code == 2 and "is not empty" in result.error


@pytest.mark.slow
def test_the_documented_command_line_runs(bundle, tmp_path):
    pytest.importorskip("fire", reason="monai.bundle reads its command line with fire")
    from vcm.imaging.volume import Volume, read_volume, write_volume

    pipeline = VCMPipeline.from_pretrained(bundle / "models")
    label_map = write_volume(Volume(classes_of(1.0), GRID.affine), tmp_path / "sub-01_dseg.nii.gz")
    subprocess.run(
        [
            sys.executable, "-m", "monai.bundle", "run",
            "--config_file", bundle / "configs" / "inference.json", "--bundle_root", bundle,
            "--condition", label_map, "--output_dir", tmp_path / "out",
            "--labels", "vcm8", "--steps", "2", "--seed", "3",
        ],
        check=True, timeout=300, capture_output=True,
    )  # fmt: skip
    name = "sub-01_dseg_desc-synthetic_seed-3_T1w.nii.gz"
    expected = pipeline(str(label_map), labels="vcm8", seed=3, num_inference_steps=2)
    expected.save(tmp_path / "ours")
    ours, theirs = (read_volume(tmp_path / f / name) for f in ("ours", "out"))
    assert ours.data.std() > 0
    np.testing.assert_allclose(theirs.data, ours.data, atol=1e-4)
