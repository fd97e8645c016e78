"""Batches of the trainings on drawn brains: numbers and seeds alone, what is large is made on the device.

Knows which times are drawn and how a latent is noised; not what is learned from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from vcm.imaging.deformation import DeformationSizes
from vcm.imaging.scan_pool import ScanDraw, ScanPool
from vcm.learning.batches import moved
from vcm.nets.band_autoencoder import BandAutoencoder
from vcm.training.fine_configuration import BrainDraws


class BrainBatch(NamedTuple):
    """B brains, each with R times; the first five as in ScanDraw.

    Attributes:
        numbers: (B,).
        affine: (B, 3, 4) [mm].
        coarse: (B, 3, ...) [mm].
        fine: (B, 3, ...) [mm].
        appearance: (B, 3).
        time: Of the noising, 0 (none) to 1 (noise alone) (B, R).
        seeds: Of each brain's noises (B,).
    """

    numbers: Tensor
    affine: Tensor
    coarse: Tensor
    fine: Tensor
    appearance: Tensor
    time: Tensor
    seeds: Tensor

    @property
    def scans(self) -> ScanDraw:
        """Which scans, and how they are changed."""
        return ScanDraw(self.numbers, self.affine, self.coarse, self.fine, self.appearance)


class BrainObjective(Protocol):
    """Losses of a batch of brains of any pool."""

    def losses(self, batch: BrainBatch, pool: ScanPool) -> dict[str, Tensor]:
        """By name."""


def draws_of(config: BrainDraws, pool: ScanPool) -> Callable[[np.random.Generator], BrainBatch]:
    """What draws one batch from a generator."""
    sizes = DeformationSizes().times(config.deform)

    def draw(random: np.random.Generator) -> BrainBatch:
        shape = (config.batch_size, config.draws)
        time = draw_times(shape, config.focus, config.focus_a, config.focus_b, random)
        scans = pool.draw(config.batch_size, sizes, random)
        seeds = torch.from_numpy(random.integers(2**62, size=config.batch_size))
        return BrainBatch(*scans, time, seeds)

    return draw


def draw_times(
    shape: tuple[int, ...], focus: float, a: float, b: float, random: np.random.Generator
) -> Tensor:
    """Times in 0..1.

    Args:
        shape: Of what is drawn.
        focus: Probability of a draw from Beta(a, b); else it is uniform.
        a: First parameter.
        b: Second parameter.
        random: Decides.

    Returns:
        Of that shape, float32, below 1.
    """
    uniform, near = random.random(shape), random.beta(a, b, shape)
    chosen = np.where(random.random(shape) < focus, near, uniform)
    return torch.from_numpy(np.minimum(chosen, 1 - 1e-6).astype(np.float32))


@torch.no_grad()
def noised(
    autoencoder: BandAutoencoder, images: Tensor, seeds: Tensor, draws: int
) -> tuple[Tensor, Tensor]:
    """Latents and noises, from a generator per brain on its device.

    Args:
        autoencoder: Encodes the scans.
        images: (B, 1, X, Y, Z) in 0..1.
        seeds: (B,).
        draws: R.

    Returns:
        z_0 and noise, each (B R, C, x, y, z), those of one brain beside each other.
    """
    with torch.autocast(images.device.type, enabled=False):
        mu, sigma = autoencoder.encode(images.float())
    latents, noises = [], []
    for n, seed in enumerate(seeds.tolist()):
        generator = torch.Generator(images.device).manual_seed(seed)
        spread, noise = (
            torch.randn((draws, *mu.shape[1:]), generator=generator, device=mu.device)
            for _ in range(2)
        )
        latents.append(mu[n] + sigma[n] * spread)
        noises.append(noise)
    return torch.cat(latents), torch.cat(noises)


@torch.no_grad()
def measure_held_out(
    objective: BrainObjective, pool: ScanPool, device: torch.device
) -> dict[str, float]:
    """Mean losses on scans as they are, at fixed noises and at six times from early to late."""
    found = []
    for i in range(len(pool)):
        time = torch.linspace(0.05, 0.95, 6)[None] - 0.01 * (i % 5)
        batch = BrainBatch(*pool.unchanged(i), time, torch.tensor([i]))
        found.append(objective.losses(moved(batch, device), pool))
    return {name: float(np.mean([float(x[name]) for x in found])) for name in found[0]}
