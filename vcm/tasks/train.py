"""Train a Volumetric Conditioning Module on a frozen model; stops and resumes.

    raw  = frozen(z_t, t, covariates)              what the frozen network itself predicts, eps or v
    raw' = raw (1 + gamma) + beta                  gamma, beta = module(z_t, raw, t, condition)
    loss = mean_c w_c (raw' - target)^2 + lambda (mean |gamma| + mean |beta|)

Ahn et al., WACV 2025, arXiv 2410.21826. With a frozen model that predicts eps and w = 1 this is the
paper's loss. w_c follows how strongly latent channel c shows in the image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from vcm.errors import VCMError
from vcm.imaging.conditions import NUMBER_OF_CLASSES
from vcm.imaging.dataset import load_prepared
from vcm.nets.denoiser import LatentDenoiser
from vcm.nets.vcm import VolumetricConditioningModule
from vcm.pipeline import VCMPipeline
from vcm.tasks.latent_set import LatentSet, encode_subjects, with_covariates
from vcm.tasks.training import Draw, TrainingRun, TrainingSchedule


@dataclass
class ModuleTraining(TrainingSchedule):
    """Configuration of `vcm train`.

    model         folder of the frozen model, as `vcm pretrain diffusion` leaves it
    draws         noises and times per condition and step; its features are computed once for them
    penalty       lambda of the loss
    encoder_*, unet_*, head_*   sizes of VolumetricConditioningModule
    """

    data: list[str] = field(default_factory=list)
    model: str = ""
    out: str = "runs/module"
    copies: int = 5
    draws: int = 4
    penalty: float = 0.0
    encoder_channels: list[int] = field(default_factory=lambda: [64])
    encoder_res_blocks: int = 1
    encoder_groups: int = 16
    encoder_patch: int = 4
    unet_channels: list[int] = field(default_factory=lambda: [96, 128])
    unet_attention: list[bool] = field(default_factory=lambda: [False, True])
    unet_head_channels: list[int] = field(default_factory=lambda: [64, 64])
    unet_res_blocks: int = 1
    unet_groups: int = 16
    unet_out_channels: int = 96
    head_channels: int = 128
    head_norm: str = "none"
    ema_decay: float = 0.998
    batch_size: int = 2


class ModuleObjective(nn.Module):
    """Conditions (B, 8, X, Y, Z) with R draws each -> losses of the steered prediction."""

    def __init__(
        self,
        module: VolumetricConditioningModule,
        frozen: LatentDenoiser,
        channel_weight: Tensor,
        penalty: float = 0.0,
    ) -> None:
        super().__init__()
        self.module, self.frozen = module, frozen
        self.frozen.requires_grad_(False)
        self.penalty = penalty
        self.register_buffer("weight", channel_weight[:, None, None, None], persistent=False)

    def forward(
        self, condition: Tensor, z: Tensor, noise: Tensor, time: Tensor, covariates: Tensor
    ) -> dict[str, Tensor]:
        """z, noise (B, R, C, x, y, z), time 0..1 (B, R), covariates (B, 4)."""
        draws = z.shape[1]
        features = self.module.encode([condition]).repeat_interleave(draws, 0)
        z, noise, time = z.flatten(0, 1), noise.flatten(0, 1), time.flatten()
        t = (time * self.frozen.config.timesteps).long()
        z_t = self.frozen.add_noise(z, noise, t)
        with torch.no_grad():
            raw = self.frozen.raw(z_t, t, covariates.repeat_interleave(draws, 0)).float()
        gamma, beta = self.module.modulation(z_t, raw, t, features)
        target = self.frozen.target(z, noise, t)
        steered = (raw * (1 + gamma) + beta).float()
        weight: Tensor = self.get_buffer("weight")
        loss = (weight * (steered - target).square()).mean()
        with torch.no_grad():
            frozen = (weight * (raw - target).square()).mean()
        change = gamma.abs().mean() + beta.abs().mean()
        return {
            "minimised": loss + self.penalty * change,
            "steered": loss.detach(),
            "frozen": frozen,
            "change": change.detach(),
        }


def train(config: ModuleTraining) -> dict[str, float]:
    """Train, save the whole pipeline in out/model, then measure the loss on the split `test`."""
    if not config.data or not config.model:
        raise VCMError(
            "No data or no model is given: add data=[FOLDER] with a folder written by vcm prepare, "
            "and model=FOLDER with the frozen model that the module is to steer."
        )
    pipeline = load_pipeline(config.model)
    subjects = with_covariates(load_prepared(*config.data, split="train"))
    module = VolumetricConditioningModule(
        latent_channels=pipeline.latent_shape[0],
        condition_channels=(NUMBER_OF_CLASSES,),
        encoder_channels=tuple(config.encoder_channels),
        encoder_res_blocks=config.encoder_res_blocks,
        encoder_groups=config.encoder_groups,
        encoder_patch=config.encoder_patch,
        unet_channels=tuple(config.unet_channels),
        unet_res_blocks=config.unet_res_blocks,
        unet_attention=tuple(config.unet_attention),
        unet_head_channels=tuple(config.unet_head_channels),
        unet_groups=config.unet_groups,
        unet_out_channels=config.unet_out_channels,
        head_channels=config.head_channels,
        head_norm=config.head_norm,  # type: ignore[arg-type]
    )
    module.to(memory_format=torch.channels_last_3d)
    pipeline.denoiser.net.to(memory_format=torch.channels_last_3d)
    weight = pipeline.autoencoder.channel_weight()
    objective = ModuleObjective(module, pipeline.denoiser, weight, config.penalty)
    run = TrainingRun(config, module, objective)

    def encode(chosen: str, copies: int) -> LatentSet:
        known = subjects if chosen == "train" else load_prepared(*config.data, split=chosen)
        return encode_subjects(
            pipeline.autoencoder, with_covariates(known), pipeline.ranges, copies, config.seed, True
        )

    def prepare() -> Draw:
        known = encode("train", config.copies)
        return lambda random: known.draw_conditioned(config.batch_size, config.draws, random)

    run.fit(prepare)
    VCMPipeline(
        pipeline.autoencoder, pipeline.denoiser, pipeline.scheduler, module, pipeline.ranges
    ).save_pretrained(run.folder / "model")
    return _measure(objective, encode("test", 1), config.draws)


def load_pipeline(folder: str) -> VCMPipeline:
    """A pipeline from a local folder. Raises VCMError if there is none."""
    if not (Path(folder) / "model_index.json").is_file():
        raise VCMError(
            f"{folder} holds no model (model_index.json): give a folder written by vcm pretrain "
            "diffusion or vcm train."
        )
    return VCMPipeline.from_pretrained(folder)


@torch.inference_mode()
def _measure(objective: ModuleObjective, test: LatentSet, draws: int) -> dict[str, float]:
    random = np.random.default_rng(0)
    losses = [objective(*test.draw_conditioned(2, draws, random)) for _ in range(24)]
    return {name: float(torch.stack([x[name] for x in losses]).mean()) for name in losses[0]}
