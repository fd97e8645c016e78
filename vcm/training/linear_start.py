"""Where a module with a linear prior starts: the best linear reading of latents from conditions.

    z_0(p) = W y(p) + b        y(p): the voxels of the condition that latent position p covers

Ridge regression in closed form, as the autoencoder starts at principal components: training begins
with what a line can tell, and spends its steps on the rest. See vcm.nets.linear_prior.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from vcm.imaging.volume import Grid
from vcm.nets.condition_encoder import ConditionEncoder
from vcm.nets.denoiser import LatentDenoiser
from vcm.nets.linear_prior import BINS, LinearPrior
from vcm.nets.patches import to_patches
from vcm.nets.vcm import VolumetricConditioningModule
from vcm.nets.with_linear_prior import WithLinearPrior
from vcm.training.latents import LatentSet

Started = VolumetricConditioningModule | WithLinearPrior
#: Volumes read for the regression, the ridge added to its sums of squares, volumes for the mixture.
MOST, RIDGE, MIXED = 220, 30.0, 96


@torch.no_grad()
def start_linear(
    module: Started,
    frozen: LatentDenoiser,
    conditions: Sequence[str],
    known: LatentSet,
    grid: Grid,
    seed: int,
) -> None:
    """Fit the encoders, the spread around what they read, and the mixture, to a training set."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(known.mu))
    for encoder, name in zip(module.encoders, conditions, strict=True):
        assert isinstance(encoder, ConditionEncoder)
        _fit_encoder(encoder, name, known, grid, order[:MOST])
    assert module.prior is not None
    module.prior.spread.copy_(_spread(module, conditions, known, grid, order[:MOST]))
    module.prior.mix.copy_(_mixture(module, module.prior, frozen, conditions, known, grid, random))


def _fit_encoder(
    encoder: ConditionEncoder, name: str, known: LatentSet, grid: Grid, chosen: np.ndarray
) -> None:
    rows = encoder.conv_in.in_channels + 1
    squares, products = torch.zeros(rows, rows), torch.zeros(rows, known.mu.shape[1])
    for index in track(chosen, f"Fitting {name}"):
        folded = _flat(to_patches(_condition(name, known, grid, index), encoder.patch))
        read = torch.cat([folded, torch.ones(len(folded), 1)], 1)
        squares += read.T @ read
        products += read.T @ _flat(known.mu[index][None].float())
    solved = torch.linalg.solve(squares + RIDGE * torch.eye(rows), products)
    encoder.start_from_linear(solved[:-1].T, solved[-1])


def _spread(
    module: Started,
    conditions: Sequence[str],
    known: LatentSet,
    grid: Grid,
    chosen: np.ndarray,
) -> Tensor:
    """(C, x, y, z): root of the mean square of z_0 around its reading, at least 0.02."""
    square = torch.zeros(known.mu.shape[1:])
    for index in track(chosen, "Measuring the spread"):
        missed = known.mu[index].float() - _read(module, conditions, known, grid, index)[0]
        square += missed.square() + known.sigma[index].float().square()
    return (square / len(chosen)).sqrt().clamp(min=0.02)


def _mixture(
    module: Started,
    prior: LinearPrior,
    frozen: LatentDenoiser,
    conditions: Sequence[str],
    known: LatentSet,
    grid: Grid,
    random: np.random.Generator,
) -> Tensor:
    """(BINS, C): least squares of the target on raw + m (expected - raw), each bin of time alike."""
    over = torch.zeros(BINS, known.mu.shape[1])
    under = torch.full_like(over, 1e-6)
    for n in track(range(MIXED), "Fitting the mixture"):
        index = int(random.integers(len(known.mu)))
        z = known.mu[index][None].float()
        noise = torch.from_numpy(random.standard_normal(z.shape, dtype=np.float32))
        t = frozen.at(torch.tensor([(n % BINS + float(random.random())) / BINS]))
        z_t = frozen.add_noise(z, noise, t)
        raw = frozen.raw(z_t, t, known.covariates[index][None])
        step = prior.expected(frozen, z_t, t, _read(module, conditions, known, grid, index)) - raw
        row = int(prior.bins(frozen, t))
        over[row] += (step * (frozen.target(z, noise, t) - raw)).sum((0, 2, 3, 4))
        under[row] += step.square().sum((0, 2, 3, 4))
    return (over / under).clamp(0, 1)


def _read(
    module: Started,
    conditions: Sequence[str],
    known: LatentSet,
    grid: Grid,
    index: int,
) -> Tensor:
    """The reading (1, C, x, y, z): the first features of all conditions together."""
    features = module.encode([_condition(name, known, grid, index) for name in conditions])
    return features[:, : known.mu.shape[1]]


def _condition(name: str, known: LatentSet, grid: Grid, index: int) -> Tensor:
    """Conditions that are drawn are drawn by the position, so that each pass sees the same."""
    drawn = known.condition(name, int(index), grid, np.random.default_rng(int(index)))
    return torch.from_numpy(drawn)[None]


def _flat(volume: Tensor) -> Tensor:
    """(1, C, x, y, z) -> (x y z, C)."""
    return volume[0].flatten(1).T.contiguous()
