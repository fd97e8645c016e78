"""The detail between slices is learned, kept with its model, and used by vcm upsample."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from small_brains import aligned_by_header, brain2mm_like, write_files

from vcm.cli.main import run_command
from vcm.errors import VCMError
from vcm.imaging.volume import read_volume
from vcm.upsampling.pretraining.detail_training import DetailTraining, pretrain_detail

pytestmark = pytest.mark.slow

SMALL = {
    "draws": 1, "crop": 32, "channels": [4, 4, 4, 4, 4, 4], "steps": 4, "batch_size": 2,
    "checkpoint_every": 4, "warmup_steps": 1, "mixed_precision": "no", "tracker": "none",
}  # fmt: skip


@pytest.fixture(scope="module")
def thick_model(tmp_path_factory):
    """Random weights on 5 mm voxels, with a module of thick slices; no detail network yet."""
    folder = tmp_path_factory.mktemp("models") / "thick"
    brain2mm_like(reads=2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory, thick_model, small_prepared):
    """Folder with out, pool; the means that the training returned."""
    folder = tmp_path_factory.mktemp("detail")
    config = DetailTraining(
        data=[str(small_prepared)], model=str(thick_model), out=str(folder / "out"),
        pool=str(folder / "pool"), **SMALL,
    )  # fmt: skip
    return folder, config, pretrain_detail(config)


def test_what_it_measures_is_what_it_wrote(trained):
    folder, _, means = trained
    with (folder / "out" / "test.tsv").open() as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    assert len(rows) == 2  # test subjects; three others are trained on
    assert len(list((folder / "pool").glob("*.safetensors"))) == 3 + 2
    for name, mean in means.items():
        assert mean == pytest.approx(np.mean([float(row[name]) for row in rows]), rel=1e-4)
    # Random weights expect nothing; after four small steps the interpolation is hardly touched.
    assert means["psnr_detailed"] == pytest.approx(means["psnr_interpolated"], abs=1.0)


def test_the_model_keeps_its_own_scheduler(trained, thick_model):
    folder, _, _ = trained
    name = "scheduler/scheduler_config.json"
    kept, own = (
        json.loads((f / name).read_text()) for f in (folder / "out" / "model", thick_model)
    )
    assert kept == own


def test_pooled_draws_are_used_again_and_another_model_draws_anew(trained):
    folder, config, means = trained
    before = {p.name: p.stat().st_mtime_ns for p in (folder / "pool").iterdir()}
    config.out = str(folder / "again")
    assert pretrain_detail(config) == means
    assert {p.name: p.stat().st_mtime_ns for p in (folder / "pool").iterdir()} == before
    config.out, config.noise = str(folder / "other"), 0.2
    pretrain_detail(config)
    config.noise = 0.1
    assert len(list((folder / "pool").iterdir())) == 2 * len(before)


def test_upsample_takes_its_uncertainty_from_it(trained, tmp_path, monkeypatch):
    aligned_by_header(monkeypatch)
    folder, _, _ = trained
    path = write_files(tmp_path)["thick"]
    command = ["upsample", path, "--out", tmp_path / "out", "--spacing", "5"]
    command += ["--samples", "1", "--steps", "2", "--model", folder / "out" / "model"]

    def ran(*options):
        return run_command([str(part) for part in (*command, *options)]) == 0

    assert ran()
    # On a finer grid than the model's the network still takes part.
    assert ran("--spacing", "4", "--samples", "0", "--out", tmp_path / "finer")
    name = "sub-1_acq-thick_desc"
    finer = json.loads((tmp_path / "finer" / f"{name}-upsampled_T1w.json").read_text())
    assert finer["Uncertainty"].startswith("error that the detail network expects")
    out = tmp_path / "out"
    generated = read_volume(out / f"{name}-generatedT1w_mask.nii.gz").data > 0
    spread = read_volume(out / f"{name}-upsampledstd_T1w.nii.gz").data
    # One sample has no spread: this uncertainty is the network's.
    assert (spread[generated] > 0).all() and np.median(spread[generated]) > 1
    record = json.loads((out / f"{name}-upsampled_T1w.json").read_text())
    assert record["Uncertainty"] == "error that the detail network expects, one standard deviation"
    assert record["Settings"]["mirrors"] is True
    assert ran("--no-mirrors", "--out", tmp_path / "once")
    eight, once = (
        read_volume(folder / f"{name}-upsampled_T1w.nii.gz").data
        for folder in (out, tmp_path / "once")
    )
    assert 0 < np.abs(eight - once).max() < 70


def test_a_crop_larger_than_the_brain_is_refused(trained):
    folder, config, _ = trained
    config.out, config.crop = str(folder / "large"), 320
    with pytest.raises(VCMError, match="crop is 320"):
        pretrain_detail(config)
    config.crop = 32


def test_crops_whose_gradients_are_garbage_in_bfloat16_are_refused(trained):
    """Two voxels at the deepest level: what oneDNN computes there changes with what memory held."""
    _, config, _ = trained
    refused = replace(config, mixed_precision="bf16", crop=64)
    with pytest.raises(VCMError, match=r"crop is 64.* at least 96"):
        pretrain_detail(refused)
