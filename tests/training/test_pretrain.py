"""The whole chain on tiny networks: autoencoder, diffusion, module; and stops in between."""

import csv

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vcm.config import load_config
from vcm.errors import VCMError
from vcm.imaging.conditions import as_condition
from vcm.imaging.prepared_set import load_prepared
from vcm.learning.run import TrainingRun
from vcm.training.autoencoder import pretrain_autoencoder
from vcm.training.configuration import AutoencoderTraining, DiffusionTraining, ModuleTraining
from vcm.training.diffusion import pretrain_diffusion
from vcm.training.latents import draw_keep
from vcm.training.module import train
from vcm.weights.load import load_pipeline

# In float32: in bfloat16 convolutions of a few channels are not always the same, nor finite, in oneDNN.
BRIEF = ["steps=4", "checkpoint_every=1", "warmup_steps=1", "tracker=none", "mixed_precision=no"]
AUTOENCODER = ["channels=[8,16]", "latent_channels=4", "groups=2", "crop=24", *BRIEF]
DIFFUSION = ["channels=[8,8]", "head_channels=[0,8]", "groups=2", "copies=3", *BRIEF]
MODULE = [
    "conditions=[classes,ventricles]", "encoder_patch=8", "encoder_channels=[8]", "encoder_groups=2",
    "unet_wing=0", "unet_channels=[8,8]", "unet_head_channels=[8,8]", "unet_groups=2", "unet_out_channels=8",
    "head_channels=8", "draws=2", "copies=3", *BRIEF,
]  # fmt: skip


def autoencoder(small_prepared, out):
    overrides = [f"data=[{small_prepared}]", f"out={out}", *AUTOENCODER]
    return pretrain_autoencoder(load_config(AutoencoderTraining, None, overrides))


def test_a_stopped_run_goes_on_to_the_same_weights(small_prepared, tmp_path, monkeypatch):
    autoencoder(small_prepared, tmp_path / "whole")
    update = TrainingRun._update

    def stop_at_2(self, batch, place):
        if self.step == 2:
            raise KeyboardInterrupt
        return update(self, batch, place)

    monkeypatch.setattr(TrainingRun, "_update", stop_at_2)
    with pytest.raises(KeyboardInterrupt):
        autoencoder(small_prepared, tmp_path / "halves")
    monkeypatch.setattr(TrainingRun, "_update", update)
    autoencoder(small_prepared, tmp_path / "halves")
    name = "autoencoder/diffusion_pytorch_model.safetensors"
    whole, halves = (load_file(tmp_path / run / name) for run in ("whole", "halves"))
    assert whole.keys() == halves.keys()
    assert all(torch.equal(whole[k], halves[k]) for k in whole)
    losses = [
        [row["loss"] for row in csv.DictReader((tmp_path / run / "log.csv").open())]
        for run in ("whole", "halves")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_a_loss_that_is_not_finite_stops_with_a_sentence(small_prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(
        TrainingRun, "_learning_rate", lambda self: float("nan") if self.step == 1 else 1e-3
    )
    with pytest.raises(VCMError, match="lower learning_rate"):
        autoencoder(small_prepared, tmp_path / "run")


@pytest.mark.slow
def test_the_chain_gives_a_pipeline_that_takes_any_subset(small_prepared, tmp_path):
    data, cache = f"data=[{small_prepared}]", f"cache={tmp_path / 'latents'}"
    measured = autoencoder(small_prepared, tmp_path / "a")
    with (tmp_path / "a" / "test.tsv").open() as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    assert [row["subject"] for row in rows] == ["sub-3", "sub-4"]
    assert measured["psnr_brain"] == pytest.approx(np.mean([float(r["psnr_brain"]) for r in rows]))
    # Principal components alone halve the squared error of a brain of one grey (here 3.5 dB).
    (scan, *_) = load_prepared(small_prepared, split="test")
    values = scan.image()[scan.image() > 0]
    assert measured["psnr_brain"] > -20 * np.log10(values.std()) + 3

    given = [f"autoencoder={tmp_path / 'a' / 'autoencoder'}", f"out={tmp_path / 'd'}"]
    pretrain_diffusion(load_config(DiffusionTraining, None, [data, cache, *given, *DIFFUSION]))
    frozen = load_pipeline(tmp_path / "d" / "model")
    assert frozen.module is None and frozen.ranges["age"] == (30, 50)
    assert (tmp_path / "d" / "samples.png").is_file()

    given = [f"model={tmp_path / 'd' / 'model'}", f"out={tmp_path / 'm'}"]
    config = load_config(ModuleTraining, None, [data, cache, *given, *MODULE])
    measured = train(config)
    assert np.isfinite(list(measured.values())).all()
    # Latents of three training and two test scans, which both runs share, and class maps of the same.
    names = [path.name.split("_")[:2] for path in (tmp_path / "latents").iterdir()]
    assert sorted(names) == [
        [f"sub-{n}", kind] for n in range(5) for kind in ("classes", "latents")
    ]
    assert train(config) == measured

    pipeline = load_pipeline(tmp_path / "m" / "model")
    assert pipeline.config.conditions == ["classes", "ventricles"]
    frozen_weights = pipeline.denoiser.state_dict()
    assert all(torch.equal(frozen_weights[k], v) for k, v in frozen.denoiser.state_dict().items())
    classes = load_prepared(small_prepared, split="test")[0].classes()
    both = [torch.from_numpy(as_condition(n, classes))[None] for n in pipeline.config.conditions]
    options = {"num_inference_steps": 2, "output_type": "latent"}
    results = [
        pipeline(
            subset, torch.full((1, 4), 0.5), generator=torch.Generator().manual_seed(0), **options
        ).volumes
        for subset in (both, [both[0], None], [None, both[1]])
    ]
    assert all(torch.isfinite(r).all() for r in results)
    assert not torch.equal(results[0], results[1]) and not torch.equal(results[1], results[2])


def test_latent_drop_never_drops_everything_and_keeps_its_rate():
    keep = draw_keep(4000, 2, 0.5, np.random.default_rng(0))
    assert keep.any(1).all()
    # both kept 1/4, one of two 3/4: each is kept with 1/4 + 3/8
    assert keep.float().mean(0).tolist() == pytest.approx([0.625, 0.625], abs=0.03)


def test_an_unknown_condition_is_refused(small_prepared, tmp_path):
    config = load_config(
        ModuleTraining, None, ["conditions=[skull]", f"data=[{small_prepared}]", "model=x"]
    )
    with pytest.raises(VCMError, match="classes, ventricles"):
        train(config)
