"""The latent autoencoder: a linear block transform, refined by MONAI's AutoencoderKL.

    mu = A (block - m) + E(x)        x' = S z + m + D(z)        block: f x f x f voxels
    z  = ((mu + sigma * eps) - mean) / std       mean: per voxel, std: per channel, both stored

A and S are fitted in closed form (principal components of blocks) and then trained on with E and
D, which start at zero: training begins at the best linear code instead of at noise. Subtracting
the stored mean latent of aligned brains leaves a diffusion model the deviations only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from monai.networks.nets.autoencoderkl import AutoencoderKL
from torch import Tensor, nn

from vcm.nets.patches import from_patches, to_patches
from vcm.nets.saved import ModelMixin
from vcm.nets.slabs import SlabDecoding

if TYPE_CHECKING:
    from jaxtyping import Float


class LatentAutoencoder(SlabDecoding, ModelMixin):
    """Volumes (B, 1, X, Y, Z) in 0..1 <-> latents (B, C, X/f, Y/f, Z/f).

    Source: AutoencoderKL of latent diffusion (Rombach et al. 2022), as BrainLDM uses it
    (arXiv 2209.07162); `patch` > 1 puts a lossless space-to-depth in front, which moves the work
    away from full resolution. Principal components as a start are this project's own.
    """

    @register_to_config
    def __init__(
        self,
        channels: Sequence[int] = (48, 96, 128),
        latent_channels: int = 32,
        res_blocks: int = 1,
        groups: int = 8,
        patch: int = 2,
        latent_shape: Sequence[int] = (10, 14, 10),
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
        self.analysis = nn.Conv3d(self.factor**3, latent_channels, 1)
        self.synthesis = nn.Conv3d(latent_channels, self.factor**3, 1)
        # Zero where the refinement ends; sigma = exp(log_var / 2) begins at 0.05.
        net: Any = self.net
        for last in (net.quant_conv_mu, net.quant_conv_log_sigma, net.decoder.blocks[-1]):
            nn.init.zeros_(last.conv.weight)
            nn.init.zeros_(last.conv.bias)
        nn.init.constant_(net.quant_conv_log_sigma.conv.bias, -6.0)
        self.register_buffer("latent_mean", torch.zeros(latent_channels, *latent_shape))
        self.register_buffer("latent_std", torch.ones(latent_channels))

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(C, x, y, z) of one latent."""
        return tuple(self.latent_mean.shape)

    def posterior(
        self, image: Float[Tensor, "B 1 X Y Z"]
    ) -> tuple[Float[Tensor, "B C x y z"], Float[Tensor, "B C x y z"]]:
        """(mu, sigma), each (B, C, x, y, z), before standardisation."""
        mu, sigma = self.net.encode(to_patches(image, self.patch))
        return mu + self.analysis(to_patches(image, self.factor)), sigma

    @torch.no_grad()
    def fit_blocks(self, blocks: Float[Tensor, "N voxels"]) -> None:
        """Set A and S to the principal components of blocks (N, f^3), scaled to unit variance."""
        mean = blocks.mean(0)
        centred = blocks - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(blocks))
        count = self.analysis.out_channels
        basis = vectors.flip(1)[:, :count]
        spread = values.flip(0)[:count].sqrt()
        analysis = (basis / spread).T
        self.analysis.weight.copy_(analysis[..., None, None, None])
        torch.as_tensor(self.analysis.bias).copy_(-analysis @ mean)
        self.synthesis.weight.copy_((basis * spread)[..., None, None, None])
        torch.as_tensor(self.synthesis.bias).copy_(mean)

    def reconstruct(
        self, image: Float[Tensor, "B 1 X Y Z"]
    ) -> tuple[Float[Tensor, "B 1 X Y Z"], Float[Tensor, "B C x y z"], Float[Tensor, "B C x y z"]]:
        """(reconstruction, mu, sigma) through one sampled latent; for training."""
        mu, sigma = self.posterior(image)
        return self.decode_raw(self.net.sampling(mu, sigma)), mu, sigma

    def decode_raw(self, z: Float[Tensor, "B C x y z"]) -> Float[Tensor, "B 1 X Y Z"]:
        """Raw latent (B, C, x, y, z) of any extent -> image (B, 1, X, Y, Z), not clipped."""
        linear = from_patches(self.synthesis(z), self.factor)
        return linear + from_patches(self.run_decoder(self.net, z), self.patch)

    def standardise(
        self, mu: Float[Tensor, "B C x y z"], sigma: Float[Tensor, "B C x y z"]
    ) -> tuple[Float[Tensor, "B C x y z"], Float[Tensor, "B C x y z"]]:
        """Posterior of the latent that the diffusion model sees."""
        std = self.latent_std[:, None, None, None]
        return (mu - self.latent_mean) / std, sigma / std

    @apply_forward_hook
    def encode(
        self, image: Float[Tensor, "B 1 X Y Z"]
    ) -> tuple[Float[Tensor, "B C x y z"], Float[Tensor, "B C x y z"]]:
        """Standardised (mu, sigma) of a whole volume."""
        return self.standardise(*self.posterior(image))

    @torch.no_grad()
    def channel_weight(self) -> Float[Tensor, " C"]:
        """(C,) mean 1: amplitude with which each unit latent channel shows in the image."""
        shown = self.synthesis.weight.flatten(1).norm(dim=0) * self.latent_std
        return shown / shown.mean()

    def unstandardise(self, z: Float[Tensor, "B C x y z"]) -> Float[Tensor, "B C x y z"]:
        """Standardised latent -> raw latent."""
        return z * self.latent_std[:, None, None, None] + self.latent_mean

    @apply_forward_hook
    def decode(self, z: Float[Tensor, "B C x y z"]) -> Float[Tensor, "B 1 X Y Z"]:
        """Standardised latent of a whole volume -> image (B, 1, X, Y, Z) in 0..1."""
        return self.decode_raw(self.unstandardise(z)).clamp(0, 1)
