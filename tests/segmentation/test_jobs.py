"""The commands `vcm segment fit`, `apply` and `suggest` from files to files, on a small network."""

import json
import os
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

from vcm.cli.main import run_command
from vcm.files import read_table
from vcm.imaging.registration import common_template
from vcm.nets.slice_denoiser import SliceDenoiser

pytestmark = pytest.mark.slow

QUICK = ["--copies", "0", "--steps", "60", "--members", "2", "--voxels", "20000", "--judged", "0"]
QUICK += ["--voices", "features,atlas"]


@pytest.fixture(scope="module")
def files(tmp_path_factory, head_map):
    """A head, its label map of 0, 10, 20 on the head's own voxels, a label table, a slice model."""
    folder = tmp_path_factory.mktemp("labelled")
    classes, affine = head_map
    template = common_template()
    brain = np.where(classes > 0, template.data, 0)
    affine = affine.copy()
    affine[:3, 3] += (3, -2, 4)
    labels = np.select([classes == 1, classes > 1], [20, 10], 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(brain.astype(np.float32), affine), folder / "sub-1_T1w.nii.gz")
    nib.save(nib.Nifti1Image(labels, affine), folder / "sub-1_dseg.nii.gz")
    (folder / "labels.tsv").write_text("index\tname\n0\tnothing\n10\tother\n20\tbright\n")
    torch.manual_seed(0)
    SliceDenoiser((8, 8, 8, 8), groups=4, head_channels=8).save_pretrained(folder / "slices")
    return folder


@pytest.fixture(scope="module")
def model(files):
    code = run_command(
        ["segment", "fit", str(files / "sub-1_T1w.nii.gz"), "--labels", str(files / "sub-1_dseg.nii.gz"),
         "--names", str(files / "labels.tsv"), "--slices", str(files / "slices"),
         "--out", str(files / "model"), *QUICK]
    )  # fmt: skip
    assert code == 0
    return files / "model"


@pytest.fixture(scope="module")
def applied(files, model, tmp_path_factory):
    """A folder of scans, one of them broken, and what `vcm segment apply` wrote of it; its exit code."""
    folder = tmp_path_factory.mktemp("applied")
    scans, out = folder / "scans", folder / "out"
    scans.mkdir()
    (scans / "sub-1_T1w.nii.gz").write_bytes((files / "sub-1_T1w.nii.gz").read_bytes())
    (scans / "sub-0_T1w.nii.gz").write_bytes(b"no scan")
    (scans / "._sub-1_T1w.nii.gz").write_bytes(b"hidden")
    code = run_command(["segment", "apply", str(scans), f"--model={model}", "--out", str(out)])
    return scans, out, code


def test_labels_come_back_on_the_scans_own_voxels(files, applied):
    _, out, _ = applied
    given = nib.load(files / "sub-1_dseg.nii.gz")
    found = nib.load(out / "sub-1_dseg.nii.gz")
    assert np.array_equal(found.affine, given.affine)
    labels, truth = np.asarray(found.dataobj), np.asarray(given.dataobj)
    assert set(np.unique(labels)) == {0, 10, 20}
    inside = truth > 0
    right = np.mean(labels[inside] == truth[inside])
    assert right > max(0.8, np.mean(truth[inside] == 10), np.mean(truth[inside] == 20))
    for name in ("probseg", "desc-uncertainty"):
        values = nib.load(out / f"sub-1_{name}.nii.gz").get_fdata()
        assert values.min() >= 0
        assert 0 < values.max() <= 1
    sidecar = json.loads((out / "sub-1_dseg.json").read_text())
    volume = np.sum(labels == 20) * abs(np.linalg.det(given.affine[:3, :3])) / 1000
    assert sidecar["VolumesML"]["bright"] == pytest.approx(volume)
    (row,) = [row for row in read_table(out / "volumes.tsv") if row["status"] == "done"]
    assert float(row["bright"]) == pytest.approx(volume)


def test_a_scan_of_another_study_is_matched_and_this_is_said(files, model, tmp_path, capsys):
    given = nib.load(files / "sub-1_T1w.nii.gz")
    data = given.get_fdata()
    bias = np.linspace(0.5, 1.5, data.shape[0])[:, None, None]
    scan = tmp_path / "sub-2_T1w.nii.gz"
    nib.save(nib.Nifti1Image((bias * data**0.5).astype(np.float32), given.affine), scan)
    truth = np.asarray(nib.load(files / "sub-1_dseg.nii.gz").dataobj)
    right = {}
    for match in ("auto", "never"):
        out = tmp_path / match
        words = [
            str(scan),
            f"--model={model}",
            "--out",
            str(out),
            "--match",
            match,
            "--voices",
            "features",
        ]
        assert run_command(["segment", "apply", *words]) == 0
        assert "looks unlike the labelled scans" in capsys.readouterr().err
        sidecar = json.loads((out / "sub-2_dseg.json").read_text())
        assert sidecar["UnlikeLabelledScans"] > 0.05
        assert sidecar["BrightnessMatched"] == (match == "auto")
        found = np.asarray(nib.load(out / "sub-2_dseg.nii.gz").dataobj)
        right[match] = np.mean(found[truth > 0] == truth[truth > 0])
    assert right["auto"] > right["never"]
    assert run_command(["segment", "apply", str(scan), f"--model={model}", "--match", "often"]) == 2
    assert "match is often" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [("sub-1_FLAIR", "is FLAIR by its file name"), ("brain", "is T2w by its intensities")],
)
def test_a_scan_of_another_contrast_is_refused(files, model, tmp_path, capsys, name, words):
    """A segmenter of T1w scans finds something in it, and most of it wrong."""
    image = nib.load(files / "sub-1_T1w.nii.gz")
    data = image.get_fdata()
    other = np.where(data > 0, 1.1 * data.max() - data, 0).astype(np.float32)
    nib.save(nib.Nifti1Image(other, image.affine), tmp_path / f"{name}.nii.gz")
    given = ["segment", "apply", f"{tmp_path}/{name}.nii.gz", f"--model={model}"]
    assert run_command([*given, "--out", f"{tmp_path}/out"]) == 2
    told = capsys.readouterr().err
    assert words in told and "fitted to T1w scans" in told
    assert not list((tmp_path / "out").rglob("*"))


def test_one_bad_scan_does_not_stop_the_others(applied, model, capsys):
    scans, out, code = applied
    assert code == 2
    rows = {row["scan"]: row["status"] for row in read_table(out / "volumes.tsv")}
    assert rows["sub-1_T1w.nii.gz"] == "done"
    assert "sub-0_T1w.nii.gz" in rows["sub-0_T1w.nii.gz"]
    # A second time nothing is left to do but the bad one.
    capsys.readouterr()
    again = ["segment", "apply", str(scans), f"--model={model}", "--out", str(out)]
    assert run_command(again) == 2
    said = capsys.readouterr()
    assert "kept" in said.out and "1 of 2 scans were refused" in said.err


def test_results_in_one_folder_do_not_replace_each_other(files, model, applied, tmp_path, capsys):
    """The table keeps the scans of earlier runs; a volume of another run is noticed by its checksum."""
    out = tmp_path / "out"
    shutil.copytree(applied[1], out)
    rest = ["--model", str(model), "--out", str(out)]
    whole = (out / "sub-1_dseg.nii.gz").read_bytes()
    (out / "sub-1_dseg.nii.gz").write_bytes((out / "sub-1_probseg.nii.gz").read_bytes())
    os.utime(out / "sub-1_dseg.nii.gz", (0, 0))  # from before the run that was killed
    assert run_command(["segment", "apply", str(applied[0] / "sub-1_T1w.nii.gz"), *rest]) == 0
    assert (out / "sub-1_dseg.nii.gz").read_bytes() == whole
    other = tmp_path / "sub-2_T1w.nii.gz"
    other.write_bytes((files / "sub-1_T1w.nii.gz").read_bytes())
    assert run_command(["segment", "apply", str(other), *rest, "--voices", "atlas"]) == 0
    done = [row["scan"] for row in read_table(out / "volumes.tsv") if row["status"] == "done"]
    assert done == ["sub-1_T1w.nii.gz", "sub-2_T1w.nii.gz"]
    (out / "sub-3_dseg.json").write_text("{}")
    other.rename(tmp_path / "sub-3_T1w.nii.gz")
    capsys.readouterr()
    assert run_command(["segment", "apply", str(tmp_path / "sub-3_T1w.nii.gz"), *rest]) == 2
    assert "sub-3_dseg.json exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"--labels": "nothing.nii.gz"}, "does not exist"),
        ({"--voices": "choir"}, "choose one or more of features, atlas, unet"),
        ({"--time": "2"}, "time is 2"),
        ({"--slab": "-1"}, "slab is -1"),
        ({"--slices": "nowhere"}, "holds no slice diffusion model"),
        ({"--unlabelled": "0"}, "holds no background"),
        ({"--unlabelled": "77"}, "unlabelled is 77, but no voxel of a brain holds it"),
        ({"--start": "random"}, "start is random, but voices is ['features', 'atlas']"),
    ],
)
def test_what_cannot_be_fitted_is_refused_and_nothing_written(
    files, tmp_path, capsys, changes, sentence
):
    options = {
        "--labels": str(files / "sub-1_dseg.nii.gz"), "--names": str(files / "labels.tsv"),
        "--slices": str(files / "slices"), "--out": str(tmp_path / "model"),
    } | changes  # fmt: skip
    words = [word for pair in options.items() for word in pair]
    assert run_command(["segment", "fit", str(files / "sub-1_T1w.nii.gz"), *words, *QUICK]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_a_label_that_the_table_does_not_name_is_refused(files, tmp_path, capsys):
    (tmp_path / "labels.tsv").write_text("index\tname\n20\tbright\n")
    code = run_command(
        ["segment", "fit", str(files / "sub-1_T1w.nii.gz"), "--labels", str(files / "sub-1_dseg.nii.gz"),
         "--names", str(tmp_path / "labels.tsv"), "--slices", str(files / "slices"),
         "--out", str(tmp_path / "model")]
    )  # fmt: skip
    assert code == 2
    assert "[10]" in capsys.readouterr().err
