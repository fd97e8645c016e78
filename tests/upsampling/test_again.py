"""Further runs of vcm upsample into a folder of results: with other settings, and of another contrast of the head."""

import json

import nibabel as nib
import pytest
import torch
from small_brains import aligned_by_header, thick_model_with_detail, write_files

from vcm.errors import VCMError, VCMWarning
from vcm.files import listed_files
from vcm.imaging.volume import read_volume, write_volume
from vcm.report.folder import REPORT
from vcm.upsampling.configuration import Upsampling
from vcm.upsampling.results.writing import file_names
from vcm.upsampling.upsample import upsample_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, and thick slices of one head that are named as three contrasts."""
    folder = tmp_path_factory.mktemp("given")
    torch.manual_seed(0)
    thick_model_with_detail(folder / "model")
    thick = read_volume(write_files(folder)["thick"])
    for contrast in ("T1w", "T2w", "FLAIR"):
        write_volume(thick, folder / f"sub-1_{contrast}.nii.gz")
    return folder


@pytest.fixture
def upsample(folder, monkeypatch):
    """Upsample the slices of a contrast, in little time."""
    aligned_by_header(monkeypatch)

    def run(contrast, out, **settings):
        given = {"samples": 0, "steps": 1, "spacing": 5, "detail": "none", "mirrors": False}
        config = Upsampling(
            scans=[folder / f"sub-1_{contrast}.nii.gz"], out=out, model=str(folder / "model"),
            precision="float32", device="cpu", **(given | settings),
        )  # fmt: skip
        return upsample_files(config)

    return run


def names(out):
    return {path.name for path in out.iterdir()}


def test_what_other_settings_left_is_gone_unless_it_was_changed(upsample, tmp_path):
    out = tmp_path / "out"
    upsample("T1w", out, samples=2, output="sample")
    first = names(out)
    mean, sample = (f"sub-1_desc-upsampled{name}_T1w.nii.gz" for name in ("mean", "_seed-1"))
    assert {mean, sample} < first
    (out / sample).write_bytes(b"drawn by hand")
    written = upsample("T1w", out)
    assert names(out) == {*(path.name for path in written), sample, REPORT}
    assert mean not in names(out)
    listed = listed_files(out / "sub-1_desc-upsampled_T1w.json")
    assert listed.keys() | {"sub-1_desc-upsampled_T1w.json"} == {path.name for path in written}


def test_the_error_beside_a_sample_is_said_to_be_that_of_the_expected_brain(upsample, tmp_path):
    """A sample errs more than the expected brain, whose error and residual are stated."""
    for output, of in (
        ("mean", "sub-1_desc-upsampled_T1w"),
        ("sample", "sub-1_desc-upsampledmean_T1w"),
    ):
        out = tmp_path / output
        upsample("T1w", out, samples=1, output=output)
        record = json.loads((out / "sub-1_desc-upsampled_T1w.json").read_text())
        assert (record["UncertaintyOf"], record["ResidualOf"]) == (f"{of}.nii.gz",) * 2
        page = (out / REPORT).read_text(encoding="utf-8")
        assert ("the expected brain" in page) == (output == "sample")


def test_an_input_stays_though_an_earlier_run_wrote_it(upsample, tmp_path):
    upsample("T1w", tmp_path, samples=1, output="sample")
    mean = tmp_path / "sub-1_desc-upsampledmean_T1w.nii.gz"
    before = mean.read_bytes()
    upsample("T1w", tmp_path, like=mean)
    assert mean.read_bytes() == before
    assert "sub-1_desc-upsampled_seed-0_T1w.nii.gz" not in names(tmp_path)


def test_two_contrasts_of_one_head_share_no_file(upsample, tmp_path):
    one = upsample("FLAIR", tmp_path)
    before = {path: path.read_bytes() for path in one}
    two = upsample("T2w", tmp_path, spacing=6)
    assert not set(one) & set(two)
    assert {path: path.read_bytes() for path in one} == before
    pages = {f"sub-1_{contrast}_{REPORT}" for contrast in ("FLAIR", "T2w")}
    assert names(tmp_path) == {path.name for path in (*one, *two)} | pages | {REPORT}
    mask, result = (
        nib.load(tmp_path / f"sub-1_desc-{name}.nii.gz").shape
        for name in ("generatedFLAIR_mask", "upsampled_FLAIR")
    )
    assert mask == result != nib.load(tmp_path / "sub-1_desc-upsampled_T2w.nii.gz").shape
    upsample("FLAIR", tmp_path)


def test_what_was_chosen_of_the_model_and_changes_nothing_is_named(upsample, tmp_path):
    given = {"samples": 3, "age": 40.0, "sex": "F", "steps": 10}
    with pytest.warns(
        VCMWarning, match=r"So this has no effect here: samples=3, age=40\.0, sex=F\.$"
    ):
        upsample("FLAIR", tmp_path / "one", **given)
    with pytest.warns(VCMWarning, match="the model knows T1w only") as told:
        upsample("FLAIR", tmp_path / "two", steps=10)
    assert not any("no effect" in str(warning.message) for warning in told)


def test_a_result_that_was_drawn_on_is_not_replaced_in_silence(upsample, tmp_path):
    upsample("FLAIR", tmp_path)
    mask = tmp_path / "sub-1_desc-generatedFLAIR_mask.nii.gz"
    mask.write_bytes(b"drawn by hand")
    with pytest.raises(VCMError, match=r"is not the file that sub-1_desc-upsampled_FLAIR\.json"):
        upsample("FLAIR", tmp_path)
    assert mask.read_bytes() == b"drawn by hand"
    upsample("FLAIR", tmp_path, overwrite=True)
    assert json.loads((tmp_path / "sub-1_desc-upsampled_FLAIR.json").read_text())["Files"]
    assert mask.read_bytes() != b"drawn by hand"


@pytest.mark.parametrize("end", [".nii", ".nii.gz", ".hdr", ".img", ".img.gz"])
def test_no_two_contrasts_give_one_name(end):
    made = [
        set(file_names(f"sub-07_ses-1_{contrast}{end}", 2, 0, "sample", "T1w").values())
        for contrast in ("T1w", "T2w", "FLAIR", "PDw")
    ]
    assert sum(map(len, made)) == len(set().union(*made))
    assert "sub-07_ses-1_desc-upsampled_FLAIR.nii.gz" in made[2]
    assert "sub-07_ses-1_desc-syntheticFLAIR_T1w.nii.gz" in made[2]


def test_a_name_that_says_no_contrast_is_kept_whole():
    found = file_names("brain.hdr", 0, 0, "mean")
    assert found["result"] == "brain_desc-upsampled.nii.gz"
    assert found["generated"] == "brain_desc-generated_mask.nii.gz"
