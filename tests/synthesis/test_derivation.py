import json
import shutil

from command_line import vcm

from vcm.imaging.volume import Volume, write_volume
from vcm.synthesis.configuration import Synthesis
from vcm.synthesis.derivation import synthesis_derivation


def test_a_dataset_of_label_maps_becomes_one_of_synthetic_brains(tiny_model, head_map, tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_volume(Volume(*head_map), raw / "sub-01" / "anat" / "sub-01_dseg.nii.gz")
    (raw / "sub-02" / "anat").mkdir(parents=True)
    arguments = [
        raw,
        "--bids",
        "--out",
        out,
        "--model",
        tiny_model,
        "--steps",
        1,
        "--labels",
        "vcm8",
    ]
    found = vcm("synthesize", *arguments)
    assert found.exit_code == 2 and "1 of 2 scans were refused" in found.error
    assert found.output.splitlines() == ["sub-01\tdone", "sub-02\thas no dseg file"]
    anat = out / "sub-01" / "anat"
    assert sorted(p.name for p in anat.iterdir()) == [
        "sub-01_desc-syntheticseed0_T1w.json", "sub-01_desc-syntheticseed0_T1w.nii.gz",
    ]  # fmt: skip
    sidecar = json.loads((anat / "sub-01_desc-syntheticseed0_T1w.json").read_text())
    assert sidecar["Synthetic"] is True and sidecar["SkullStripped"] is True
    assert sidecar["Sources"] == ["bids:source:sub-01/anat/sub-01_dseg.nii.gz"]
    assert (out / "sub-01_report.html").is_file()
    again = vcm("synthesize", *arguments)
    assert again.output.splitlines()[0] == "sub-01\tkept"
    planned = vcm("synthesize", *arguments, "--dry-run")
    assert planned.exit_code == 2 and "--dry-run plans one label map" in planned.error


def test_what_a_model_holds_is_a_setting(tiny_model, tmp_path):
    """A module that was trained again at the same path makes other brains."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    config = Synthesis(tmp_path, model=str(model))
    before = synthesis_derivation(config).settings
    (file,) = (model / "module").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    after = synthesis_derivation(config).settings
    assert before["model"] == after["model"] and before != after
