"""A training run does not go on with another frozen model, nor with other scans, than it began with."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from small_training import BRIEF

from vcm.config import load_config
from vcm.errors import VCMError
from vcm.learning.run_folder import ORIGIN
from vcm.nets.autoencoder import LatentAutoencoder
from vcm.nets.frozen_checksum import recorded_checksum
from vcm.training.autoencoder import pretrain_autoencoder
from vcm.training.configuration import (
    AutoencoderTraining,
    DiffusionTraining,
    ModuleTraining,
    SegmenterTraining,
)
from vcm.training.diffusion import pretrain_diffusion
from vcm.training.module import train
from vcm.training.segmenter import pretrain_segmenter
from vcm.weights.load import load_pipeline

SHORT = [*BRIEF, "steps=1", "batch_size=1"]
MODULE = [
    "encoder_patch=8", "encoder_channels=[8]", "encoder_groups=2", "unet_wing=0", "unet_channels=[8,8]",
    "unet_head_channels=[8,8]", "unet_groups=2", "unet_out_channels=8", "head_channels=8", "draws=1",
    "copies=1", "linear_prior=false", *SHORT,
]  # fmt: skip


@pytest.fixture
def data(small_prepared, tmp_path) -> Path:
    """Scans of one's own: four to train on, one to test with."""
    folder = shutil.copytree(small_prepared, tmp_path / "data")
    resplit(folder, "sub-3", "test", "train")
    return folder


def resplit(folder: Path, name: str, old: str, new: str) -> None:
    table = folder / "participants.tsv"
    text = table.read_text()
    assert f"{name}\t{old}" in text
    table.write_text(text.replace(f"{name}\t{old}", f"{name}\t{new}"))


def replace_weights(model: Path) -> None:
    """Another denoiser at the same path."""
    pipeline = load_pipeline(model)
    with torch.no_grad():
        for weight in pipeline.denoiser.parameters():
            weight.add_(0.1)
    pipeline.module = None
    pipeline.save_pretrained(model)


@pytest.fixture
def steer(data, small_model, tmp_path, monkeypatch):
    """Runs `vcm train`, without what is measured at the end."""
    monkeypatch.setattr("vcm.training.module.measure_losses", lambda *given: {})
    monkeypatch.setattr("vcm.training.module.write_training_report", lambda *given: None)
    frozen = load_pipeline(small_model)
    frozen.module = None
    frozen.save_pretrained(tmp_path / "m2")
    given = [
        f"data=[{data}]", f"model={tmp_path / 'm2'}", f"out={tmp_path / 'run1'}",
        f"cache={tmp_path / 'latents'}", *MODULE,
    ]  # fmt: skip
    return lambda *more: train(load_config(ModuleTraining, None, [*given, *more]))


def test_a_module_is_not_stamped_with_a_model_that_it_was_not_trained_on(steer, tmp_path):
    steer()
    made = tmp_path / "run1" / "model"
    stamped = recorded_checksum(load_pipeline(made).module.config)
    before = {p: p.read_bytes() for p in made.rglob("*") if p.is_file()}
    steer()
    assert recorded_checksum(load_pipeline(made).module.config) == stamped
    replace_weights(tmp_path / "m2")
    said = f"run1 began on the frozen model {stamped[:12]}, and .*m2 is "
    with pytest.raises(VCMError, match=f"{said}.*: .* begin another run with another out=FOLDER"):
        steer("steps=2")
    assert {p: p.read_bytes() for p in made.rglob("*") if p.is_file()} == before
    (tmp_path / "run1" / ORIGIN).unlink()  # as of a run that was begun before there was one
    steer("steps=2")
    stamped = recorded_checksum(load_pipeline(made).module.config)
    assert json.loads((tmp_path / "run1" / ORIGIN).read_text())["networks"] == {"model": stamped}


def test_a_scan_that_was_trained_on_is_never_tested_with_later(steer, data):
    steer("validation_subjects=1")
    resplit(data, "sub-2", "train", "test")
    with pytest.raises(VCMError, match=r"other training scans \(gone: sub-2\)"):
        steer("validation_subjects=1")
    resplit(data, "sub-2", "test", "train")
    resplit(data, "sub-4", "test", "train")
    with pytest.raises(VCMError, match=r"other training scans \(new: sub-4\)"):
        steer("validation_subjects=1", "steps=2")
    resplit(data, "sub-4", "train", "test")
    with pytest.raises(VCMError, match=r"gone: sub-\d.*validate_every back to resume"):
        steer("validation_subjects=1", "steps=2", "validate_every=1")
    steer("validation_subjects=1", "steps=2")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("copies=0", "copies is 0: it must be 1 or more"),
        ("draws=0", "draws is 0: it must be 1 or more"),
        ("validation_subjects=0", "validation_subjects is 0: it must be 1 or more"),
    ],
)
def test_what_no_batch_can_be_drawn_with_is_refused(steer, tmp_path, setting, said):
    with pytest.raises(VCMError, match=said):
        steer("validate_every=1", setting)
    assert not (tmp_path / "run1").exists()


AUTOENCODER = ["channels=[8,16]", "latent_channels=4", "groups=2", "crop=24", *SHORT]
DIFFUSION = ["channels=[8,8]", "head_channels=[0,8]", "groups=2", "copies=1", *SHORT]


def autoencoder(folder: Path, noise: float = 0.0) -> Path:
    torch.manual_seed(0)
    net = LatentAutoencoder((8, 16), 4, 1, 2, 4, (4, 6, 4))
    with torch.no_grad():
        net.latent_mean.add_(noise)
    net.save_pretrained(folder)
    return folder


@pytest.fixture
def learn_latents(data, tmp_path, monkeypatch):
    """Runs `vcm pretrain diffusion`, without what is drawn and measured at the end."""
    for name in ("_draw_samples", "write_training_report"):
        monkeypatch.setattr(f"vcm.training.diffusion.{name}", lambda *given: None)
    monkeypatch.setattr("vcm.training.diffusion._measure", lambda *given: {})
    given = [
        f"data=[{data}]", f"autoencoder={autoencoder(tmp_path / 'a')}", f"out={tmp_path / 'd'}",
        f"cache={tmp_path / 'latents'}", *DIFFUSION,
    ]  # fmt: skip
    return lambda *more: pretrain_diffusion(load_config(DiffusionTraining, None, [*given, *more]))


def test_a_diffusion_model_stays_with_its_autoencoder_and_scans(learn_latents, data, tmp_path):
    learn_latents()
    learn_latents("steps=2")
    autoencoder(tmp_path / "a", noise=0.1)
    with pytest.raises(VCMError, match=r"began on the autoencoder [0-9a-f]{12}, and .*a is "):
        learn_latents("steps=3")
    autoencoder(tmp_path / "a")
    resplit(data, "sub-2", "train", "test")
    with pytest.raises(VCMError, match=r"other training scans \(gone: sub-2\)"):
        learn_latents("steps=3")


def test_a_diffusion_model_starts_from_a_denoiser_of_its_sizes_alone(learn_latents, tmp_path):
    learn_latents()
    begun = tmp_path / "d" / "model" / "denoiser"
    for more, said in (
        ([f"start={begun}", "res_blocks=2"], "has other sizes than this run's"),
        ([f"start={tmp_path / 'nowhere'}"], "nowhere holds no denoiser"),
        (["copies=0"], "copies is 0: it must be 1 or more"),
    ):
        with pytest.raises(VCMError, match=said):
            learn_latents(*more, f"out={tmp_path / 'other'}")
    assert not (tmp_path / "other").exists()
    learn_latents(f"start={begun}", f"out={tmp_path / 'other'}")


def test_an_autoencoder_and_a_segmenter_stay_with_their_scans(data, tmp_path, monkeypatch):
    for job in ("autoencoder", "segmenter"):
        monkeypatch.setattr(f"vcm.training.{job}.write_training_report", lambda *given: None)
        monkeypatch.setattr(f"vcm.training.{job}.measure_{job}", lambda *given: [])
        monkeypatch.setattr(f"vcm.training.{job}.write_measures", lambda *given: {})
    given = [f"data=[{data}]", f"out={tmp_path / 'a'}", *AUTOENCODER]
    small = [f"data=[{data}]", f"out={tmp_path / 's'}", "channels=[4,4]", "groups=2", *SHORT]

    def both(*more: str) -> None:
        pretrain_autoencoder(load_config(AutoencoderTraining, None, [*given, *more]))
        pretrain_segmenter(load_config(SegmenterTraining, None, [*small, *more]))

    both()
    both("steps=2")
    resplit(data, "sub-2", "train", "test")
    for pretrain, kind, own in (
        (pretrain_autoencoder, AutoencoderTraining, given),
        (pretrain_segmenter, SegmenterTraining, small),
    ):
        with pytest.raises(VCMError, match=r"other training scans \(gone: sub-2\)"):
            pretrain(load_config(kind, None, [*own, "steps=3"]))


@pytest.mark.parametrize("kind", [AutoencoderTraining, SegmenterTraining])
def test_an_image_that_is_trained_on_is_not_measured_on(data, tmp_path, kind):
    trained, tested = (data / s / f"{s}_T1w.nii.gz" for s in ("sub-0", "sub-4"))
    shutil.copy(trained, tested)
    pretrain = {AutoencoderTraining: pretrain_autoencoder, SegmenterTraining: pretrain_segmenter}
    config = load_config(kind, None, [f"data=[{data}]", f"out={tmp_path / 'run'}", *SHORT])
    with pytest.raises(VCMError, match=r"sub-0 in .* and sub-4 in .* hold the same image"):
        pretrain[kind](config)


@pytest.mark.parametrize(
    ("start", "said"),
    [("nowhere", "holds no autoencoder"), ("a", "has other sizes than this run's")],
)
def test_an_autoencoder_starts_from_one_of_its_sizes_alone(data, tmp_path, start, said):
    autoencoder(tmp_path / "a")
    given = [f"data=[{data}]", f"out={tmp_path / 'run'}", *AUTOENCODER, "res_blocks=2"]
    config = load_config(AutoencoderTraining, None, [*given, f"start={tmp_path / start}"])
    with pytest.raises(VCMError, match=said):
        pretrain_autoencoder(config)
    assert not (tmp_path / "run").exists()
