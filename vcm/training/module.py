"""Train a Volumetric Conditioning Module on a frozen model; stops and resumes.

    raw  = frozen(z_t, t, covariates)              what the frozen network itself predicts, eps or v
    raw' = raw (1 + gamma) + beta                  gamma, beta = module(z_t, raw, t, condition)
    loss = mean_c w_c (raw' - target)^2 + lambda (mean |gamma| + mean |beta|)

Ahn et al., WACV 2025, arXiv 2410.21826. With a frozen model that predicts eps and w = 1 this is the
paper's loss. w_c follows how strongly latent channel c shows in the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from vcm.errors import VCMError
from vcm.imaging.conditions import CONDITION_CHANNELS, IMAGE_CONDITIONS, check_conditions
from vcm.imaging.outline import end_with_maps
from vcm.imaging.prepared_set import Subject, check_grid, one_per_folder
from vcm.imaging.scan_checksums import scan_checksums
from vcm.learning.batches import Draw, moved
from vcm.learning.origin import Origin
from vcm.learning.processes import Processes
from vcm.learning.run import TrainingRun
from vcm.nets.frozen import FrozenDenoiser
from vcm.nets.memory_format import channels_last
from vcm.pipeline import VCMPipeline
from vcm.report.training import write_training_report
from vcm.training.batches import ModuleBatch
from vcm.training.configuration import ModuleTraining, check_samples
from vcm.training.controls import make_control
from vcm.training.latents import LatentFiles, LatentSet, refuse_without_map
from vcm.training.linear_start import start_linear
from vcm.training.subjects import choose_subjects
from vcm.training.validation import Validation
from vcm.weights.load import load_pipeline
from vcm.weights.segmenter import load_segmenter

#: Training scans that are looked at for whether scans end where their label maps end.
LOOKED_AT = 20


class ModuleObjective(nn.Module):
    """Losses of what a control method makes a frozen model predict.

    Args:
        module: The control method to train.
        frozen: The denoiser that it steers; its gradients are switched off.
        channel_weight: Of each latent channel in the loss, mean 1 (C,), as the autoencoder's
            `channel_weight` gives it.
        conditions: What the module reads, in its order.
        lambda_: Weight of mean |gamma| + mean |beta|, >= 0.
    """

    def __init__(
        self,
        module: Any,
        frozen: FrozenDenoiser,
        channel_weight: Tensor,
        conditions: Sequence[str],
        lambda_: float = 0.0,
    ) -> None:
        super().__init__()
        self.module, self.frozen = module, frozen
        self.frozen.requires_grad_(False)
        self.channels, self.lambda_ = [CONDITION_CHANNELS[n] for n in conditions], lambda_
        self.register_buffer("weight", channel_weight[:, None, None, None], persistent=False)

    def forward(self, batch: ModuleBatch) -> dict[str, Tensor]:
        """Means over the batch.

        Returns:
            loss, which is minimised; steered and frozen, the errors with the module and, where the
            method computes it anyway, without; change, how far the module moves the prediction.
        """
        draws = batch.z.shape[1]
        conditions = batch.conditions.split(self.channels, 1)
        features = self.module.encode(conditions, batch.keep).repeat_interleave(draws, 0)
        z, noise, time = batch.z.flatten(0, 1), batch.noise.flatten(0, 1), batch.time.flatten()
        t = self.frozen.at(time)
        z_t = self.frozen.add_noise(z, noise, t)
        inputs = batch.inputs.repeat_interleave(draws, 0)
        steered = self.module.steer(self.frozen, z_t, t, inputs, features)
        target = self.frozen.target(z, noise, t)
        error = self._error(steered.prediction, target)
        measured = {"steered": error.detach(), "change": steered.change.detach()}
        if steered.unsteered is not None:
            measured["frozen"] = self._error(steered.unsteered, target)
        return {"loss": error + self.lambda_ * steered.change} | measured

    def _error(self, prediction: Tensor, target: Tensor) -> Tensor:
        weight: Tensor = self.get_buffer("weight")
        return (weight * (prediction.float() - target).square()).mean()


def train(config: ModuleTraining) -> dict[str, float]:
    """Train, save the whole pipeline in out/model, then measure the loss on the split `test`.

    Returns:
        Mean losses on the test scans; empty where there are none, and in all but the main process.

    Raises:
        VCMError: Where the data or the configuration allow no training.
    """
    pipeline = load_frozen(config)
    subjects = subjects_for(config, pipeline)
    objective = make_objective(config, pipeline)
    module, conditions = objective.module, tuple(config.conditions)
    pipeline.register_modules(module=module)
    own = {"scale": config.conditioning_scale, "temperature": config.temperature}
    pipeline.register_to_config(
        conditions=list(conditions), sampling=pipeline.sampling_without_module | own
    )
    origin = Origin({"model": pipeline.record_frozen()}, scan_checksums(subjects["train"]))
    run = TrainingRun(config, module, objective, origin)

    def latents(split: str) -> LatentSet:
        files = latent_files(config, pipeline, split)
        files.encode(subjects[split])
        return files.read(subjects[split], pipeline.input_rule, pipeline.volume_grid)

    def prepare(processes: Processes) -> Draw:
        pipeline.to(processes.device)
        processes.once_per_machine(lambda: latents("train"))
        train_set = latents("train")
        if getattr(module, "prior", None) is not None and not run.resumes:
            start_linear(module, pipeline.denoiser, train_set, config.seed)
        channels_last(module, pipeline.denoiser)
        count, draws, drop = config.batch_size, config.draws, config.drop
        return lambda random: train_set.draw_conditioned(count, draws, drop, random)

    @cache
    def validation() -> Validation:
        net = load_segmenter(config.segmenter) if config.segmenter else None
        picture = Path(config.out) / "validation.png"
        held_out = subjects["validation"]
        return Validation(pipeline, objective, held_out, latents("validation"), net, picture)

    run.fit(prepare, (lambda: validation()()) if config.validate_every else None)
    if not run.is_main:
        return {}
    if "classes" in conditions:
        seen = subjects["train"][:LOOKED_AT]
        pairs = ((torch.from_numpy(s.image()), torch.from_numpy(s.classes())) for s in seen)
        pipeline.register_to_config(clear_background=end_with_maps(pairs))
    pipeline.save_pretrained(run.folder / "model")
    measures: dict[str, float] = {}
    if subjects["test"]:
        pipeline.to(run.device)
        channels_last(module, pipeline.denoiser)
        measures = measure_losses(objective, latents("test"), config.batch_size, config.draws)
    write_training_report(run.folder, "Training of a conditioning module", measures)
    return measures


def load_frozen(config: ModuleTraining) -> VCMPipeline:
    """The frozen model, checked before anything else is read. Raises VCMError."""
    if not config.data or not config.model:
        raise VCMError(
            "No data or no model is given: add data=[FOLDER] with a folder written by vcm prepare, "
            "and model=FOLDER with the frozen model that the module is to steer."
        )
    check_conditions(config.conditions)
    check_samples(config)
    return load_pipeline(config.model)


def subjects_for(config: ModuleTraining, pipeline: VCMPipeline) -> dict[str, list[Subject]]:
    """Scans of train, validation and test that this model can learn from. Raises VCMError."""
    held_out = config.validation_subjects if config.validate_every else 0
    needs = pipeline.input_rule.needs
    subjects = choose_subjects(config.data, needs, config.max_samples, config.subset_seed, held_out)
    everyone = [scan for split in subjects.values() for scan in split]
    for subject in one_per_folder(everyone):
        check_grid(subject, pipeline.volume_grid, config.model)
    if not {*config.conditions} <= {*IMAGE_CONDITIONS}:
        for subject in everyone:
            refuse_without_map(subject)
    return subjects


def make_objective(config: ModuleTraining, pipeline: VCMPipeline) -> ModuleObjective:
    """A new module that steers the pipeline's denoiser, with its losses. Raises VCMError."""
    set_seed(config.seed)
    module = make_control(config, pipeline.denoiser, pipeline.latent_shape, pipeline.latent_factor)
    weight = pipeline.autoencoder.channel_weight()
    return ModuleObjective(module, pipeline.denoiser, weight, config.conditions, config.penalty)


def latent_files(config: ModuleTraining, pipeline: VCMPipeline, split: str) -> LatentFiles:
    """Where the encoded scans of a split are kept: moved copies of those of train only."""
    return LatentFiles(
        Path(config.cache or f"{config.out}/latents"),
        pipeline.autoencoder,
        config.copies if split == "train" else 1,
        config.seed,
        config.conditions,
    )


@torch.inference_mode()
def measure_losses(
    objective: ModuleObjective, latents: LatentSet, batch_size: int, draws: int
) -> dict[str, float]:
    """Mean losses over fixed draws with every condition present."""
    random = np.random.default_rng(0)
    device = next(objective.parameters()).device
    losses = []
    for _ in range(24):
        batch = latents.draw_conditioned(batch_size, draws, 0.0, random)
        losses.append(objective(moved(batch, device)))
    return {name: float(torch.stack([x[name] for x in losses]).mean()) for name in losses[0]}
