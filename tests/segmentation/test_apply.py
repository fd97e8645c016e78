"""What `vcm segment apply` reads, keeps, makes anew and refuses; voxels are named at once by a stand-in."""

import json
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from vcm.errors import VCMError, VCMWarning
from vcm.files import read_table
from vcm.imaging.extraction import Brain
from vcm.imaging.volume import Volume, write_volume
from vcm.segmentation import apply as module
from vcm.segmentation.apply import Segmented, apply_settings, find_scans, segment_files
from vcm.segmentation.derivation import segmentation_derivation
from vcm.segmentation.segmenter import FewShotSegmenter
from vcm.segmentation.unet_fit import BoxUNet

SHAPE = (4, 5, 6)


@pytest.fixture
def scans(tmp_path):
    """Three of them in a folder."""
    data = np.random.default_rng(0).random((3, *SHAPE), np.float32)
    paths = [tmp_path / "scans" / f"sub-{n}_T1w.nii.gz" for n in range(3)]
    return [write_volume(Volume(x, np.eye(4)), path) for x, path in zip(data, paths, strict=True)]


@pytest.fixture
def model(tmp_path):
    """Its folder, which is read for checksums alone."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "segmenter.json").write_text('{"other_side": [0, 1]}')
    (tmp_path / "model" / "atlas.safetensors").write_text("weights")
    return tmp_path / "model"


@pytest.fixture
def segmenter():
    """Of all voices; its U-Net suffices."""
    made = FewShotSegmenter(SimpleNamespace(), ["background", "bright"], [0, 7])
    made.voices = ("features", "atlas", "unet")
    made.unet = BoxUNet(None, np.array([[0, 8]] * 3))
    assert made.unet_suffices
    return made


@pytest.fixture
def segmented(monkeypatch):
    """Scans that were segmented, with the voices that were heard; nothing is drawn."""
    done = []

    def segment_scan(scan, segmenter, voices, match):
        heard = segmenter.choose_voices(voices)
        done.append((scan.source, heard))
        labels = scan.with_data(np.full(SHAPE, 7, np.int16))
        other = scan.with_data(np.ones(SHAPE, np.float32))
        brain = Brain(np.ones(SHAPE, bool), "background", 1.0)
        on_grid = (scan, labels)
        return Segmented(
            labels, other, other, {"bright": 1.5}, {"bright": 0.1}, on_grid, brain, voices=heard
        )

    monkeypatch.setattr("vcm.segmentation.apply.segment_scan", segment_scan)
    monkeypatch.setattr("vcm.segmentation.apply.outlined", lambda *a: a[2].write_text("drawn"))
    for name in ("write_report", "write_index"):
        monkeypatch.setattr(f"vcm.segmentation.apply.{name}", lambda *a: None)
    return done


def statuses(rows):
    return [row["status"] for row in rows]


def test_a_scan_that_was_done_with_the_same_voices_is_kept(
    scans, model, segmenter, segmented, tmp_path
):
    out = tmp_path / "out"
    assert statuses(segment_files(scans[:1], model, segmenter, out)) == ["done"]
    for voices in (None, ["atlas", "unet"], ["unet", "atlas"]):
        assert statuses(segment_files(scans[:1], model, segmenter, out, voices)) == ["kept"]
    assert len(segmented) == 1
    sidecar = json.loads((out / "sub-0_dseg.json").read_text())
    assert sidecar["Voices"] == sidecar["VoicesHeard"] == ["atlas", "unet"]


def test_a_scan_that_was_done_by_default_is_not_kept_for_all_voices(
    scans, model, segmenter, segmented, tmp_path
):
    """By default the features are not heard beside a U-Net that suffices."""
    out, every = tmp_path / "out", ["features", "atlas", "unet"]
    segment_files(scans[:1], model, segmenter, out)
    with pytest.raises(VCMError, match="was not made from the inputs given now"):
        segment_files(scans[:1], model, segmenter, out, every)
    rows = segment_files(scans[:1], model, segmenter, out, every, overwrite=True)
    assert statuses(rows) == ["done"] and segmented[-1][1] == (*every,)
    sidecar = json.loads((out / "sub-0_dseg.json").read_text())
    assert sidecar["Voices"] == sidecar["VoicesHeard"] == every


def test_a_segmenter_that_asks_otherwise_with_the_same_weights_is_another(
    scans, model, segmenter, segmented, tmp_path
):
    out = tmp_path / "out"
    segment_files(scans[:1], model, segmenter, out)
    before = segmentation_derivation(model, segmenter).settings
    assert before == segmentation_derivation(model, segmenter, ["unet", "atlas"]).settings
    (model / "segmenter.json").write_text('{"other_side": null}')
    assert before != segmentation_derivation(model, segmenter).settings
    with pytest.raises(VCMError, match="was not made from the inputs given now"):
        segment_files(scans[:1], model, segmenter, out)


def test_volumes_that_were_found_otherwise_are_named_in_one_table(
    scans, model, segmenter, segmented, tmp_path
):
    out = tmp_path / "out"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segment_files(scans[:1], model, segmenter, out)
        segment_files(scans[1:2], model, segmenter, out)
    (model / "atlas.safetensors").write_text("other weights")
    with pytest.warns(
        VCMWarning, match=r"another segmenter.*sub-0_T1w\.nii\.gz, sub-1_T1w\.nii\.gz"
    ):
        segment_files(scans[2:], model, segmenter, out)
    with pytest.warns(VCMWarning, match=r"say \(sub-1_T1w\.nii\.gz\)"):
        segment_files([scans[0], scans[2]], model, segmenter, out, overwrite=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segment_files(scans[1:2], model, segmenter, out, overwrite=True)


def test_a_dataset_is_done_anew_with_other_voices(model, segmenter):
    by_default = segmentation_derivation(model, segmenter).settings
    every = segmentation_derivation(model, segmenter, segmenter.voices).settings
    assert by_default != every and by_default == apply_settings(model, segmenter, None, "auto")


def test_the_brain_mask_of_an_earlier_run_goes_with_its_results(
    scans, model, segmenter, segmented, tmp_path, monkeypatch
):
    out, mask = tmp_path / "out", tmp_path / "out" / "sub-0_desc-brain_mask.nii.gz"
    extracted = module.segment_scan

    def with_skull(*given):
        found = extracted(*given)
        return replace(found, brain=Brain(found.brain.mask, "deepbet 1.0.2", 1.0))

    with monkeypatch.context() as patch:
        patch.setattr(module, "segment_scan", with_skull)
        segment_files(scans[:1], model, segmenter, out)
    assert mask.is_file()
    segment_files(scans[:1], model, segmenter, out, ["unet", "atlas"], overwrite=True)
    assert not mask.exists() and (out / "sub-0_dseg.nii.gz").is_file()


def test_a_voice_that_was_not_fitted_is_refused_before_any_scan(
    scans, model, segmenter, segmented, tmp_path
):
    with pytest.raises(VCMError, match=r"voices is .*choir.*, but the segmenter was fitted with"):
        segment_files(scans, model, segmenter, tmp_path / "out", ["choir"])
    assert not segmented and not (tmp_path / "out").exists()


def test_a_result_that_may_not_be_replaced_is_found_before_the_first_scan(
    scans, model, segmenter, segmented, tmp_path
):
    out = tmp_path / "out"
    out.mkdir()
    (out / "sub-1_dseg.nii.gz").write_text("mine")
    with pytest.raises(VCMError, match=r"sub-1_dseg\.nii\.gz exists"):
        segment_files(scans, model, segmenter, out)
    assert not segmented and [p.name for p in out.iterdir()] == ["sub-1_dseg.nii.gz"]
    rows = segment_files(scans, model, segmenter, out, overwrite=True)
    assert statuses(rows) == ["done"] * 3
    table = [row["status"] for row in read_table(out / "volumes.tsv")]
    assert table == ["done"] * 3


def test_a_scan_that_cannot_be_read_does_not_stop_the_others(
    scans, model, segmenter, segmented, tmp_path, monkeypatch
):
    def sha256(path):
        if path == scans[1]:
            raise PermissionError(13, "Permission denied", str(path))
        return "checksum"

    monkeypatch.setattr("vcm.segmentation.apply.sha256", sha256)
    scans[1].write_text("no image")
    rows = segment_files(scans, model, segmenter, tmp_path / "out")
    first, second, third = statuses(rows)
    assert (first, third) == ("done", "done") and scans[1].name in second


def test_results_that_lie_among_the_scans_are_no_scans(
    scans, model, segmenter, segmented, tmp_path
):
    """A name that does not end in T1w stays a part of the names of the results."""
    folder = scans[0].parent
    brain = folder / "sub-9_T1w_brain.nii.gz"
    scans[0].rename(brain)
    given = [brain, *scans[1:]]
    out = folder / "segmented"
    assert sorted(find_scans([folder], out)) == sorted(given)
    segment_files(find_scans([folder], out), model, segmenter, out)
    write_volume(Volume(np.zeros(SHAPE), np.eye(4)), out / "sub-8_T1w.nii.gz")
    assert sorted(find_scans([folder], out)) == sorted(given)
    (out / "sub-8_T1w.nii.gz").unlink()
    assert sorted(find_scans([folder])) == sorted(given)
    assert statuses(segment_files(find_scans([folder], out), model, segmenter, out)) == ["kept"] * 3


def test_subjects_that_are_links_are_found(scans, tmp_path):
    chosen = tmp_path / "chosen"
    (chosen / "sub-0").mkdir(parents=True)
    scans[0].rename(chosen / "sub-0" / scans[0].name)
    (chosen / "sub-1").symlink_to(scans[1].parent)
    assert [path.name for path in find_scans([chosen])] == [path.name for path in scans]


def test_a_folder_without_scans_and_no_scan_are_refused(tmp_path):
    with pytest.raises(VCMError, match=r"No \*_T1w.nii.gz lies in"):
        find_scans([tmp_path])
    with pytest.raises(VCMError, match="No scan is given"):
        find_scans([])
