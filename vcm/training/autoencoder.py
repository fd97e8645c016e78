"""Pretrain the latent autoencoder on prepared scans; stops and resumes.

loss = mean |x - x'| + mse_weight * mean (x - x')^2 + kl_weight * KL(N(mu, sigma) || N(0, 1))
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from vcm.errors import VCMError
from vcm.files import write_table
from vcm.imaging.prepared_set import Subject, load_prepared
from vcm.learning.run import TrainingRun
from vcm.metrics import psnr, ssim
from vcm.nets.autoencoder import LatentAutoencoder
from vcm.nets.patches import to_patches
from vcm.training.configuration import AutoencoderTraining


class AutoencoderObjective(nn.Module):
    """Crops (B, 1, X, Y, Z) in 0..1 -> losses."""

    def __init__(self, net: LatentAutoencoder, mse_weight: float, kl_weight: float) -> None:
        super().__init__()
        self.net, self.mse_weight, self.kl_weight = net, mse_weight, kl_weight

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        found, mu, sigma = self.net.reconstruct(crops)
        mu, sigma, difference = mu.float(), sigma.float(), found.float() - crops
        kl = 0.5 * (mu**2 + sigma**2 - 2 * sigma.log() - 1).mean()
        absolute, squared = difference.abs().mean(), difference.square().mean()
        loss = absolute + self.mse_weight * squared + self.kl_weight * kl
        return {"loss": loss, "mse": squared, "kl": kl, "sigma": sigma.mean()}


def pretrain_autoencoder(config: AutoencoderTraining) -> dict[str, float]:
    """Train, then measure on the split `test`. Returns the mean measures; test.tsv has them all."""
    if not config.data:
        raise VCMError("No data is given: add data=[FOLDER] with a folder written by vcm prepare.")
    images = stack_images(load_prepared(*config.data, split="train"))
    factor = config.patch * 2 ** (len(config.channels) - 1)
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
        net.load_state_dict(LatentAutoencoder.from_pretrained(config.start).state_dict())
    else:
        net.fit_blocks(_blocks(images, factor))
    net.net.to(memory_format=torch.channels_last_3d)
    objective = AutoencoderObjective(net, config.mse_weight, config.kl_weight)
    run = TrainingRun(config, net, objective)
    run.fit(lambda: lambda random: (_crops(images, config, random),))
    if not run.is_main:
        return {}
    _store_latent_statistics(net, images)
    net.save_pretrained(run.folder / "autoencoder")
    return measure_autoencoder(net, load_prepared(*config.data, split="test"), run.folder)


@torch.inference_mode()
def measure_autoencoder(
    net: LatentAutoencoder, subjects: list[Subject], out: Path
) -> dict[str, float]:
    """PSNR [dB] and SSIM inside the brain mask, from the mean latent, one row per subject."""
    rows: list[dict[str, object]] = []
    for subject in subjects:
        image = stack_images([subject])
        found = net.decode(net.encode(image)[0])
        mask = image > 0
        rows.append(
            {
                "subject": subject.subject,
                "psnr_brain": psnr(found, image, mask),
                "psnr_whole": psnr(found, image),
                "ssim_brain": ssim(found, image, mask),
            }
        )
    columns = list(rows[0])
    write_table(out / "test.tsv", rows, columns)
    return {name: float(np.mean([float(str(r[name])) for r in rows])) for name in columns[1:]}


def stack_images(subjects: list[Subject]) -> Tensor:
    """Prepared scans as (N, 1, X, Y, Z) in 0..1."""
    return torch.from_numpy(np.stack([s.image() for s in subjects])[:, None])


def _blocks(images: Tensor, factor: int, most: int = 200_000) -> Tensor:
    """Blocks (N, f^3) that hold some brain, of the scans and their mirrors."""
    both = torch.cat([images, images.flip(2)])
    blocks = to_patches(both, factor).permute(0, 2, 3, 4, 1).flatten(0, 3)
    blocks = blocks[blocks.amax(1) > 0]
    return blocks[:: max(1, len(blocks) // most)]


def _crops(images: Tensor, config: AutoencoderTraining, random: np.random.Generator) -> Tensor:
    """Random crops that keep `margin` voxels from the border, mirrored half of the time."""
    crops = []
    for _ in range(config.batch_size):
        crop = images[random.integers(len(images))]
        if config.crop:
            last = [n - config.crop - config.margin for n in crop.shape[1:]]
            corner = [int(random.integers(min(config.margin, n), max(n, 0) + 1)) for n in last]
            x, y, z = (slice(c, c + config.crop) for c in corner)
            crop = crop[:, x, y, z]
        crops.append(crop.flip(1) if random.random() < 0.5 else crop)
    return torch.stack(crops)


def _store_latent_statistics(net: LatentAutoencoder, images: Tensor) -> None:
    """Mean latent per voxel and one standard deviation per channel, over scans and their mirrors."""
    with torch.inference_mode():
        mu = torch.cat([net.posterior(x[None])[0] for i in images for x in (i, i.flip(1))])
    net.latent_mean.copy_(mu.mean(0))
    net.latent_std.copy_((mu - mu.mean(0)).square().mean((0, 2, 3, 4)).sqrt())
