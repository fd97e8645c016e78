"""The autoencoder of BrainLDM: MONAI's AutoencoderKL and one latent scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from monai.networks.nets.autoencoderkl import AutoencoderKL
from torch import Tensor

from vcm.nets.saved import ModelMixin
from vcm.nets.slabs import SlabDecoding

if TYPE_CHECKING:
    from jaxtyping import Float


class PublishedAutoencoder(SlabDecoding, ModelMixin):
    """Volumes (B, 1, X, Y, Z) in 0..1 <-> latents (B, C, X/8, Y/8, Z/8), z = (mu + sigma eps) scale.

    Source: Pinaya et al., arXiv 2209.07162; sizes of the released weights are the defaults. The
    scale belongs to the checkpoint of the diffusion model (1 in MONAI's bundle, 0.896264910697937
    in the weights released with VCM).
    """

    @register_to_config
    def __init__(
        self,
        channels: Sequence[int] = (64, 128, 128, 128),
        latent_channels: int = 3,
        res_blocks: int = 2,
        groups: int = 32,
        scale: float = 1.0,
        latent_shape: Sequence[int] = (20, 28, 20),
    ) -> None:
        super().__init__()
        self.scale, self.factor = scale, 2 ** (len(channels) - 1)
        self.latent_shape: tuple[int, ...] = (latent_channels, *latent_shape)
        self.net = AutoencoderKL(
            spatial_dims=3,
            in_channels=1,
            out_channels=1,
            channels=channels,
            latent_channels=latent_channels,
            num_res_blocks=res_blocks,
            norm_num_groups=groups,
            norm_eps=1e-6,
            attention_levels=[False] * len(channels),
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
        )

    @apply_forward_hook
    def encode(
        self, image: Float[Tensor, "B 1 X Y Z"]
    ) -> tuple[Float[Tensor, "B C x y z"], Float[Tensor, "B C x y z"]]:
        """Posterior (mu, sigma) in the diffusion model's scale."""
        mu, sigma = self.net.encode(image)
        return mu * self.scale, sigma * self.scale

    @apply_forward_hook
    def decode(self, z: Float[Tensor, "B C x y z"]) -> Float[Tensor, "B 1 X Y Z"]:
        """Latent in the diffusion model's scale -> image in 0..1."""
        return self.run_decoder(self.net, z / self.scale).clamp(0, 1)

    def channel_weight(self) -> Float[Tensor, " C"]:
        """(C,) ones: no channel counts more than another, as in the papers."""
        return torch.ones(self.latent_shape[0])
