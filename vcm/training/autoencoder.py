"""Pretrain the latent autoencoder on prepared scans; stops and resumes.

loss = mean |x - x'| + mse_weight * mean (x - x')^2 + kl_weight * KL(N(mu, sigma) || N(0, 1))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from vcm.errors import VCMError
from vcm.imaging.prepared_set import Subject, check_one_grid, load_prepared
from vcm.imaging.scan_checksums import check_apart, scan_checksums
from vcm.learning.batches import Draw
from vcm.learning.measures import ScanMeasures, write_measures
from vcm.learning.origin import Origin
from vcm.learning.processes import Processes
from vcm.learning.run import TrainingRun
from vcm.learning.start import check_network, load_start
from vcm.metrics import psnr, ssim
from vcm.nets.autoencoder import LatentAutoencoder
from vcm.nets.patches import to_patches
from vcm.report.training import write_training_report
from vcm.training.configuration import AutoencoderTraining
from vcm.training.subjects import test_subjects


class Crops(NamedTuple):
    """What the autoencoder learns from.

    Attributes:
        images: Crops of scans in 0..1 (B, 1, X, Y, Z).
    """

    images: Tensor


class AutoencoderObjective(nn.Module):
    """Losses of one reconstruction of each crop.

    Args:
        net: The autoencoder.
        mse_weight: Of the squared error, beside the absolute error.
        kl_weight: Of the divergence of the posterior from the unit normal.
    """

    def __init__(self, net: LatentAutoencoder, mse_weight: float, kl_weight: float) -> None:
        super().__init__()
        self.net, self.mse_weight, self.kl_weight = net, mse_weight, kl_weight

    def forward(self, batch: Crops) -> dict[str, Tensor]:
        """loss, which is minimised, and its parts; sigma is the mean spread of the posterior."""
        found, mu, sigma = self.net.reconstruct(batch.images)
        mu, sigma, difference = mu.float(), sigma.float(), found.float() - batch.images
        kl = 0.5 * (mu**2 + sigma**2 - 2 * sigma.log() - 1).mean()
        absolute, squared = difference.abs().mean(), difference.square().mean()
        loss = absolute + self.mse_weight * squared + self.kl_weight * kl
        return {"loss": loss, "mse": squared, "kl": kl, "sigma": sigma.mean()}


def pretrain_autoencoder(config: AutoencoderTraining) -> dict[str, float]:
    """Train, then measure on the split `test`.

    Returns:
        The mean measures; test.tsv has them all. Empty without test scans, and in all but the main
        process.

    Raises:
        VCMError: Where the data or the configuration allow no training.
    """
    if not config.data:
        raise VCMError("No data is given: add data=[FOLDER] with a folder written by vcm prepare.")
    if config.start:
        check_network(config.start, "autoencoder", "vcm pretrain autoencoder")
    subjects, held_out = load_prepared(*config.data, split="train"), test_subjects(config.data)
    check_apart(subjects, held_out)
    check_one_grid([*subjects, *held_out])
    images = stack_images(subjects)
    factor = check_crops(config, images.shape[-3:])
    x, y, z = (n // factor for n in images.shape[-3:])
    set_seed(config.seed)
    net = LatentAutoencoder(
        tuple(config.channels),
        config.latent_channels,
        config.res_blocks,
        config.groups,
        config.patch,
        (x, y, z),
    )
    if config.start:
        load_start(net, config.start)
    objective = AutoencoderObjective(net, config.mse_weight, config.kl_weight)
    origin = Origin(scans=scan_checksums(subjects, maps=False))
    run = TrainingRun(config, net, objective, origin)

    def prepare(processes: Processes) -> Draw:
        if not config.start and not run.resumes:
            net.fit_blocks(_blocks(images, factor))
        count, crop, margin = config.batch_size, config.crop, config.margin
        return lambda random: Crops(draw_crops(images, count, crop, margin, random))

    net.net.to(memory_format=torch.channels_last_3d)
    run.fit(prepare)
    if not run.is_main:
        return {}
    _store_latent_statistics(net, images)
    net.save_pretrained(run.folder / "autoencoder")
    measures = write_measures(measure_autoencoder(net, held_out), run.folder / "test.tsv")
    write_training_report(run.folder, "Training of an autoencoder", measures)
    return measures


def check_crops(config: AutoencoderTraining, shape: Sequence[int]) -> int:
    """Voxels per position of the latent along each axis, which fill the crops and the scans.

    Args:
        config: Of the run.
        shape: Of the scans [voxel].

    Raises:
        VCMError: They do not, or a size makes no sense.
    """
    for name, least in {"patch": 1, "margin": 0}.items():
        if getattr(config, name) < least:
            raise VCMError(f"{name} is {getattr(config, name)}: it must be {least} or more.")
    crop, factor, least = config.crop, config.patch * 2 ** (len(config.channels) - 1), min(shape)
    if crop and (crop % factor or not factor <= crop <= least):
        raise VCMError(
            f"crop is {crop}, for scans of {tuple(shape)} voxels and latents that cover {factor} along each axis: choose "
            f"a multiple of {factor} up to {least // factor * factor}, or 0 for whole volumes."
        )
    if any(n % factor for n in shape):
        raise VCMError(
            f"The scans have {tuple(shape)} voxels, and a latent covers {factor} along each axis, which do not fill "
            "them: choose fewer channels or a smaller patch."
        )
    return factor


@torch.inference_mode()
def measure_autoencoder(net: LatentAutoencoder, subjects: Sequence[Subject]) -> list[ScanMeasures]:
    """PSNR [dB] and SSIM inside the brain mask, from the mean latent."""
    rows = []
    for subject in subjects:
        image = stack_images([subject])
        found = net.decode(net.encode(image.to(net.device))[0]).cpu()
        mask = image > 0
        values = {
            "psnr_brain": psnr(found, image, mask),
            "psnr_whole": psnr(found, image),
            "ssim_brain": ssim(found, image, mask),
        }
        rows.append(ScanMeasures(subject.subject, values))
    return rows


def stack_images(subjects: Sequence[Subject]) -> Tensor:
    """Prepared scans as (N, 1, X, Y, Z) in 0..1."""
    return torch.from_numpy(np.stack([s.image() for s in subjects])[:, None])


def _blocks(images: Tensor, factor: int, most: int = 200_000) -> Tensor:
    """Blocks (N, f^3) that hold some brain, of the scans and their mirrors."""
    both = torch.cat([images, images.flip(2)])
    blocks = to_patches(both, factor).permute(0, 2, 3, 4, 1).flatten(0, 3)
    blocks = blocks[blocks.amax(1) > 0]
    return blocks[:: max(1, len(blocks) // most)]


def draw_crops(
    images: Tensor, count: int, crop: int, margin: int, random: np.random.Generator
) -> Tensor:
    """Random crops, mirrored half of the time.

    Args:
        images: Scans (N, 1, X, Y, Z).
        count: B.
        crop: Edge [voxel]; 0: whole volumes.
        margin: Voxels that a crop keeps from the border, where there is room.
        random: Of this batch.

    Returns:
        (B, 1, crop, crop, crop).
    """
    crops = []
    for _ in range(count):
        image = images[random.integers(len(images))]
        if crop:
            room = [n - crop for n in image.shape[1:]]
            least = [min(margin, n // 2) for n in room]
            corner = [int(random.integers(a, n - a + 1)) for a, n in zip(least, room, strict=True)]
            x, y, z = (slice(c, c + crop) for c in corner)
            image = image[:, x, y, z]
        crops.append(image.flip(1) if random.random() < 0.5 else image)
    return torch.stack(crops)


@torch.inference_mode()
def _store_latent_statistics(net: LatentAutoencoder, images: Tensor) -> None:
    """Mean latent per voxel and one standard deviation per channel, over scans and their mirrors."""
    both = (x[None].to(net.device) for image in images for x in (image, image.flip(1)))
    mu = torch.cat([net.posterior(x)[0] for x in both])
    net.latent_mean.copy_(mu.mean(0))
    net.latent_std.copy_((mu - mu.mean(0)).square().mean((0, 2, 3, 4)).sqrt())
