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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from vcm.errors import VCMError
from vcm.imaging.conditions import CONDITION_CHANNELS, IMAGE_CONDITIONS, check_conditions
from vcm.imaging.prepared_set import Subject, check_grid
from vcm.imaging.volume import Grid
from vcm.learning.run import Draw, TrainingRun, has_checkpoint
from vcm.nets.frozen import FrozenDenoiser
from vcm.pipeline import VCMPipeline
from vcm.training.configuration import ModuleTraining
from vcm.training.controls import make_control
from vcm.training.latents import LatentSet, encode_subjects
from vcm.training.linear_start import start_linear
from vcm.training.subjects import choose_subjects
from vcm.training.validation import Validation
from vcm.weights.frozen import record_frozen
from vcm.weights.load import load_pipeline
from vcm.weights.segmenter import load_segmenter


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
    setup = set_up(config)
    pipeline, module = setup.pipeline, setup.module
    if getattr(module, "prior", None) is not None and not has_checkpoint(config):
        known = setup.encoded("train")
        start_linear(module, pipeline.denoiser, config.conditions, known, setup.grid, config.seed)
    for part in (*module.modules(), *pipeline.denoiser.modules()):
        if isinstance(part, nn.Conv3d):
            part.to(memory_format=torch.channels_last_3d)
    run = TrainingRun(config, module, setup.objective)

    def prepare() -> Draw:
        known = setup.encoded("train")
        return lambda random: draw_batch(known, config, setup.grid, config.drop, random)

    pipeline.register_modules(module=module)
    pipeline.register_to_config(conditions=list(config.conditions), temperature=config.temperature)
    run.fit(prepare, setup.validation() if config.validate_every else None)
    record_frozen(pipeline)
    if run.is_main:
        pipeline.save_pretrained(run.folder / "model")
    return _measure(setup.objective, setup.encoded("test"), config, setup.grid)


@dataclass
class Setup:
    """Everything that a training of a module needs, before its first step."""

    config: ModuleTraining
    pipeline: VCMPipeline
    module: Any
    objective: ModuleObjective
    subjects: dict[str, list[Subject]]
    _latents: dict[str, LatentSet] = field(default_factory=dict, init=False)

    @property
    def grid(self) -> Grid:
        """Voxels of the frozen model's volumes."""
        return self.pipeline.volume_grid

    @property
    def with_images(self) -> bool:
        """Whether a condition is made of the scans themselves."""
        return any(name in IMAGE_CONDITIONS for name in self.config.conditions)

    def encoded(self, split: str) -> LatentSet:
        """Latents of the scans of train, validation or test; copies of those of train only."""
        if split not in self._latents:
            self._latents[split] = encode_subjects(
                self.pipeline.autoencoder,
                self.subjects[split],
                self.pipeline.input_rule,
                self.config.copies if split == "train" else 1,
                self.config.seed,
                self.config.cache,
                self.with_images,
            )
        return self._latents[split]

    def validation(self) -> Validation:
        """Of the scans held out for it, with everything that is random fixed now."""
        config, known = self.config, self.encoded("validation")
        volumes = [
            [
                known.condition(name, n, self.grid, np.random.default_rng((n, k)))
                for k, name in enumerate(config.conditions)
            ]
            for n in range(len(known.mu))
        ]
        keep = torch.ones(1, len(config.conditions), dtype=torch.bool)

        def batch(n: int, time: Tensor) -> tuple[Tensor, ...]:
            condition = torch.from_numpy(np.concatenate(volumes[n]))[None]
            shape = (2, 1, 1, *known.mu.shape[1:])
            random = np.random.default_rng((n, int(1000 * float(time))))
            spread, noise = torch.from_numpy(random.standard_normal(shape, dtype=np.float32))
            z = known.mu[n].float() + known.sigma[n].float() * spread
            return condition, z, noise, time[None], known.covariates[n][None], keep

        segmenter = load_segmenter(config.segmenter) if config.segmenter else None
        return Validation(
            self.pipeline,
            self.objective,
            batch,
            self.subjects["validation"],
            [[torch.from_numpy(v)[None] for v in own] for own in volumes],
            known.covariates,
            segmenter,
            Path(config.out) / "validation.png",
        )


def set_up(config: ModuleTraining) -> Setup:
    """Load the frozen model, choose the scans, make the module. Raises VCMError."""
    if not config.data or not config.model:
        raise VCMError(
            "No data or no model is given: add data=[FOLDER] with a folder written by vcm prepare, "
            "and model=FOLDER with the frozen model that the module is to steer."
        )
    check_conditions(config.conditions)
    pipeline = load_pipeline(config.model)
    held_out = config.validation_subjects if config.validate_every else 0
    subjects = choose_subjects(
        config.data, pipeline.input_rule.needs, config.max_samples, config.subset_seed, held_out
    )
    check_grid(subjects["train"][0], pipeline.volume_grid, config.model)
    set_seed(config.seed)
    module = make_control(config, pipeline.denoiser, pipeline.latent_shape)
    weight = pipeline.autoencoder.channel_weight()
    objective = ModuleObjective(
        module, pipeline.denoiser, weight, config.conditions, config.penalty
    )
    return Setup(config, pipeline, module, objective, subjects)


def draw_batch(
    known: LatentSet, config: ModuleTraining, grid: Grid, drop: float, random: np.random.Generator
) -> tuple[Tensor, ...]:
    """One global batch as ModuleObjective takes it."""
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
    device = next(objective.parameters()).device
    losses = []
    for _ in range(24):
        batch = draw_batch(test, config, grid, 0.0, random)
        losses.append(objective(*(x.to(device) for x in batch)))
    return {name: float(torch.stack([x[name] for x in losses]).mean()) for name in losses[0]}
