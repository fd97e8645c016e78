"""Where a module with a linear prior starts: the best linear reading of latents from conditions.

    z_0(p) = W y(p) + b        y(p): the voxels of the condition that latent position p covers

Ridge regression in closed form, as the autoencoder starts at principal components: training begins
with what a line can tell, and spends its steps on the rest. See vcm.nets.linear_prior.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vcm.nets.condition_encoder import ConditionEncoder
from vcm.nets.frozen import FrozenDenoiser
from vcm.nets.linear_prior import BINS, LinearPrior
from vcm.nets.patches import from_patches, to_patches
from vcm.nets.vcm import VolumetricConditioningModule
from vcm.nets.with_linear_prior import WithLinearPrior
from vcm.progress import track
from vcm.training.latents import LatentSet

Started = VolumetricConditioningModule | WithLinearPrior
#: Volumes read for the regression, the ridge added to its sums of squares, volumes for the mixture.
MOST, RIDGE, MIXED = 220, 30.0, 96


@torch.no_grad()
def start_linear(module: Started, frozen: FrozenDenoiser, latents: LatentSet, seed: int) -> None:
    """Fit the encoders, the spread around what they read, and the mixture, to a training set.

    Args:
        module: To be fitted, on the device where `frozen` is.
        frozen: The model that it is to steer.
        latents: With the conditions that the module reads, in its order.
        seed: Of the choice of scans.
    """
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(latents))[:MOST]
    for number, encoder in enumerate(module.encoders):
        assert isinstance(encoder, ConditionEncoder)
        _fit_encoder(encoder, number, latents, chosen, _fold(module))
    assert module.prior is not None
    module.prior.spread.copy_(_spread(module, latents, chosen))
    module.prior.mix.copy_(_mixture(module, module.prior, frozen, latents, random))


def _fit_encoder(
    encoder: ConditionEncoder, number: int, latents: LatentSet, chosen: np.ndarray, fold: int
) -> None:
    device = encoder.conv_in.weight.device
    rows = encoder.conv_in.in_channels + 1
    squares = torch.zeros(rows, rows, device=device)
    products = torch.zeros(rows, latents.latent_shape[0] * fold**3, device=device)
    for index in track(chosen, f"Fitting {latents.conditions[number]}"):
        volume = _condition(number, latents, index).to(device)
        folded = _flat(to_patches(volume, encoder.patch))
        read = torch.cat([folded, torch.ones(len(folded), 1, device=device)], 1)
        squares += read.T @ read
        mu = latents.posterior(index)[0][None].to(device)
        products += read.T @ _flat(to_patches(mu, fold))
    solved = torch.linalg.solve(squares + RIDGE * torch.eye(rows, device=device), products)
    encoder.start_from_linear(solved[:-1].T, solved[-1])


def _spread(module: Started, latents: LatentSet, chosen: np.ndarray) -> Tensor:
    """(C, x, y, z): root of the mean square of z_0 around its reading, at least 0.02."""
    square = torch.zeros(latents.latent_shape, device=_device(module))
    for index in track(chosen, "Measuring the spread"):
        mu, sigma = (x.to(square.device) for x in latents.posterior(index))
        square += (mu - _read(module, latents, index)[0]).square() + sigma.square()
    return (square / len(chosen)).sqrt().clamp(min=0.02)


def _mixture(
    module: Started,
    prior: LinearPrior,
    frozen: FrozenDenoiser,
    latents: LatentSet,
    random: np.random.Generator,
) -> Tensor:
    """(BINS, C): least squares of the target on raw + m (expected - raw), each bin of time alike."""
    device = _device(module)
    over = torch.zeros(BINS, latents.latent_shape[0], device=device)
    under = torch.full_like(over, 1e-6)
    for n in track(range(MIXED), "Fitting the mixture"):
        index = int(random.integers(len(latents)))
        z = latents.posterior(index)[0][None]
        noise = torch.from_numpy(random.standard_normal(z.shape, dtype=np.float32)).to(device)
        z = z.to(device)
        t = frozen.at(torch.tensor([(n % BINS + float(random.random())) / BINS]).to(device))
        z_t = frozen.add_noise(z, noise, t)
        raw = frozen(z_t, t, latents.inputs[index][None].to(device))
        step = prior.expected(frozen, z_t, t, _read(module, latents, index)) - raw
        row = int(prior.bins(frozen, t))
        over[row] += (step * (frozen.target(z, noise, t) - raw)).sum((0, 2, 3, 4))
        under[row] += step.square().sum((0, 2, 3, 4))
    return (over / under).clamp(0, 1)


def _read(module: Started, latents: LatentSet, index: int) -> Tensor:
    """The reading (1, C, x, y, z): the first features of all conditions together."""
    device, numbers = _device(module), range(len(latents.conditions))
    features = module.encode([_condition(k, latents, index).to(device) for k in numbers])
    fold = _fold(module)
    return from_patches(features[:, : latents.latent_shape[0] * fold**3], fold)


def _fold(module: Started) -> int:
    """Latents per axis that one position of the module's features covers."""
    return module.fold if isinstance(module, WithLinearPrior) else 1


def _condition(number: int, latents: LatentSet, index: int) -> Tensor:
    """Conditions that are drawn are drawn by the position, so that each pass sees the same."""
    drawn = latents.volume(number, int(index), np.random.default_rng(int(index)))
    return torch.from_numpy(drawn)[None]


def _device(module: torch.nn.Module) -> torch.device:
    return next(module.parameters()).device


def _flat(volume: Tensor) -> Tensor:
    """(1, C, x, y, z) -> (x y z, C)."""
    return volume[0].flatten(1).T.contiguous()
