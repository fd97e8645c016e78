"""The Volumetric Conditioning Module: scale and shift what a frozen diffusion model predicts.

Ahn et al., WACV 2025, arXiv 2410.21826. With z_t the noisy latent, eps_t the frozen prediction and
y the condition volumes,

    features    = encode(y)                                   once per volume: independent of t
    gamma, beta = head(time_unet([z_t, eps_t, features], t))
    eps'_t      = eps_t * (1 + gamma) + beta

Nothing here depends on eps being noise: a predicted v or velocity is steered alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from diffusers.configuration_utils import register_to_config
from torch import nn

from vcm.errors import VCMError
from vcm.nets.condition_encoder import ConditionEncoder
from vcm.nets.control import check_factor
from vcm.nets.modulation import Modulation
from vcm.nets.saved import ModelMixin


class VolumetricConditioningModule(Modulation, ModelMixin):
    """Defaults are the published sizes for BrainLDM: 45,220,134 parameters.

    Args:
        latent_channels: C of the latents.
        condition_channels: Channels of each condition volume; one encoder per condition.
        encoder_channels: Channels of the encoder's levels.
        encoder_res_blocks: Residual blocks per level of the encoder.
        encoder_groups: Groups of its norms.
        encoder_patch: > 1 folds voxels into channels in front of the encoder (not in the paper).
        unet_channels: Channels of the levels of the time-dependent U-Net.
        unet_res_blocks: Residual blocks per level of it.
        unet_attention: Which of its levels have attention.
        unet_head_channels: Channels per attention head and level; None is one head per attention.
        unet_groups: Groups of its norms.
        unet_out_channels: Channels that it gives to the heads.
        head_channels: Channels of the layer that gamma and beta share.
        head_norm: "instance" as released: gamma and beta have zero mean and unit variance per channel,
            so the module can never leave a prediction alone. "none": it starts as the identity and
            learns how much to change.
        encoder_halve: False: fold all voxels of a latent position, see ConditionEncoder.
        prior_shape: (x, y, z) of a latent: the first features are a linear reading of the latent, and
            what it tells is computed, see LinearPrior; None, as published: it is not.
        unet_wing: Channels at full latent resolution of a FoldedUNet, which then is the U-Net; 0, as
            published: a plain U-Net.
        prior_mean: Whether that reading is of latents with their mean, see LinearPrior.
    """

    @register_to_config
    def __init__(
        self,
        *,
        latent_channels: int = 3,
        condition_channels: Sequence[int] = (8,),
        encoder_channels: Sequence[int] = (16, 32, 48),
        encoder_res_blocks: int = 2,
        encoder_groups: int = 16,
        encoder_patch: int = 1,
        unet_channels: Sequence[int] = (64, 128, 256),
        unet_res_blocks: int = 2,
        unet_attention: Sequence[bool] = (False, False, True),
        unet_head_channels: Sequence[int] | None = None,
        unet_groups: int = 32,
        unet_out_channels: int = 64,
        head_channels: int = 128,
        head_norm: Literal["instance", "none"] = "instance",
        encoder_halve: bool = True,
        prior_shape: Sequence[int] | None = None,
        unet_wing: int = 0,
        prior_mean: bool = False,
    ) -> None:
        super().__init__()
        self.condition_channels = tuple(condition_channels)
        self.downsampling = encoder_patch * (2 ** len(encoder_channels) if encoder_halve else 1)
        self.encoders = nn.ModuleList(
            ConditionEncoder(
                channels,
                encoder_channels,
                encoder_res_blocks,
                encoder_groups,
                encoder_patch,
                halve=encoder_halve,
            )
            for channels in condition_channels
        )
        self.build_modulation(
            latent_channels, encoder_channels[-1], unet_channels, unet_res_blocks, unet_attention,
            unet_head_channels, unet_groups, unet_out_channels, head_channels, head_norm,
            prior_shape, unet_wing, prior_mean,
        )  # fmt: skip

    @classmethod
    def from_frozen(
        cls,
        frozen: Any,
        condition_channels: Sequence[int],
        latent_shape: Sequence[int],
        factor: int,
        linear_prior: bool = False,
        encoder_checkpointing: bool = False,
        **sizes: Any,
    ) -> VolumetricConditioningModule:
        """A new module for a frozen model.

        Args:
            frozen: Its denoiser.
            condition_channels: Channels of each condition.
            latent_shape: (C, x, y, z) of its latents.
            factor: Voxels per latent position and axis.
            linear_prior: Start from a linear reading of the conditions, see LinearPrior.
            encoder_checkpointing: See ConditionEncoder.
            **sizes: Of the constructor.

        Raises:
            VCMError: The sizes do not fit the frozen model.
        """
        if linear_prior and sizes.get("encoder_halve", True):
            raise VCMError(
                "linear_prior is true and encoder_halve too: an encoder that averages has no linear "
                "reading to start from; set one of them to false."
            )
        made = cls(
            latent_channels=frozen.config.latent_channels,
            condition_channels=tuple(condition_channels),
            prior_shape=tuple(latent_shape[1:]) if linear_prior else None,
            **sizes,
        )
        if made.config.encoder_halve:
            levels = len(made.config.encoder_channels)
            setting = (
                f"encoder_patch times 2 for each of the {levels} encoder_channels must be {factor}"
            )
        else:
            setting = f"set encoder_patch to {factor}"
        check_factor(made.downsampling, factor, setting)
        for encoder in made.encoders:
            encoder.checkpointing = encoder_checkpointing
        return made
