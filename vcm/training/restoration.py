"""Losses of a network that restores images and of the discriminator that trains beside it.

With x an image and x' what the network makes of less,

    network        mean |x - x'| + mse_weight mean (x - x')^2 + detail_weight mean |L x - L x'|
                   + adversarial_weight softplus(-(D(x') - D(x)))
    discriminator  softplus(-(D(x) - D(x'))) + penalty_weight (|dD/dx|^2 + |dD/dx'|^2)

L is the image minus its blur. The adversarial loss is relativistic and pairs each image with its own
restoration (Jolicoeur-Martineau 2019; with both penalties as in Huang et al. 2024, arXiv 2501.05441).
One optimiser takes both, each term with the other network's weights held. Knows images; not what the
network reads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from vcm.errors import VCMError
from vcm.training.restoration_configuration import RestorationTraining

#: Steps over which the adversarial loss rises to its weight.
RAMP = 200


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
    weights: RestorationTraining,
) -> dict[str, Tensor]:
    """loss, which is minimised, and its parts; power is that of the detail over the image's.

    Args:
        found: x', with gradients (B, 1, X, Y, Z).
        x: The images (B, 1, X, Y, Z).
        ramp: How much the adversarial loss counts, 0..1 (B,).
        judge: D, images -> a score per patch.
        weights: Of the losses; without an adversarial weight the discriminator rests.
    """
    difference = found - x
    absolute, squared = difference.abs().mean(), difference.square().mean()
    loss = absolute + weights.mse_weight * squared
    loss = loss + weights.detail_weight * high_pass(difference).abs().mean()
    with torch.no_grad():
        power = high_pass(found).square().mean() / high_pass(x).square().mean()
    measured = {"absolute": absolute.detach(), "mse": squared.detach(), "power": power}
    if weights.adversarial_weight:
        # Gradients of gradients are taken in full precision.
        with torch.autocast(x.device.type, enabled=False):
            fooled, told_apart, penalty = _adversarial(
                judge, *(shown(image, weights.instance_noise) for image in (found, x))
            )
        loss = loss + weights.adversarial_weight * ramp.mean() * fooled
        loss = loss + told_apart + weights.penalty_weight * penalty
        measured |= {"fooled": fooled.detach(), "told_apart": told_apart.detach()}
    return {"loss": loss} | measured


def shown(image: Tensor, deviation: float) -> Tensor:
    """What a discriminator sees of an image: values in 0..1, with noise on all of them.

    Without noise it tells images apart by what no eye sees, such as exact zeros outside of the brain.
    """
    seen = image.clamp(0, 1)
    return seen + deviation * torch.randn_like(seen) if deviation else seen


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
