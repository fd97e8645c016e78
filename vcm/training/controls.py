"""Which control method a module is, and how large: from a configuration and a frozen model."""

from __future__ import annotations

from typing import Any

from vcm.errors import VCMError
from vcm.imaging.conditions import CONDITION_CHANNELS
from vcm.nets.controlnet import ControlNetLite, ControlNetModule
from vcm.nets.denoiser import LatentDenoiser
from vcm.nets.mcm import ModulatingConditionModule
from vcm.nets.t2i_adapter import T2IAdapter
from vcm.nets.vcm import VolumetricConditioningModule
from vcm.nets.with_linear_prior import WithLinearPrior
from vcm.training.configuration import ControlSizes

CONTROLS = ("vcm", "mcm", "controlnet", "controlnet-lite", "t2i-adapter")


def make_control(sizes: ControlSizes, frozen: Any, latent_shape: tuple[int, ...]) -> Any:
    """A new control method for that frozen model, with untrained weights. Raises VCMError."""
    control = _method(sizes, frozen, latent_shape)
    if not sizes.linear_prior or sizes.control == "vcm":  # VCM's encoder reads linearly itself
        return control
    return WithLinearPrior.around(sizes.control, control, latent_shape[0], latent_shape[1:])


def _method(sizes: ControlSizes, frozen: Any, latent_shape: tuple[int, ...]) -> Any:
    if sizes.control not in CONTROLS:
        raise VCMError(f"control is '{sizes.control}': choose {', '.join(CONTROLS)}.")
    if sizes.control == "vcm" and sizes.linear_prior and sizes.encoder_halve:
        raise VCMError(
            "linear_prior is true and encoder_halve too: an encoder that averages has no linear reading "
            "to start from; set one of them to false."
        )
    read = tuple(CONDITION_CHANNELS[name] for name in sizes.conditions)
    latent = frozen.config.latent_channels
    if sizes.control in ("vcm", "mcm"):
        modulation: dict[str, Any] = {
            "latent_channels": latent,
            "condition_channels": read,
            "unet_channels": tuple(sizes.unet_channels),
            "unet_res_blocks": sizes.unet_res_blocks,
            "unet_attention": tuple(sizes.unet_attention),
            "unet_head_channels": tuple(sizes.unet_head_channels),
            "unet_groups": sizes.unet_groups,
            "unet_out_channels": sizes.unet_out_channels,
            "head_channels": sizes.head_channels,
            "head_norm": sizes.head_norm,
        }
        if sizes.control == "mcm":
            return ModulatingConditionModule(**modulation)
        module = VolumetricConditioningModule(
            encoder_channels=tuple(sizes.encoder_channels),
            encoder_res_blocks=sizes.encoder_res_blocks,
            encoder_groups=sizes.encoder_groups,
            encoder_patch=sizes.encoder_patch,
            encoder_halve=sizes.encoder_halve,
            prior_shape=tuple(latent_shape[1:]) if sizes.linear_prior else None,
            **modulation,
        )
        for encoder in module.encoders:
            encoder.checkpointing = sizes.encoder_checkpointing
        return module
    if not isinstance(frozen, LatentDenoiser):
        raise VCMError(
            f"control is '{sizes.control}', which reaches into the frozen U-Net, and that of "
            f"{type(frozen).__name__} is not supported: choose vcm or mcm."
        )
    widths = tuple(frozen.config.channels)
    if sizes.control == "t2i-adapter":
        return T2IAdapter(read, widths, sizes.adapter_blocks)
    embedding = tuple(sizes.embedding_channels)
    blocks = frozen.config.res_blocks
    if sizes.control == "controlnet-lite":
        return ControlNetLite(read, widths, blocks, embedding)
    copy = ControlNetModule(
        latent,
        read,
        frozen.config.covariates,
        widths,
        tuple(frozen.config.attention),
        tuple(frozen.config.head_channels),
        blocks,
        frozen.config.groups,
        embedding,
    )
    copy.start_from(frozen)
    return copy
