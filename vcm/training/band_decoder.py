"""Train the decoder of a band-limited latent, by distance and then against a discriminator; resumes.

With u the band-limited scan (and a little noise on it, as samples of a diffusion model have), x the scan
and x' = u + R(u), the losses are those of vcm.training.restoration.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from accelerate.utils import set_seed
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from vcm.errors import VCMError
from vcm.imaging.scan_pool import ScanPool, load_pool
from vcm.imaging.spectrum import BANDS, power_ratio
from vcm.learning.batches import Draw
from vcm.learning.origin import Origin
from vcm.learning.processes import Processes
from vcm.learning.run import TrainingRun
from vcm.learning.start import check_network, load_start
from vcm.metrics import psnr
from vcm.nets.band_autoencoder import (
    FACTOR,
    BandAutoencoder,
    DetailDecoder,
    band_limited,
    interpolated,
)
from vcm.nets.memory_format import channels_last
from vcm.nets.patch_discriminator import PatchDiscriminator
from vcm.nets.patches import to_patches
from vcm.nets.saved import ModelMixin
from vcm.report.training import Measured, write_training_report
from vcm.training.fine_configuration import BandDecoderTraining
from vcm.training.restoration import (
    adversarial_ramp,
    refuse_workers,
    restoration_losses,
)

#: Scans that a validation looks at.
HELD_OUT = 4


class SmoothCrops(NamedTuple):
    """What the decoder learns from.

    Attributes:
        smooth: Crops of band-limited scans u (B, 1, X, Y, Z).
        noise: On their latents, as a band-limited image (B, 1, fold X / 4, fold Y / 4, fold Z / 4).
        images: The same crops of the scans x (B, 1, X, Y, Z).
        ramp: How much the adversarial loss counts, 0..1 (B,).
    """

    smooth: Tensor
    noise: Tensor
    images: Tensor
    ramp: Tensor


class DecoderPair(ModelMixin):
    """The decoder and its discriminator, which train together."""

    @register_to_config
    def __init__(
        self,
        decoder_channels: Sequence[int] = (32, 64),
        decoder_blocks: Sequence[int] = (1, 2),
        discriminator_channels: Sequence[int] = (32, 64, 96),
    ) -> None:
        super().__init__()
        self.detail = DetailDecoder(decoder_channels, decoder_blocks)
        self.discriminator = PatchDiscriminator(discriminator_channels)


class DecoderObjective(nn.Module):
    """Losses of decoder and discriminator.

    Args:
        pair: To train.
        config: Holds the weights of the losses.
    """

    def __init__(self, pair: DecoderPair, config: BandDecoderTraining) -> None:
        super().__init__()
        self.pair, self.config = pair, config

    def forward(self, batch: SmoothCrops) -> dict[str, Tensor]:
        """loss, which is minimised, and its parts; power is that of the detail over the scan's."""
        c, x = self.config, batch.images
        u = batch.smooth + interpolated(batch.noise, c.fold)
        found = u + self.pair.detail(u).float()
        return restoration_losses(found, x, batch.ramp, self.pair.discriminator, c)


def pretrain_band_decoder(config: BandDecoderTraining) -> dict[str, float]:
    """Train on the split `train` and save the autoencoder in out/autoencoder.

    Returns:
        PSNR [dB] and power by band on scans of the split `validation`, see `measure_decoder`, where
        validate_every asks for it; else the losses of the last step. Empty in all but the main process.

    Raises:
        VCMError: Where the data or the configuration allow no training.
    """
    _check(config)
    pool = load_pool(config.data, "train")
    held_out = load_pool(config.data, "validation") if config.validate_every else None
    set_seed(config.seed)
    pair = DecoderPair(
        config.decoder_channels, config.decoder_blocks, config.discriminator_channels
    )
    net = started(config, pool.scans())
    pair.detail.load_state_dict(net.detail.state_dict())
    net.detail = pair.detail
    objective = DecoderObjective(pair, config)
    run = TrainingRun(config, pair, objective, Origin(scans=pool.checksums()))

    def prepare(processes: Processes) -> Draw:
        if processes.device.type == "cpu":
            channels_last(pair)
        return CropDraws(config, pool.scans(), float(net.latent_std), run)

    def validate() -> dict[str, float]:
        assert held_out is not None
        net.to(run.device)
        return measure_decoder(net, held_out)

    run.fit(prepare, validate if held_out is not None else None, criterion="minus_psnr")
    if not run.is_main:
        return {}
    measures = validate() if held_out is not None else run.losses
    measured: Measured = "validation" if held_out is not None else "training"
    net.cpu().save_pretrained(run.folder / "autoencoder")
    write_training_report(
        run.folder, "Training of the decoder of a band-limited latent", measures, measured
    )
    return measures


def _check(config: BandDecoderTraining) -> None:
    if not config.data:
        raise VCMError(
            "No data is given: add data=[FOLDER] with a folder written by vcm prepare, or a pack of it."
        )
    if config.crop < 4 or config.crop % 4:
        raise VCMError(f"crop is {config.crop}: it must be a multiple of 4, at least 4.")
    refuse_workers(config.workers)
    if config.fold not in (2, 3):
        raise VCMError(
            f"fold is {config.fold}, the quarters of the frequencies that are kept: choose 2 or 3."
        )
    if config.start:
        check_network(config.start, "autoencoder", "vcm pretrain band-decoder")


def started(config: BandDecoderTraining, scans: Tensor) -> BandAutoencoder:
    """The autoencoder of `start`, or an untrained one of these scans.

    Args:
        config: Of the run.
        scans: (N, 1, X, Y, Z) in 0..1.

    Raises:
        VCMError: That of `start` has other sizes, or a crop or the factor does not fit the scans.
    """
    if min(scans.shape[2:]) < config.crop:
        raise VCMError(
            f"crop is {config.crop}, but the scans have {tuple(scans.shape[2:])} voxels: lower it."
        )
    net = fresh_autoencoder(scans, config.decoder_channels, config.decoder_blocks, config.fold)
    if config.start:
        load_start(net, config.start)
    return net


class CropDraws:
    """Draws crops around voxels of brain, mirrored half of the time.

    Args:
        config: Sizes of crops and noise.
        scans: (N, 1, X, Y, Z) in 0..1.
        latent_std: Of the raw latents, which the noise is in proportion to.
        run: Knows the step.
    """

    def __init__(
        self, config: BandDecoderTraining, scans: Tensor, latent_std: float, run: TrainingRun
    ) -> None:
        self.config, self.scans, self.latent_std, self.run = config, scans, latent_std, run
        self.smooth = torch.cat(
            [interpolated(band_limited(scan[None], config.fold), config.fold) for scan in scans]
        )
        self.inside = [np.argwhere(scan[0].numpy() > 0).astype(np.int16) for scan in scans]

    def __call__(self, random: np.random.Generator) -> SmoothCrops:
        """One batch."""
        c = self.config
        rows = [self._crop(random) for _ in range(c.batch_size)]
        smooth, noise, images = (torch.stack(x) for x in zip(*rows, strict=True))
        ramp = adversarial_ramp(self.run.step, c.adversarial_from)
        return SmoothCrops(smooth, noise, images, torch.full((c.batch_size,), ramp))

    def _crop(self, random: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        edge = self.config.crop
        index = int(random.integers(len(self.scans)))
        centre = self.inside[index][random.integers(len(self.inside[index]))]
        corner = [
            int(np.clip(c - edge // 2, 0, n - edge)) // 4 * 4
            for c, n in zip(centre, self.scans.shape[2:], strict=True)
        ]
        x, y, z = (slice(c, c + edge) for c in corner)
        gain, mirror = random.uniform(0.9, 1.1), random.random() < 0.5
        crops = [gain * whole[index, :, x, y, z] for whole in (self.smooth, self.scans)]
        smooth, image = (crop.flip(1) if mirror else crop for crop in crops)
        low = random.standard_normal(
            (1, *[edge * self.config.fold // FACTOR] * 3), dtype=np.float32
        )
        level = np.float32(self.latent_std * random.uniform(0, self.config.noise))
        return smooth, torch.from_numpy(low * level), image


@torch.no_grad()
def measure_decoder(net: BandAutoencoder, held_out: ScanPool) -> dict[str, float]:
    """Means over the first scans of a pool, decoded from the mean latent.

    Args:
        net: The autoencoder, on the device to compute on.
        held_out: Not trained on.

    Returns:
        minus_psnr, in the brain [dB], and band_0.05 and so on, the power over the scan's from that
        spatial frequency [1/mm] to the next.
    """
    rows = []
    for scan in held_out.scans()[:HELD_OUT]:
        one = scan[None].to(net.device)
        found = net.decode(net.encode(one)[0])
        ratio = power_ratio(found[0, 0].cpu().numpy(), scan[0].numpy(), held_out.grid.spacing)
        rows.append([-psnr(found, one, one > 0), *ratio])
    names = ["minus_psnr", *(f"band_{edge:g}" for edge in BANDS[:-1])]
    return dict(zip(names, np.mean(rows, 0).tolist(), strict=True))


@torch.no_grad()
def fresh_autoencoder(
    scans: Tensor, decoder_channels: Sequence[int], decoder_blocks: Sequence[int], fold: int = 2
) -> BandAutoencoder:
    """Untrained, which decodes the band-limited scan; with the statistics of scans and their mirrors.

    Args:
        scans: (N, 1, X, Y, Z) in 0..1.
        decoder_channels: See BandAutoencoder.
        decoder_blocks: See BandAutoencoder.
        fold: See BandAutoencoder.

    Raises:
        VCMError: An extent is no multiple of the autoencoder's factor.
    """
    factor = BandAutoencoder.factor
    if any(n % factor for n in scans.shape[2:]):
        raise VCMError(
            f"The scans have {tuple(scans.shape[2:])} voxels, and each extent must be a multiple of "
            f"{factor}: prepare them on the grid of a model."
        )
    shape = tuple(n // factor for n in scans.shape[2:])
    net = BandAutoencoder(
        tuple(decoder_channels), tuple(decoder_blocks), latent_shape=shape, fold=fold
    )
    both = [x for scan in scans for x in (scan[None], scan[None].flip(2))]
    latents = torch.cat([net.posterior(x)[0] for x in both])
    # A voxel of the low image lies in the brain where half of what it covers does.
    low = [n * fold for n in shape]
    inside = [(F.interpolate((x > 0).float(), low, mode="area") >= 0.5).float() for x in both]
    net.store_statistics(latents, torch.cat([to_patches(i, fold) for i in inside]) > 0)
    return net
