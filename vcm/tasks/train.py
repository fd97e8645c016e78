"""Train a Volumetric Conditioning Module on a frozen model; stops and resumes.

    raw  = frozen(z_t, t, covariates)              what the frozen network itself predicts, eps or v
    raw' = raw (1 + gamma) + beta                  gamma, beta = module(z_t, raw, t, condition)
    loss = mean_c w_c (raw' - target)^2 + lambda (mean |gamma| + mean |beta|)

Ahn et al., WACV 2025, arXiv 2410.21826. With a frozen model that predicts eps and w = 1 this is the
paper's loss. w_c follows how strongly latent channel c shows in the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from vcm.errors import VCMError
from vcm.frozen_digest import record_frozen
from vcm.imaging.conditions import CONDITION_CHANNELS, check_conditions
from vcm.imaging.dataset import load_prepared
from vcm.imaging.image_conditions import IMAGE_CONDITIONS
from vcm.imaging.volume import Grid
from vcm.nets.frozen import FrozenDenoiser
from vcm.tasks.controls import ControlSizes, make_control
from vcm.tasks.latent_set import LatentSet, encode_subjects, with_covariates
from vcm.tasks.linear_start import start_linear
from vcm.tasks.training import Draw, TrainingRun, TrainingSchedule, has_checkpoint
from vcm.weights import load_pipeline


@dataclass
class ModuleTraining(ControlSizes, TrainingSchedule):
    """Configuration of `vcm train`.

    model         the frozen model: an embedded one by name, or a folder from `vcm pretrain diffusion`
    conditions    one or more of vcm.imaging.conditions.CONDITION_CHANNELS, an encoder for each
    drop          with several, the share of times that one is left out of a sample (modality latent
                  drop; the paper gives no rate), never all of them
    draws         noises and times per condition and step; its features are computed once for them
    penalty       lambda of the loss
    temperature   that the saved pipeline samples with by default, see VCMPipeline
    control, encoder_*, unet_*, head_*, embedding_*   the method and its sizes, see ControlSizes
    """

    data: list[str] = field(default_factory=list)
    model: str = ""
    out: str = "runs/module"
    cache: str = "runs/latents"
    drop: float = 0.3
    copies: int = 5
    draws: int = 4
    penalty: float = 0.0
    temperature: float = 1.0
    ema_decay: float = 0.998
    batch_size: int = 2


class ModuleObjective(nn.Module):
    """Conditions (B, sum C_k, X, Y, Z) with R draws each -> losses of the steered prediction."""

    def __init__(
        self,
        module: Any,
        frozen: FrozenDenoiser,
        channel_weight: Tensor,
        conditions: Sequence[str],
        penalty: float = 0.0,
    ) -> None:
        super().__init__()
        self.module, self.frozen = module, frozen
        self.frozen.requires_grad_(False)
        self.channels, self.penalty = [CONDITION_CHANNELS[n] for n in conditions], penalty
        self.register_buffer("weight", channel_weight[:, None, None, None], persistent=False)

    def forward(
        self,
        volumes: Tensor,
        z: Tensor,
        noise: Tensor,
        time: Tensor,
        covariates: Tensor,
        keep: Tensor,
    ) -> dict[str, Tensor]:
        """z, noise (B, R, C, x, y, z), time 0..1 (B, R), covariates (B, 4), keep (B, K) bool."""
        draws = z.shape[1]
        conditions = volumes.split(self.channels, 1)
        features = self.module.encode(conditions, keep).repeat_interleave(draws, 0)
        z, noise, time = z.flatten(0, 1), noise.flatten(0, 1), time.flatten()
        t = self.frozen.at(time)
        z_t = self.frozen.add_noise(z, noise, t)
        inputs = covariates.repeat_interleave(draws, 0)
        steered = self.module.steer(self.frozen, z_t, t, inputs, features)
        target = self.frozen.target(z, noise, t)
        loss = self._error(steered.prediction, target)
        measured = {"steered": loss.detach(), "change": steered.change.detach()}
        if steered.unsteered is not None:
            measured["frozen"] = self._error(steered.unsteered, target)
        return {"minimised": loss + self.penalty * steered.change} | measured

    def _error(self, found: Tensor, target: Tensor) -> Tensor:
        weight: Tensor = self.get_buffer("weight")
        return (weight * (found.float() - target).square()).mean()


def draw_keep(count: int, conditions: int, drop: float, random: np.random.Generator) -> Tensor:
    """(B, K) bool: each condition is dropped with probability `drop`, but never all of a sample."""
    keep = random.random((count, conditions)) >= drop
    spared = random.integers(conditions, size=count)
    keep[~keep.any(1), spared[~keep.any(1)]] = True
    return torch.from_numpy(keep)


def train(config: ModuleTraining) -> dict[str, float]:
    """Train, save the whole pipeline in out/model, then measure the loss on the split `test`."""
    if not config.data or not config.model:
        raise VCMError(
            "No data or no model is given: add data=[FOLDER] with a folder written by vcm prepare, "
            "and model=FOLDER with the frozen model that the module is to steer."
        )
    check_conditions(config.conditions)
    pipeline = load_pipeline(config.model)
    subjects = with_covariates(load_prepared(*config.data, split="train"))
    set_seed(config.seed)
    module = make_control(config, pipeline.denoiser, pipeline.latent_shape)

    grid = pipeline.volume_grid
    with_images = any(name in IMAGE_CONDITIONS for name in config.conditions)

    @cache
    def encode(chosen: str, copies: int) -> LatentSet:
        known = subjects if chosen == "train" else load_prepared(*config.data, split=chosen)
        return encode_subjects(
            pipeline.autoencoder,
            with_covariates(known),
            pipeline.ranges,
            copies,
            config.seed,
            config.cache,
            with_images,
        )

    if getattr(module, "prior", None) is not None and not has_checkpoint(config):
        known = encode("train", config.copies)
        start_linear(module, pipeline.denoiser, config.conditions, known, grid, config.seed)
    for part in (*module.modules(), *pipeline.denoiser.modules()):
        if isinstance(part, nn.Conv3d):
            part.to(memory_format=torch.channels_last_3d)
    weight = pipeline.autoencoder.channel_weight()
    objective = ModuleObjective(
        module, pipeline.denoiser, weight, config.conditions, config.penalty
    )
    run = TrainingRun(config, module, objective)

    def prepare() -> Draw:
        known = encode("train", config.copies)
        return lambda random: _draw(known, config, grid, config.drop, random)

    run.fit(prepare)
    pipeline.register_modules(module=module)
    pipeline.register_to_config(conditions=list(config.conditions), temperature=config.temperature)
    record_frozen(pipeline)
    pipeline.save_pretrained(run.folder / "model")
    return _measure(objective, encode("test", 1), config, grid)


def _draw(
    known: LatentSet, config: ModuleTraining, grid: Grid, drop: float, random: np.random.Generator
) -> tuple[Tensor, ...]:
    index, *drawn = known.draw_conditioned(config.batch_size, config.draws, random)
    volumes = [
        np.concatenate([known.condition(n, int(i), grid, random) for n in config.conditions])
        for i in index
    ]
    keep = draw_keep(config.batch_size, len(config.conditions), drop, random)
    return torch.from_numpy(np.stack(volumes)), *drawn, keep


@torch.inference_mode()
def _measure(
    objective: ModuleObjective, test: LatentSet, config: ModuleTraining, grid: Grid
) -> dict[str, float]:
    """Mean losses over fixed draws with every condition present."""
    random = np.random.default_rng(0)
    losses = [objective(*_draw(test, config, grid, 0.0, random)) for _ in range(24)]
    return {name: float(torch.stack([x[name] for x in losses]).mean()) for name in losses[0]}
