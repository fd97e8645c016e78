import json
import subprocess
import sys

import numpy as np
import pytest
from monai.bundle import run

from vcm.errors import VCMError
from vcm.imaging.volume import Volume, read_volume, write_volume
from vcm.pipeline import VCMPipeline
from vcm.weights.exporting import export


@pytest.fixture
def label_map(head_map, tmp_path):
    return write_volume(Volume(*head_map), tmp_path / "sub-01_dseg.nii.gz")


def test_a_bundle_run_by_monai_gives_what_the_pipeline_gives(tiny_model, label_map, tmp_path):
    bundle = export(tiny_model, tmp_path / "bundle", "monai-bundle")
    run(
        config_file=str(bundle / "configs" / "inference.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        bundle_root=str(bundle), condition=str(label_map), output_dir=str(tmp_path / "by_monai"),
        labels="vcm8", seed=3, steps=2, device="cpu",
    )  # fmt: skip
    pipeline = VCMPipeline.from_pretrained(tiny_model)
    made = pipeline(str(label_map), labels="vcm8", seed=3, num_inference_steps=2)
    made.save(tmp_path / "by_vcm")
    name = "sub-01_dseg_desc-synthetic_seed-3_T1w.nii.gz"
    ours, theirs = (read_volume(tmp_path / f / name) for f in ("by_vcm", "by_monai"))
    assert ours.data.std() > 0
    np.testing.assert_allclose(theirs.data, ours.data, atol=1e-4)
    np.testing.assert_array_equal(theirs.affine, ours.affine)


def test_the_metadata_has_what_monai_demands(tiny_model, tmp_path):
    bundle = export(tiny_model, tmp_path / "bundle", "monai-bundle")
    found = json.loads((bundle / "configs" / "metadata.json").read_text())
    needed = {
        "version", "changelog", "monai_version", "pytorch_version", "numpy_version",
        "required_packages_version", "name", "task", "description", "authors", "copyright",
        "network_data_format",
    }  # fmt: skip
    assert needed <= set(found)
    assert found["network_data_format"]["outputs"]["volume"]["spatial_shape"] == [80, 112, 80]
    assert "_name_or_path" not in (bundle / "models" / "model_index.json").read_text()


def test_a_diffusers_folder_is_run_by_its_plain_script(tiny_model, label_map, tmp_path):
    folder = export(tiny_model, tmp_path / "folder", "diffusers")
    subprocess.run(
        [sys.executable, folder / "run.py", label_map, tmp_path / "out", "vcm8"],
        check=True,
        timeout=300,
    )
    assert (tmp_path / "out" / "sub-01_dseg_desc-synthetic_seed-0_T1w.nii.gz").is_file()


def test_what_is_refused(tiny_model, tmp_path):
    with pytest.raises(VCMError, match="format is onnx: choose monai-bundle or diffusers"):
        export(tiny_model, tmp_path / "new", "onnx")
    (tmp_path / "there").mkdir()
    with pytest.raises(VCMError, match="exists: give a new folder"):
        export(tiny_model, tmp_path / "there", "diffusers")
