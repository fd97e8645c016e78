"""Losses of the decoder of a band-limited latent and of the discriminator that it trains against.

With u what the latents give (a band-limited scan with noise on it, or one that a model has denoised), x
the scan and x' = u + R(u),

    decoder        mean |x - x'| + mse_weight mean (x - x')^2 + detail_weight mean |L x - L x'|
                   + adversarial_weight softplus(-(D(x') - D(x)))
    discriminator  softplus(-(D(x) - D(x'))) + penalty_weight (|dD/dx|^2 + |dD/dx'|^2)

L is the image minus its blur. The adversarial loss is relativistic and pairs each scan with its own
reconstruction (Jolicoeur-Martineau 2019; with both penalties as in Huang et al. 2024, arXiv 2501.05441).
One optimiser takes both, each term with the other network's weights held.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from vcm.nets.band_autoencoder import DetailDecoder, interpolated
from vcm.nets.patch_discriminator import PatchDiscriminator
from vcm.nets.saved import ModelMixin
from vcm.training.fine_configuration import BandDecoderTraining

#: Steps over which the adversarial loss rises to its weight.
RAMP = 200


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
        with torch.autocast(x.device.type, enabled=False):
            u = batch.smooth + interpolated(batch.noise, c.fold)
        found = u + self.pair.detail(u).float()
        difference = found - x
        absolute, squared = difference.abs().mean(), difference.square().mean()
        loss = absolute + c.mse_weight * squared
        loss = loss + c.detail_weight * _detail(difference).abs().mean()
        with torch.no_grad():
            power = _detail(found).square().mean() / _detail(x).square().mean()
        measured = {"absolute": absolute.detach(), "mse": squared.detach(), "power": power}
        if c.adversarial_weight:
            # Gradients of gradients are taken in full precision.
            with torch.autocast(x.device.type, enabled=False):
                fooled, told_apart, penalty = self._adversarial(found, x)
            loss = loss + c.adversarial_weight * batch.ramp.mean() * fooled
            loss = loss + told_apart + c.penalty_weight * penalty
            measured |= {"fooled": fooled.detach(), "told_apart": told_apart.detach()}
        return {"loss": loss} | measured

    def _seen(self, image: Tensor) -> Tensor:
        """What the discriminator sees: values as an image has them, with noise where it is asked for."""
        seen = image.clamp(0, 1)
        if self.config.instance_noise:
            seen = seen + self.config.instance_noise * torch.randn_like(seen)
        return seen

    def _adversarial(self, found: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of the decoder, loss of the discriminator, and its penalties."""
        judge = self.pair.discriminator
        x, found = self._seen(x), self._seen(found)
        held = {name: p.detach() for name, p in judge.named_parameters()}
        of_scan: Tensor = functional_call(judge, held, (x,)).detach()
        fooled = F.softplus(of_scan - functional_call(judge, held, (found,))).mean()
        seen = [x.detach().requires_grad_(), found.detach().requires_grad_()]
        real, fake = (judge(image) for image in seen)
        told_apart = F.softplus(fake - real).mean()
        slopes = torch.autograd.grad((real.sum(), fake.sum()), seen, create_graph=True)
        squares = torch.stack([s.square().flatten(1).sum(1).mean() for s in slopes])
        return fooled, told_apart, squares.sum() / real[0].numel()


def ramp_at(step: int, config: BandDecoderTraining) -> float:
    """How much the adversarial loss counts at a step, 0..1."""
    return min(1.0, max(0.0, (step - config.adversarial_from) / RAMP))


def _detail(x: Tensor) -> Tensor:
    """The image minus its mean over 3x3x3 voxels, twice over."""
    return x - F.avg_pool3d(F.avg_pool3d(x, 3, 1, 1), 3, 1, 1)
