"""What the decoder of a band-limited latent learns from, and its losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from vcm.nets.band_autoencoder import DetailDecoder, interpolated
from vcm.nets.patch_discriminator import PatchDiscriminator
from vcm.nets.saved import ModelMixin
from vcm.training.adversarial import restoration_losses, shown_with_noise
from vcm.training.fine_configuration import BandDecoderTraining


class SmoothCrops(NamedTuple):
    """What the decoder learns from.

    Attributes:
        smooth: Crops of what the latents give, band-limited scans or samples u (B, 1, X, Y, Z).
        noise: On the latents, as a band-limited image (B, 1, fold X / 4, fold Y / 4, fold Z / 4).
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
        """See vcm.training.adversarial.restoration_losses."""
        c, x = self.config, batch.images
        with torch.autocast(x.device.type, enabled=False):
            u = batch.smooth + interpolated(batch.noise, c.fold)
        found = u + self.pair.detail(u).float()
        shown = shown_with_noise(c.instance_noise)
        return restoration_losses(found, x, batch.ramp, self.pair.discriminator, c, shown)
