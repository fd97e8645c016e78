"""Training on brains drawn anew: a stopped run goes on to the same weights, and its folder is a model."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_pool import small_pool

from vcm.errors import VCMError
from vcm.imaging.conditions import one_hot
from vcm.imaging.covariates import to_unit
from vcm.imaging.prepared_set import load_prepared
from vcm.imaging.scan_pool import load_pool
from vcm.learning.run_folder import ORIGIN
from vcm.nets.band_autoencoder import BandAutoencoder
from vcm.nets.fine_denoiser import FineDenoiser
from vcm.nets.frozen_checksum import recorded_checksum
from vcm.nets.with_linear_prior import WithLinearPrior
from vcm.training import band_decoder, fine_diffusion, fine_module
from vcm.training.configuration import ModuleTraining
from vcm.training.fine_batches import draw_times, noised
from vcm.training.fine_configuration import (
    BandDecoderTraining,
    FineDiffusionTraining,
    FineModuleTraining,
)
from vcm.training.module import train
from vcm.weights.load import load_pipeline

SHORT = {
    "data": ["pool"], "checkpoint_every": 1, "mixed_precision": "no", "tracker": "none",
    "warmup_steps": 1, "learning_rate": 1e-3, "final_learning_rate": 1e-3, "batch_size": 2,
}  # fmt: skip
NET = {
    "channels": [8, 8], "head_channels": [0, 8], "groups": 4, "wing": 8,
}  # fmt: skip
MODULE = {
    "encoder_channels": 8, "encoder_res_blocks": 1, "unet_wing": 8, "unet_channels": [16, 16],
    "unet_head_channels": [0, 8], "unet_out_channels": 8, "head_channels": 8,
}  # fmt: skip


@pytest.fixture(autouse=True)
def drawn_from_a_small_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (band_decoder, fine_diffusion, fine_module):
        monkeypatch.setattr(module, "load_pool", lambda data, split: small_pool())


@pytest.fixture
def autoencoder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    net = band_decoder.fresh_autoencoder(small_pool().scans(), [4, 4], [1, 1])
    net.save_pretrained(tmp_path / "autoencoder")
    return tmp_path / "autoencoder"


def diffusion(autoencoder: Path, out: Path, steps: int, **more) -> dict[str, torch.Tensor]:
    config = FineDiffusionTraining(
        **{**SHORT, **NET, **more}, autoencoder=str(autoencoder), out=str(out), steps=steps
    )
    fine_diffusion.pretrain_fine_diffusion(config)
    return dict(FineDenoiser.from_pretrained(out / "model" / "denoiser").state_dict())


def test_a_stopped_training_goes_on_to_the_same_weights(autoencoder: Path, tmp_path: Path) -> None:
    whole = diffusion(autoencoder, tmp_path / "whole", 3)
    start = diffusion(autoencoder, tmp_path / "parts", 2)
    parts = diffusion(autoencoder, tmp_path / "parts", 3)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert any(not torch.equal(whole[name], start[name]) for name in whole)


def test_what_a_training_learns_from_is_recorded_and_what_may_change_is_said(
    autoencoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    out = tmp_path / "out"
    diffusion(autoencoder, out, 1)
    assert set(json.loads((out / ORIGIN).read_text())["scans"]) == {"a", "b", "c"}
    net = BandAutoencoder.from_pretrained(autoencoder)
    net.latent_mean.add_(0.1)
    net.save_pretrained(autoencoder)
    monkeypatch.setattr(fine_diffusion, "load_pool", lambda data, split: small_pool(2))
    diffusion(autoencoder, out, 2)
    said = capsys.readouterr().err
    assert re.search(r"resumes from step 1 with autoencoder [0-9a-f]{12} -> [0-9a-f]{12}\.", said)
    assert "resumes from step 1 with other training scans (gone: c" in said


def test_frozen_model_and_module_are_a_pipeline(autoencoder: Path, tmp_path: Path) -> None:
    diffusion(autoencoder, tmp_path / "diffusion", 1, validate_every=1)
    common = {**SHORT, **MODULE, "model": str(tmp_path / "diffusion" / "model"), "steps": 1}
    reading = FineModuleTraining(**common, out=str(tmp_path / "reading"))
    assert "unexplained" in fine_module.train_fine_module(reading)
    steering = FineModuleTraining(
        **common, out=str(tmp_path / "steering"), stage="steering", validate_every=1,
        start=str(tmp_path / "reading" / "module"),
    )  # fmt: skip
    assert {"steered", "frozen", "reading"} < set(fine_module.train_fine_module(steering))
    pipeline = load_pipeline(tmp_path / "steering" / "model")
    began = json.loads((tmp_path / "steering" / ORIGIN).read_text())
    assert began["networks"] == {"model": recorded_checksum(pipeline.module.config)}
    assert set(began["scans"]) == {"a", "b", "c"}
    assert isinstance(pipeline.autoencoder, BandAutoencoder)
    assert isinstance(pipeline.denoiser, FineDenoiser)
    assert list(pipeline.config.conditions) == ["classes"]
    found = pipeline(
        torch.rand(1, 8, 16, 16, 16), covariates=torch.full((1, 4), 0.5), num_inference_steps=2,
        generator=torch.Generator().manual_seed(0), output_type="np",
    ).volumes  # fmt: skip
    assert found.shape == (1, 1, 16, 16, 16)
    assert np.isfinite(found).all()


def test_the_decoder_trains_and_keeps_the_latents(autoencoder: Path, tmp_path: Path) -> None:
    config = BandDecoderTraining(
        **SHORT, start=str(autoencoder), out=str(tmp_path / "decoder"), steps=2, crop=8,
        decoder_channels=[4, 4], decoder_blocks=[1, 1], discriminator_channels=[4, 4],
        adversarial_weight=0.1,
    )  # fmt: skip
    measured = band_decoder.pretrain_band_decoder(config)
    assert {"mse", "fooled", "told_apart"} < set(measured)
    began = json.loads((tmp_path / "decoder" / ORIGIN).read_text())
    assert set(began["scans"]) == {"a", "b", "c"}
    before, after = (
        BandAutoencoder.from_pretrained(folder)
        for folder in (autoencoder, tmp_path / "decoder" / "autoencoder")
    )
    image = small_pool().scans()[:1]
    assert torch.equal(before.encode(image)[0], after.encode(image)[0])
    assert not torch.equal(before.detail.write.weight, after.detail.write.weight)


@pytest.mark.parametrize("adversarial", [0.0, 0.1])
def test_the_losses_reach_each_network_and_no_other(adversarial: float) -> None:
    torch.manual_seed(0)
    pair = band_decoder.DecoderPair((4, 4), (1, 1), (4, 8))
    torch.nn.init.normal_(pair.detail.write.weight, std=0.1)
    u, x = torch.rand(2, 1, 16, 16, 16), torch.rand(2, 1, 16, 16, 16)
    batch = band_decoder.SmoothCrops(u, torch.zeros(2, 1, 8, 8, 8), x, torch.ones(2))

    def gradients(weight: float) -> list[torch.Tensor | None]:
        pair.zero_grad()
        objective = band_decoder.DecoderObjective(
            pair, BandDecoderTraining(adversarial_weight=weight)
        )
        objective(batch)["loss"].backward()
        assert pair.detail.write.weight.grad is not None
        return [None if p.grad is None else p.grad.clone() for p in pair.discriminator.parameters()]

    learned = gradients(adversarial)
    assert all((g is not None) == (adversarial > 0) for g in learned)
    if adversarial:
        # The decoder's adversarial term must not teach the discriminator to be fooled.
        for one, other in zip(learned, gradients(1e-9), strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_the_spread_is_the_root_mean_square_around_each_place(autoencoder: Path) -> None:
    pool, net = small_pool(), BandAutoencoder.from_pretrained(autoencoder)
    spread = fine_diffusion.measure_spread(net, pool)
    z = torch.cat([net.encode(x)[0] for i in pool.scans() for x in (i[None], i[None].flip(2))])
    assert spread.shape == net.latent_shape
    expected = (z.square().mean() + net.noise**2).sqrt()
    assert float(spread.square().mean().sqrt()) == pytest.approx(float(expected), rel=0.1)


def test_noise_comes_from_each_brains_own_seed(autoencoder: Path) -> None:
    net, images = BandAutoencoder.from_pretrained(autoencoder), small_pool().scans()[:2]
    noise = noised(net, images, torch.tensor([3, 4]), 2)[1]
    assert torch.equal(noise[2:], noised(net, images[1:], torch.tensor([4]), 2)[1])
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], noise[2])


def test_times_are_inside_and_lean_to_where_they_are_asked_to() -> None:
    random = np.random.default_rng(0)
    plain = draw_times((4000,), 0.0, 2, 6, random)
    near = draw_times((4000,), 1.0, 2, 6, random)
    assert plain.min() >= 0
    assert plain.max() < 1
    assert float(plain.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(near.mean()) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"draws": 0}, "draws is 0: it must be 1 or more"),
        ({"focus": 1.5}, "focus is 1.5, a share: choose 0 to 1"),
        ({"focus_b": 0.0}, "focus_b is 0: it must exceed 0"),
        ({"deform": -1.0}, "deform is -1, a factor"),
        ({"data": []}, "No data or no autoencoder is given"),
    ],
)
def test_what_nothing_can_be_drawn_with_is_refused(
    setting: dict, sentence: str, autoencoder: Path, tmp_path: Path
) -> None:
    with pytest.raises(VCMError, match=sentence):
        diffusion(autoencoder, tmp_path / "out", 1, **setting)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_vcm_train_steers_it_with_a_method_that_reaches_into_the_folded_unet(
    small_prepared: Path, tmp_path: Path
) -> None:
    pool = load_pool([str(small_prepared)], "train")
    torch.manual_seed(0)
    code = band_decoder.fresh_autoencoder(pool.scans(), [4, 4], [1, 1])
    net = FineDenoiser(
        channels=(8, 8), head_channels=(0, 8), groups=4, wing=8, latent_shape=code.latent_shape[1:]
    )
    fine_diffusion.frozen_pipeline(code, net, pool).save_pretrained(tmp_path / "frozen")
    config = ModuleTraining(
        data=[str(small_prepared)], model=str(tmp_path / "frozen"), out=str(tmp_path / "run"),
        cache=str(tmp_path / "latents"), control="controlnet-lite", steps=1, copies=1, draws=1,
        embedding_channels=[4, 4, 8, 8], tracker="none", mixed_precision="no",
    )  # fmt: skip
    assert train(config)["steered"] > 0
    pipeline = load_pipeline(tmp_path / "run" / "model")
    module = pipeline.module
    assert isinstance(module, WithLinearPrior)
    assert module.fold == 2
    assert bool(module.prior.mix.any())
    classes = load_prepared(small_prepared)[0].classes()
    inputs = torch.full((1, net.config.covariates), 0.5)
    hot = torch.from_numpy(one_hot(classes))[None]
    made = pipeline([hot], inputs, num_inference_steps=1, output_type="np")
    assert made.volumes.shape[2:] == classes.shape
    assert np.isfinite(made.volumes).all()


def test_covariates_of_a_pool_are_those_of_its_table(small_prepared: Path) -> None:
    pool = load_pool([str(small_prepared)], "train")
    for n, subject in enumerate(load_prepared(small_prepared, split="train")):
        found = pool.covariates(torch.tensor([n]), pool.classes[n : n + 1])[0]
        assert subject.ventricular_volume is not None and subject.brain_volume is not None
        values = {
            "sex": float(subject.sex == "M"),
            "age": subject.age or 0.0,
            "ventricular_volume": subject.ventricular_volume,
            "brain_volume": subject.brain_volume,
        }
        assert found.tolist() == pytest.approx(to_unit(values, pool.ranges), abs=1e-3)


def test_a_start_of_other_sizes_or_none_is_refused_before_anything_is_written(
    autoencoder: Path, tmp_path: Path
) -> None:
    config = BandDecoderTraining(**SHORT, crop=8, out=str(tmp_path / "run"))
    for more, sentence in (
        ({"start": str(autoencoder)}, "has other sizes than this run's"),
        ({"start": str(tmp_path)}, "holds no autoencoder"),
        ({"crop": 20}, "crop is 20, but the scans have"),
        ({"crop": 10}, "it must be a multiple of 4"),
    ):
        with pytest.raises(VCMError, match=sentence):
            band_decoder.pretrain_band_decoder(replace(config, **more))
    with pytest.raises(VCMError, match="holds no denoiser"):
        diffusion(autoencoder, tmp_path / "run", 1, start=str(tmp_path))
    assert not (tmp_path / "run").exists()
