"""What a decoder meets in use: latents that a diffusion model has denoised, beside the scans they come from.

    z_i = sqrt(a_i) z_0 + sqrt(1 - a_i) e        where step i of the sampling begins
    z'  = the sampling from step i on

A late i keeps the scan's anatomy and adds the errors of the model's last steps; an early one leaves more
to the model (SDEdit, Meng et al. 2022, arXiv 2108.01073). Half of the batches obey the label map, the
other half are uncontrolled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vcm.diffusion.sampling import sample_from
from vcm.errors import VCMError
from vcm.imaging.deformation import DeformationSizes
from vcm.imaging.scan_pool import ScanDraw, ScanPool
from vcm.learning.run import TrainingRun
from vcm.nets.band_autoencoder import FACTOR, BandAutoencoder
from vcm.pipeline import VCMPipeline
from vcm.training.adversarial import adversarial_ramp
from vcm.training.decoder_losses import DecoderObjective, SmoothCrops
from vcm.training.fine_batches import noised
from vcm.training.fine_configuration import BandDecoderTraining
from vcm.training.fine_module import as_channels

#: Share of the batches whose latents are those of the scans, and of the others that obey the map.
EXACT, OBEYING = 0.15, 0.5


class SampledBatch(NamedTuple):
    """B brains; the first five as in ScanDraw, the others alike in all of a batch but for the seeds.

    Attributes:
        numbers: (B,).
        affine: (B, 3, 4) [mm].
        coarse: (B, 3, ...) [mm].
        fine: (B, 3, ...) [mm].
        appearance: (B, 3).
        begin: Step of the sampling to begin with; the number of steps: none is taken (B,).
        obeys: Whether the label map steers (B,).
        seeds: Of each brain's noises (B,).
        ramp: How much the adversarial loss counts, 0..1 (B,).
        corners: First voxels of the crops of each brain (B, K, 3).
    """

    numbers: Tensor
    affine: Tensor
    coarse: Tensor
    fine: Tensor
    appearance: Tensor
    begin: Tensor
    obeys: Tensor
    seeds: Tensor
    ramp: Tensor
    corners: Tensor


class SampledBrainsObjective(nn.Module):
    """Losses of decoder and discriminator on brains that the model has denoised.

    Args:
        objective: Of the losses.
        net: Encodes the scans; its decoder is the one that trains.
        pipeline: The model with its module; its gradients are switched off.
        pool: Makes the brains.
    """

    def __init__(
        self,
        objective: DecoderObjective,
        net: BandAutoencoder,
        pipeline: VCMPipeline,
        pool: ScanPool,
    ) -> None:
        super().__init__()
        self.objective, self.net, self.pool = objective, net, pool
        self.denoiser = pipeline.denoiser.requires_grad_(False).eval()
        self.module = pipeline.module.requires_grad_(False).eval()
        pipeline.use_scheduler("auto")
        self.scheduler = pipeline.scheduler
        self.steps = pipeline.recommended_steps
        self.temperature = float(pipeline.config.temperature)
        self.crop = objective.config.crop

    def forward(self, batch: SampledBatch) -> dict[str, Tensor]:
        """See DecoderObjective."""
        with torch.no_grad(), torch.autocast(batch.affine.device.type, enabled=False):
            brains = self.pool.make(ScanDraw(*batch[:5]))
            z, noise = noised(self.net, brains.images, batch.seeds, 1)
            begin, obeys = int(batch.begin[0]), bool(batch.obeys[0])
            if begin < self.steps:
                classes = brains.classes if obeys else None
                z = self._denoised(z, noise, begin, brains.covariates, classes)
            u = self.net.smooth(self.net.unstandardise(z.float()))
            smooth, images = (self._crops(whole, batch.corners) for whole in (u, brains.images))
            low = self.crop * self.net.fold // FACTOR
            nothing = smooth.new_zeros(len(smooth), 1, low, low, low)
        found: dict[str, Tensor] = self.objective(SmoothCrops(smooth, nothing, images, batch.ramp))
        return found

    def _crops(self, whole: Tensor, corners: Tensor) -> Tensor:
        """(B, 1, X, Y, Z) and (B, K, 3) -> (B K, 1, crop, crop, crop)."""
        places = [
            [tuple(slice(c, c + self.crop) for c in p) for p in ps] for ps in corners.tolist()
        ]
        return torch.stack([whole[n, :, x, y, z] for n, ps in enumerate(places) for x, y, z in ps])

    def _denoised(
        self, z: Tensor, noise: Tensor, begin: int, covariates: Tensor, classes: Tensor | None
    ) -> Tensor:
        device = z.device.type
        with torch.autocast(device, torch.bfloat16):
            features = None if classes is None else self.module.encode([as_channels(classes)])

        def predict(z_t: Tensor, t: Tensor) -> Tensor:
            times = t.to(z_t.device).expand(len(z_t))
            with torch.autocast(device, torch.bfloat16):
                if features is None:
                    raw = self.denoiser(z_t, times, covariates)
                else:
                    raw = self.module(self.denoiser, z_t, times, covariates, features).prediction
            output: Tensor = self.denoiser.to_model_output(raw.float(), z_t, times)
            return output

        return sample_from(predict, z, self.temperature * noise, self.scheduler, self.steps, begin)


def check_sampled(config: BandDecoderTraining, pipeline: VCMPipeline) -> None:
    """Raise VCMError where a model's samples cannot be what a decoder learns from."""
    code, steps = pipeline.autoencoder, pipeline.recommended_steps
    if not isinstance(code, BandAutoencoder) or list(pipeline.config.conditions) != ["classes"]:
        raise VCMError(
            f"{config.model} has no band-limited latent with a module for label maps: give a model that "
            "vcm pretrain fine-module wrote, or brain2mm."
        )
    if code.fold != config.fold:
        raise VCMError(
            f"fold is {config.fold}, but that of {config.model} is {code.fold}: set fold={code.fold}."
        )
    if not 0 <= config.first_step < steps:
        raise VCMError(
            f"first_step is {config.first_step}, and {config.model} samples in {steps} steps: choose 0 to "
            f"{steps - 1}."
        )


def draws_of_samples(
    config: BandDecoderTraining, pool: ScanPool, steps: int, run: TrainingRun
) -> Callable[[np.random.Generator], SampledBatch]:
    """What draws one batch from a generator."""
    sizes = DeformationSizes().times(config.deform)
    inside = [np.argwhere(scan.numpy() > 0).astype(np.int16) for scan in pool.images]

    def draw_corners(i: int, random: np.random.Generator) -> NDArray[np.int64]:
        """Of crops around voxels of the brain, before it is deformed (K, 3)."""
        centres = inside[i][random.integers(len(inside[i]), size=config.crops)]
        last = np.array(pool.images.shape[1:]) - config.crop
        found: NDArray[np.int64] = np.clip(centres - config.crop // 2, 0, last) // FACTOR * FACTOR
        return found

    def draw(random: np.random.Generator) -> SampledBatch:
        count = config.batch_size
        scans = pool.draw(count, sizes, random)
        begin = int(random.integers(config.first_step, steps))
        begin = steps if random.random() < EXACT else begin
        seeds = torch.from_numpy(random.integers(2**62, size=count))
        return SampledBatch(
            *scans,
            torch.full((count,), begin),
            torch.full((count,), bool(random.random() < OBEYING)),
            seeds,
            torch.full((count,), adversarial_ramp(run.step, config.adversarial_from)),
            torch.from_numpy(np.stack([draw_corners(i, random) for i in scans.numbers.tolist()])),
        )

    return draw


def with_new_decoder(config: BandDecoderTraining, code: BandAutoencoder) -> BandAutoencoder:
    """An autoencoder with the latents of another and an untrained decoder of a configuration's sizes."""
    net = BandAutoencoder(
        tuple(config.decoder_channels),
        tuple(config.decoder_blocks),
        code.noise,
        code.latent_shape[1:],
        code.fold,
    )
    net.latent_mean.copy_(code.latent_mean)
    net.latent_std.copy_(code.latent_std)
    return net
