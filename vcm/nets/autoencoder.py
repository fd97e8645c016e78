"""The latent autoencoder: MONAI's AutoencoderKL behind an interface that leaves unit latents.

    z = ((mu + sigma * eps) - mean) / std        mean: per voxel, std: per channel, both stored

Subtracting the stored mean latent of aligned brains leaves a diffusion model the deviations only.
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from monai.networks.nets.autoencoderkl import AutoencoderKL
from torch import Tensor, nn

from vcm.nets.patches import from_patches, to_patches


class LatentAutoencoder(ModelMixin, ConfigMixin):
    """Volumes (B, 1, X, Y, Z) in 0..1 <-> latents (B, C, X/f, Y/f, Z/f).

    Source: AutoencoderKL of latent diffusion (Rombach et al. 2022), as BrainLDM uses it
    (arXiv 2209.07162); `patch` > 1 puts a lossless space-to-depth in front, which moves the work
    away from full resolution.
    """

    @register_to_config
    def __init__(
        self,
        channels: tuple[int, ...] = (48, 96, 128),
        latent_channels: int = 32,
        res_blocks: int = 1,
        groups: int = 8,
        patch: int = 2,
        latent_shape: tuple[int, int, int] = (10, 14, 10),
    ) -> None:
        super().__init__()
        self.patch = patch
        self.factor = patch * 2 ** (len(channels) - 1)
        self.net = AutoencoderKL(
            spatial_dims=3,
            in_channels=patch**3,
            out_channels=patch**3,
            channels=channels,
            latent_channels=latent_channels,
            num_res_blocks=res_blocks,
            norm_num_groups=groups,
            norm_eps=1e-6,
            attention_levels=[False] * len(channels),
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
        )
        # A warm start near the mean: sigma begins small, so that early steps reconstruct.
        nn.init.constant_(self.net.quant_conv_log_sigma.conv.bias, -6.0)
        self.register_buffer("latent_mean", torch.zeros(latent_channels, *latent_shape))
        self.register_buffer("latent_std", torch.ones(latent_channels))

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, sigma), each (B, C, x, y, z), before standardisation."""
        mu, sigma = self.net.encode(to_patches(image, self.patch))
        return mu, sigma

    def reconstruct(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(reconstruction, mu, sigma) through one sampled latent; for training."""
        mu, sigma = self.posterior(image)
        return self.decode_raw(self.net.sampling(mu, sigma)), mu, sigma

    def decode_raw(self, z: Tensor) -> Tensor:
        """Raw latent (B, C, x, y, z) of any extent -> image (B, 1, X, Y, Z), not clipped."""
        return from_patches(self.net.decode(z), self.patch)

    def standardise(self, mu: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior of the latent that the diffusion model sees."""
        std = self.latent_std[:, None, None, None]
        return (mu - self.latent_mean) / std, sigma / std

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised (mu, sigma) of a whole volume."""
        return self.standardise(*self.posterior(image))

    def unstandardise(self, z: Tensor) -> Tensor:
        """Standardised latent -> raw latent."""
        return z * self.latent_std[:, None, None, None] + self.latent_mean

    def decode(self, z: Tensor) -> Tensor:
        """Standardised latent of a whole volume -> image (B, 1, X, Y, Z) in 0..1."""
        return self.decode_raw(self.unstandardise(z)).clamp(0, 1)
