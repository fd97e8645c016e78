"""Losses of a network that restores images and of the discriminator that trains beside it.

With x an image and x' what the network makes of less,

    network        mean |x - x'| + mse_weight mean (x - x')^2 + detail_weight mean |L x - L x'|
                   + spectral_weight mean_k |log P_k(x') - log P_k(x)|
                   + adversarial_weight softplus(-(D(x') - D(x)))
    discriminator  softplus(-(D(x) - D(x'))) + penalty_weight (|dD/dx|^2 + |dD/dx'|^2)

L is the image minus its blur, P_k the power of a batch in a band of spatial frequency. Distances alone
leave out what cannot be told for certain; to reach the power of the scans, a network makes the detail
stronger that it is sure of, as that costs less distance than noise would. The adversarial loss is relativistic and pairs each image with its own
restoration (Jolicoeur-Martineau 2019; with both penalties as in Huang et al. 2024, arXiv 2501.05441).
One optimiser takes both, each term with the other network's weights held. Knows images; not what the
network reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from vcm.errors import VCMError

#: Steps over which the adversarial loss rises to its weight.
RAMP = 200
#: Edges of the bands of spatial frequency [1/voxel].
EDGES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)


class LossWeights(Protocol):
    """The weights of the losses, as configurations hold them."""

    mse_weight: float
    detail_weight: float
    spectral_weight: float
    adversarial_weight: float
    penalty_weight: float


def adversarial_ramp(step: int, begin: int) -> float:
    """How much the adversarial loss counts at a step, 0..1, where it begins at another."""
    return min(1.0, max(0.0, (step - begin) / RAMP))


def refuse_workers(workers: int) -> None:
    """Refuse with VCMError workers that draw ahead: they would not know the step that the ramp depends on."""
    if workers:
        raise VCMError(
            f"workers is {workers}, but the batches of this training depend on its step: set "
            "workers=0."
        )


def restoration_losses(
    found: Tensor,
    x: Tensor,
    ramp: Tensor,
    judge: nn.Module,
    weights: LossWeights,
    shown: Callable[[Tensor], Tensor] = lambda image: image,
) -> dict[str, Tensor]:
    """loss, which is minimised, and its parts; power is that of the detail over the image's.

    Args:
        found: x', with gradients (B, 1, X, Y, Z).
        x: The images (B, 1, X, Y, Z).
        ramp: How much the adversarial loss counts, 0..1 (B,).
        judge: D, images -> a score per patch.
        weights: Of the losses; without an adversarial weight the discriminator rests.
        shown: From an image to what the discriminator sees of it.
    """
    difference = found - x
    absolute, squared = difference.abs().mean(), difference.square().mean()
    loss = absolute + weights.mse_weight * squared
    loss = loss + weights.detail_weight * high_pass(difference).abs().mean()
    if weights.spectral_weight:
        with torch.autocast(x.device.type, enabled=False):
            ratio = band_powers(found.float()).log() - band_powers(x.float()).log()
        loss = loss + weights.spectral_weight * ratio.abs().mean()
    with torch.no_grad():
        power = high_pass(found).square().mean() / high_pass(x).square().mean()
    measured = {"absolute": absolute.detach(), "mse": squared.detach(), "power": power}
    if weights.adversarial_weight:
        # Gradients of gradients are taken in full precision.
        with torch.autocast(x.device.type, enabled=False):
            fooled, told_apart, penalty = _adversarial(judge, shown(found), shown(x))
        loss = loss + weights.adversarial_weight * ramp.mean() * fooled
        loss = loss + told_apart + weights.penalty_weight * penalty
        measured |= {"fooled": fooled.detach(), "told_apart": told_apart.detach()}
    return {"loss": loss} | measured


def shown_with_noise(deviation: float) -> Callable[[Tensor], Tensor]:
    """What a discriminator is to see of an image: values in 0..1, with noise on all of them.

    Without noise it tells images apart by what no eye sees, such as exact zeros outside of the brain.
    """

    def shown(image: Tensor) -> Tensor:
        seen = image.clamp(0, 1)
        return seen + deviation * torch.randn_like(seen) if deviation else seen

    return shown


def band_powers(x: Tensor) -> Tensor:
    """Power of a batch by spatial frequency.

    Args:
        x: (B, 1, X, Y, Z).

    Returns:
        (K,) sums over the images, each faded out towards its border, of the bands between EDGES.
    """
    shape = x.shape[2:]
    faded, radius = x, torch.zeros((), device=x.device)
    for axis, n in enumerate(shape):
        line = [1] * 3
        line[axis] = -1
        faded = faded * torch.hann_window(n, periodic=False, device=x.device).view(line)
        frequency = (
            torch.fft.fftfreq(n, device=x.device)
            if axis < 2
            else torch.fft.rfftfreq(n, device=x.device)
        )
        radius = radius + frequency.square().view(line)
    power = torch.fft.rfftn(faded, dim=(2, 3, 4)).abs().square().sum((0, 1))
    band = torch.bucketize(radius.sqrt(), torch.tensor(EDGES, device=x.device))
    sums = power.new_zeros(len(EDGES) + 1).index_add(0, band.flatten(), power.flatten())
    return sums[1:-1].clamp(min=1e-12)


def high_pass(x: Tensor) -> Tensor:
    """L: the image minus its mean over 3x3x3 voxels, twice over."""
    return x - F.avg_pool3d(F.avg_pool3d(x, 3, 1, 1), 3, 1, 1)


def _adversarial(judge: nn.Module, found: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of the network, loss of the discriminator, and its penalties."""
    held = {name: p.detach() for name, p in judge.named_parameters()}
    of_scan: Tensor = functional_call(judge, held, (x,)).detach()
    fooled = F.softplus(of_scan - functional_call(judge, held, (found,))).mean()
    seen = [x.detach().requires_grad_(), found.detach().requires_grad_()]
    real, fake = (judge(image) for image in seen)
    told_apart = F.softplus(fake - real).mean()
    slopes = torch.autograd.grad((real.sum(), fake.sum()), seen, create_graph=True)
    squares = torch.stack([s.square().flatten(1).sum(1).mean() for s in slopes])
    return fooled, told_apart, squares.sum() / real[0].numel()
