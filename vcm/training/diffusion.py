"""Pretrain the latent diffusion model that later stays frozen; stops and resumes.

loss = mean_c w_c (v_theta(z_t, t, covariates) - v)^2        v = alpha_t eps - sigma_t z_0

with w_c in proportion to how strongly latent channel c shows in the image, so that the first
components, which carry the anatomy, are learned before the last ones, which carry the texture.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from vcm.diffusion.sampling import make_scheduler, sample
from vcm.errors import VCMError
from vcm.imaging.covariates import COVARIATES, describe_population, trained_ranges
from vcm.imaging.geometry import FIELD_OF_VIEW, model_grid
from vcm.imaging.prepared_set import load_prepared
from vcm.inputs import InputRule, with_complete_covariates
from vcm.learning.run import Draw, TrainingRun
from vcm.nets.autoencoder import LatentAutoencoder
from vcm.nets.denoiser import LatentDenoiser
from vcm.pipeline import VCMPipeline
from vcm.report.picture import mosaic
from vcm.training.configuration import DiffusionTraining
from vcm.training.latents import LatentSet, encode_subjects


class DiffusionObjective(nn.Module):
    """z_0, noise, time in 0..1 and covariates -> losses of the network's own prediction v."""

    def __init__(self, net: LatentDenoiser, channel_weight: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("weight", channel_weight[:, None, None, None], persistent=False)

    def forward(
        self, z: Tensor, noise: Tensor, time: Tensor, covariates: Tensor
    ) -> dict[str, Tensor]:
        t = self.net.at(time)
        found = self.net.raw(self.net.add_noise(z, noise, t), t, covariates).float()
        squared = (found - self.net.target(z, noise, t)).square()
        weight: Tensor = self.get_buffer("weight")
        return {"loss": (weight * squared).mean(), "v_mse": squared.mean()}


def pretrain_diffusion(config: DiffusionTraining) -> dict[str, float]:
    """Train, then measure the loss on the split `test` at fixed noise. Returns the measures."""
    if not config.data or not config.autoencoder:
        raise VCMError(
            "No data or no autoencoder is given: add data=[FOLDER] with a folder written by vcm "
            "prepare, and autoencoder=FOLDER with one written by vcm pretrain autoencoder."
        )
    if not (Path(config.autoencoder) / "config.json").is_file():
        raise VCMError(
            f"{config.autoencoder} holds no autoencoder (config.json): give the folder 'autoencoder' "
            "that vcm pretrain autoencoder wrote."
        )
    autoencoder = LatentAutoencoder.from_pretrained(config.autoencoder).eval()
    everyone = load_prepared(*config.data, split="train")
    subjects = with_complete_covariates(everyone, COVARIATES)
    ranges, population = trained_ranges(subjects), describe_population(subjects)
    rule = InputRule(COVARIATES, ranges, population)
    set_seed(config.seed)
    net = LatentDenoiser(
        autoencoder.config.latent_channels,
        channels=tuple(config.channels),
        attention=tuple(config.attention),
        head_channels=tuple(config.head_channels),
        res_blocks=config.res_blocks,
        groups=config.groups,
        latent_shape=tuple(autoencoder.config.latent_shape),
    )
    if config.start:
        net.load_state_dict(LatentDenoiser.from_pretrained(config.start).state_dict(), strict=False)
    net.net.to(memory_format=torch.channels_last_3d)
    objective = DiffusionObjective(net, autoencoder.channel_weight())
    run = TrainingRun(config, net, objective)

    def prepare() -> Draw:
        known = encode_subjects(
            autoencoder, subjects, rule, config.copies, config.seed, config.cache
        )
        net.spread.copy_(known.spread())
        return lambda random: known.draw(config.batch_size, random)

    run.fit(prepare)
    if not run.is_main:
        return {}
    # Every model covers the same field of view; its spacing follows from its number of voxels.
    grid = model_grid(FIELD_OF_VIEW[0] / (autoencoder.latent_shape[1] * autoencoder.factor))
    VCMPipeline(
        autoencoder,
        net,
        make_scheduler("ddim"),
        covariate_ranges=ranges,
        population=population,
        grid={"shape": list(grid.shape), "affine": grid.affine.tolist()},
    ).save_pretrained(run.folder / "model")
    held_out = with_complete_covariates(load_prepared(*config.data, split="test"), COVARIATES)
    test = encode_subjects(autoencoder, held_out, rule, 1, config.seed, config.cache)
    _draw_samples(net, autoencoder, test, run.folder / "samples.png")
    return _measure(objective, test)


@torch.inference_mode()
def _measure(objective: DiffusionObjective, test: LatentSet) -> dict[str, float]:
    random = np.random.default_rng(0)
    losses = [objective(*test.draw(8, random)) for _ in range(16)]
    return {name: float(torch.stack([x[name] for x in losses]).mean()) for name in losses[0]}


@torch.inference_mode()
def _draw_samples(
    net: LatentDenoiser, autoencoder: LatentAutoencoder, test: LatentSet, path: Path
) -> None:
    """Eight uncontrolled samples with the covariates of the first test subjects; 50 DDIM steps."""
    values = test.covariates[:8]
    shape = (len(values), *test.mu.shape[1:])
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    z = sample(lambda z, t: net(z, t, values), noise, make_scheduler("ddim"), 50)
    images = [autoencoder.decode(one[None])[0, 0].numpy() for one in z]
    mosaic(images, path, [f"sample {n}" for n in range(len(images))])
