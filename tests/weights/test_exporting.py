import json
import subprocess
import sys

import pytest
from small_brains import GRID, classes_of

from vcm.errors import VCMError
from vcm.imaging.volume import Volume, write_volume
from vcm.weights.exporting import export
from vcm.weights.load import load_pipeline


@pytest.fixture
def label_map(tmp_path):
    return write_volume(Volume(classes_of(1.0), GRID.affine), tmp_path / "sub-01_dseg.nii.gz")


def test_the_metadata_has_what_monai_demands(small_model, tmp_path):
    bundle = export(small_model, tmp_path / "bundle", "monai-bundle")
    found = json.loads((bundle / "configs" / "metadata.json").read_text())
    needed = {
        "version", "changelog", "monai_version", "pytorch_version", "numpy_version",
        "required_packages_version", "name", "task", "description", "authors", "copyright",
        "network_data_format",
    }  # fmt: skip
    assert needed <= set(found)
    assert found["network_data_format"]["outputs"]["volume"]["spatial_shape"] == [*GRID.shape]
    assert "_name_or_path" not in (bundle / "models" / "model_index.json").read_text()


@pytest.mark.slow
def test_a_diffusers_folder_is_run_by_its_plain_script(small_model, label_map, tmp_path):
    folder = export(small_model, tmp_path / "folder", "diffusers")
    subprocess.run(
        [sys.executable, folder / "run.py", label_map, tmp_path / "out", "vcm8"],
        check=True,
        timeout=300,
    )
    assert (tmp_path / "out" / "sub-01_dseg_desc-synthetic_seed-0_T1w.nii.gz").is_file()


@pytest.mark.parametrize("form", ["diffusers", "monai-bundle"])
def test_a_model_that_no_label_map_steers_is_not_said_to_obey_one(small_model, tmp_path, form):
    """The pipeline refuses a label map for it, so that a script that takes one could not run."""
    pipeline = load_pipeline(small_model)
    pipeline.register_modules(module=None)
    pipeline.register_to_config(conditions=[])
    pipeline.save_pretrained(tmp_path / "frozen")
    for model, obeys in ((small_model, True), (tmp_path / "frozen", False)):
        folder = export(model, tmp_path / f"out-{obeys}", form)
        readme = next(folder.rglob("README.md")).read_text()
        assert ("obey LABEL_MAP" in readme) == obeys
        assert ("It is steered by nothing, not by a label map" in readme) != obeys
        assert (folder / "run.py").exists() == (obeys and form == "diffusers")
        if form == "monai-bundle":
            metadata = json.loads((folder / "configs" / "metadata.json").read_text())
            assert ("obey" in metadata["task"]) == obeys


def test_what_is_refused(small_model, tmp_path):
    with pytest.raises(VCMError, match="format is onnx: choose monai-bundle or diffusers"):
        export(small_model, tmp_path / "new", "onnx")
    (tmp_path / "there").mkdir()
    with pytest.raises(VCMError, match="exists: give a new folder"):
        export(small_model, tmp_path / "there", "diffusers")
