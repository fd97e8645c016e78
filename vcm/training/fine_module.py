"""Train a label-map module for a model of a band-limited latent, on brains drawn anew at every step.

Two stages, each a run of its own:

    reading    y(map), the first features of the encoder, learns the mean latent of a map; needs no
               trained denoiser.                         loss = mean w |mu - y|^2
    steering   the spread around the reading and the mixture of LinearPrior are fitted, then all of the
               module learns as in vcm.training.module, with reading_weight times the first loss
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.nn import functional as F

from vcm.errors import VCMError
from vcm.imaging.deformation import DeformationSizes
from vcm.imaging.scan_pool import Brains, ScanPool, load_pool
from vcm.imaging.vocabulary import NUMBER_OF_CLASSES
from vcm.learning.batches import Draw, moved
from vcm.learning.origin import Origin
from vcm.learning.processes import Processes
from vcm.learning.run import TrainingRun
from vcm.learning.start import check_network, load_start
from vcm.nets.band_autoencoder import BandAutoencoder
from vcm.nets.fine_denoiser import FineDenoiser
from vcm.nets.frozen_checksum import frozen_checksum
from vcm.nets.linear_prior import BINS, LinearPrior
from vcm.nets.memory_format import channels_last
from vcm.nets.patches import to_patches
from vcm.nets.vcm import VolumetricConditioningModule
from vcm.pipeline import VCMPipeline
from vcm.report.training import Measured, write_training_report
from vcm.training.fine_batches import BrainBatch, draws_of, measure_held_out, noised
from vcm.training.fine_configuration import FineModuleTraining, check_draws
from vcm.training.fine_diffusion import LEAST_SPREAD, check_fits
from vcm.training.linear_start import RIDGE
from vcm.weights.load import load_pipeline

STAGES = ("reading", "steering")
#: Maps read for the regression that training starts from, and for the spread and the mixture.
FITTED, MIXED = 120, 64


class FineModuleObjective(nn.Module):
    """Losses of the reading and of the steered prediction.

    Args:
        module: To train.
        frozen: The denoiser that it steers; its gradients are switched off, as the autoencoder's.
        autoencoder: Encodes the brains.
        pool: Makes them.
        steers: Whether the prediction is steered; else the reading alone is learned.
        reading_weight: Of the reading's loss, where it steers.
    """

    def __init__(
        self,
        module: VolumetricConditioningModule,
        frozen: FineDenoiser,
        autoencoder: BandAutoencoder,
        pool: ScanPool,
        steers: bool,
        reading_weight: float,
    ) -> None:
        super().__init__()
        self.module = module
        self.frozen, self.autoencoder = (
            frozen.requires_grad_(False),
            autoencoder.requires_grad_(False),
        )
        self.pool, self.steers, self.reading_weight = pool, steers, reading_weight
        weight = autoencoder.channel_weight()[:, None, None, None]
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, batch: BrainBatch) -> dict[str, Tensor]:
        """loss, which is minimised, and its parts.

        Returns:
            Of a reading: unexplained, the share of the latents' mean square that it leaves. Of
            steering: steered and frozen, the errors with and without the module, and reading.
        """
        return self.losses(batch, self.pool)

    def losses(self, batch: BrainBatch, pool: ScanPool) -> dict[str, Tensor]:
        """See BrainObjective."""
        brains = pool.make(batch.scans)
        features = self.module.encode([as_channels(brains.classes)])
        with torch.no_grad(), torch.autocast(brains.images.device.type, enabled=False):
            mu = self.autoencoder.encode(brains.images)[0]
        y = read(self.module, features)
        reading = self._error(mu, y)
        if not self.steers:
            return {"loss": reading, "unexplained": (mu - y).square().mean() / mu.square().mean()}
        draws = batch.time.shape[1]
        z, noise = noised(self.autoencoder, brains.images, batch.seeds, draws)
        t = self.frozen.at(batch.time.flatten())
        z_t = self.frozen.add_noise(z, noise, t)
        inputs = brains.covariates.repeat_interleave(draws, 0)
        features = features.repeat_interleave(draws, 0)
        steered = self.module.steer(self.frozen, z_t, t, inputs, features)
        assert steered.unsteered is not None
        target = self.frozen.target(z, noise, t)
        error = self._error(steered.prediction.float(), target)
        return {
            "loss": error + self.reading_weight * reading,
            "steered": error.detach(),
            "frozen": self._error(steered.unsteered.float(), target).detach(),
            "reading": reading.detach(),
        }

    def _error(self, found: Tensor, target: Tensor) -> Tensor:
        weight: Tensor = self.get_buffer("weight")
        return (weight * (found - target).square()).mean()


def read(module: VolumetricConditioningModule, features: Tensor) -> Tensor:
    """The mean latent of a map (B, C, x, y, z), float32, by the module's first features."""
    assert module.prior is not None
    return module.prior.reading(features).float()


def as_channels(classes: Tensor) -> Tensor:
    """Classes (B, 1, X, Y, Z) -> (B, 8, X, Y, Z) of 0 and 1, float32; background has no channel."""
    numbers = torch.arange(1, NUMBER_OF_CLASSES + 1, device=classes.device)
    return (classes == numbers[:, None, None, None]).float()


def train_fine_module(config: FineModuleTraining) -> dict[str, float]:
    """Train one stage; out/module is written and, after steering, the whole pipeline in out/model.

    Returns:
        The losses of the last step, or of the split `validation` where validate_every asks for it;
        empty in all but the main process.

    Raises:
        VCMError: Where the data or the configuration allow no training.
    """
    check_draws(config)
    pipeline = _load_frozen(config)
    frozen, autoencoder = pipeline.denoiser, pipeline.autoencoder
    pool = load_pool(config.data, "train")
    check_fits(pool, autoencoder)
    held_out = load_pool(config.data, "validation") if config.validate_every else None
    set_seed(config.seed)
    module = new_module(config, pipeline.latent_shape)
    if config.start:
        load_start(module, config.start)
    steers = config.stage == "steering"
    if not steers:
        module.requires_grad_(False)
        module.encoders.requires_grad_(True)
    objective = FineModuleObjective(
        module, frozen, autoencoder, pool, steers, config.reading_weight
    )
    origin = Origin({"model": frozen_checksum(autoencoder, frozen)}, pool.checksums())
    run = TrainingRun(config, module, objective, origin)

    def prepare(processes: Processes) -> Draw:
        objective.to(processes.device)
        if not run.resumes:
            _start(module, objective, config)
        channels_last(module, frozen, autoencoder)
        return draws_of(config, pool)

    def validate() -> dict[str, float]:
        assert held_out is not None
        return measure_held_out(objective, held_out, run.device)

    run.fit(prepare, validate if held_out is not None else None)
    if not run.is_main:
        return {}
    measures = validate() if held_out is not None else run.losses
    measured: Measured = "validation" if held_out is not None else "training"
    pipeline.to("cpu")
    module.cpu().save_pretrained(run.folder / "module")
    if steers:
        pipeline.register_modules(module=module)
        pipeline.register_to_config(
            conditions=["classes"], sampling=pipeline.sampling_without_module
        )
        pipeline.record_frozen()
        pipeline.save_pretrained(run.folder / "model")
    write_training_report(
        run.folder, "Training of a label-map module on drawn brains", measures, measured
    )
    return measures


def _load_frozen(config: FineModuleTraining) -> VCMPipeline:
    """The frozen model, checked before anything else is read. Raises VCMError."""
    if not config.data or not config.model:
        raise VCMError(
            "No data or no model is given: add data=[FOLDER] with a folder written by vcm prepare, "
            "and model=FOLDER with one written by vcm pretrain fine-diffusion."
        )
    if config.stage not in STAGES:
        raise VCMError(f"stage is '{config.stage}': choose {' or '.join(STAGES)}.")
    if config.start:
        check_network(config.start, "module", "vcm pretrain fine-module")
    pipeline = load_pipeline(config.model)
    if not isinstance(pipeline.denoiser, FineDenoiser):
        raise VCMError(
            f"The denoiser of {config.model} is a {type(pipeline.denoiser).__name__}, which vcm train "
            "steers: give a folder 'model' that vcm pretrain fine-diffusion wrote."
        )
    return pipeline


def new_module(
    config: FineModuleTraining, latent_shape: tuple[int, ...]
) -> VolumetricConditioningModule:
    """A module that reads every voxel of the map, at a latent (C, x, y, z)."""
    channels, x, y, z = latent_shape
    return VolumetricConditioningModule(
        latent_channels=channels,
        encoder_channels=(config.encoder_channels,),
        encoder_res_blocks=config.encoder_res_blocks,
        encoder_groups=8,
        encoder_patch=BandAutoencoder.factor,
        encoder_halve=False,
        prior_shape=(x, y, z),
        prior_mean=True,
        unet_wing=config.unet_wing,
        unet_channels=tuple(config.unet_channels),
        unet_attention=tuple(config.unet_attention),
        unet_head_channels=tuple(config.unet_head_channels),
        unet_res_blocks=1,
        unet_groups=8,
        unet_out_channels=config.unet_out_channels,
        head_channels=config.head_channels,
        head_norm="none",
    )


def _start(
    module: VolumetricConditioningModule, objective: FineModuleObjective, config: FineModuleTraining
) -> None:
    """What a run begins with is fitted in closed form, where `start` has not brought it."""
    assert module.prior is not None
    if not config.start:
        module.prior.mean.copy_(mean_latent(objective.autoencoder))
        fit_reading(module, objective, config.seed)
    # A mixture of zero was never fitted; a module that has steered keeps its own.
    if objective.steers and not bool(module.prior.mix.any()):
        fit_prior(module, module.prior, objective, config.seed)


def mean_latent(autoencoder: BandAutoencoder) -> Tensor:
    """What standardising takes off (C, x, y, z), in standard deviations."""
    mean: Tensor = autoencoder.latent_mean / autoencoder.latent_std
    return mean


@torch.no_grad()
def fit_reading(
    module: VolumetricConditioningModule, objective: FineModuleObjective, seed: int
) -> None:
    """Ridge regression of mean latents on folded maps: the encoder starts as the best linear one."""
    encoder: Any = module.encoders[0]
    random, device = np.random.default_rng((seed, 2)), objective.get_buffer("weight").device
    rows = encoder.conv_in.in_channels
    squares = torch.zeros(rows, rows, device=device)
    products = torch.zeros(rows, objective.autoencoder.latent_shape[0], device=device)
    mean = mean_latent(objective.autoencoder)
    for i in random.permutation(len(objective.pool))[:FITTED]:
        brains, mu, _ = _encoded(objective, int(i), random)
        folded = to_patches(as_channels(brains.classes), encoder.patch)[0].flatten(1).T
        # Air is 0 in scan and map: there is no constant to fit, and it adds nothing to either product.
        squares += folded.T @ folded
        products += folded.T @ (mu[0] + mean).flatten(1).T
    solved = torch.linalg.solve(squares + RIDGE * torch.eye(rows, device=device), products)
    encoder.start_from_linear(solved.T, torch.zeros_like(solved[0]))


@torch.no_grad()
def fit_prior(
    module: VolumetricConditioningModule,
    prior: LinearPrior,
    objective: FineModuleObjective,
    seed: int,
) -> None:
    """Spread of the latents around the reading, and the mixture per time and channel."""
    random, frozen = np.random.default_rng((seed, 3)), objective.frozen
    device = objective.get_buffer("weight").device
    chosen = random.permutation(len(objective.pool))[:MIXED]
    square = torch.zeros(objective.autoencoder.latent_shape, device=device)
    kept = []
    module.eval()
    for i in chosen:
        brains, mu, sigma = _encoded(objective, int(i), random)
        y = read(module, module.encode([as_channels(brains.classes)]))
        square += (mu - y)[0].square() + sigma[0].square()
        kept.append((mu, y, brains.covariates))
    padded = F.pad(square[None] / len(chosen), (1,) * 6, mode="replicate")
    prior.spread.copy_(F.avg_pool3d(padded, 3, stride=1)[0].sqrt().clamp(min=LEAST_SPREAD))
    over, under = torch.zeros_like(prior.mix), torch.full_like(prior.mix, 1e-6)
    for n, (z, y, inputs) in enumerate(kept):
        noise = torch.from_numpy(random.standard_normal(z.shape, dtype=np.float32)).to(device)
        t = frozen.at(torch.tensor([(n % BINS + float(random.random())) / BINS], device=device))
        z_t = frozen.add_noise(z, noise, t)
        raw = frozen(z_t, t, inputs)
        step = prior.expected(frozen, z_t, t, y) - raw
        row = int(prior.bins(frozen, t))
        over[row] += (step * (frozen.target(z, noise, t) - raw)).sum((0, 2, 3, 4))
        under[row] += step.square().sum((0, 2, 3, 4))
    prior.mix.copy_((over / under).clamp(0, 1))
    module.train()


def _encoded(
    objective: FineModuleObjective, i: int, random: np.random.Generator
) -> tuple[Brains, Tensor, Tensor]:
    """One scan of the pool, deformed, and its posterior."""
    drawn = objective.pool.draw(1, DeformationSizes(), random)._replace(numbers=torch.tensor([i]))
    brains = objective.pool.make(moved(drawn, objective.get_buffer("weight").device))
    return brains, *objective.autoencoder.encode(brains.images)
