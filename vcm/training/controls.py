"""Which control method a module is, and how large: from a configuration and a frozen model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vcm.errors import VCMError
from vcm.imaging.conditions import CONDITION_CHANNELS
from vcm.nets.controlnet import ControlNetLite, ControlNetModule
from vcm.nets.maisi import MaisiDenoiser
from vcm.nets.maisi_controlnet import MaisiControlNet
from vcm.nets.mcm import ModulatingConditionModule
from vcm.nets.t2i_adapter import T2IAdapter
from vcm.nets.vcm import VolumetricConditioningModule
from vcm.nets.with_linear_prior import WithLinearPrior
from vcm.training.configuration import ControlSizes

_UNET = (
    "unet_channels",
    "unet_res_blocks",
    "unet_attention",
    "unet_head_channels",
    "unet_groups",
    "unet_out_channels",
    "head_channels",
    "head_norm",
    "unet_wing",
)
_ENCODER = (
    "encoder_channels",
    "encoder_res_blocks",
    "encoder_groups",
    "encoder_patch",
    "encoder_halve",
    "encoder_checkpointing",
)
#: Method -> its class, and the keys of the configuration that `from_frozen` takes.
CONTROLS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "vcm": (VolumetricConditioningModule, (*_ENCODER, *_UNET, "linear_prior")),
    "mcm": (ModulatingConditionModule, _UNET),
    "controlnet": (ControlNetModule, ("embedding_channels",)),
    "controlnet-lite": (ControlNetLite, ("embedding_channels",)),
    "t2i-adapter": (T2IAdapter, ("adapter_blocks",)),
}
#: Methods that have a class of their own for a family of frozen models.
_OF_FAMILY: Mapping[tuple[str, type], Any] = {("controlnet", MaisiDenoiser): MaisiControlNet}


def make_control(
    sizes: ControlSizes, frozen: Any, latent_shape: tuple[int, ...], factor: int
) -> Any:
    """A new control method for a frozen model, with untrained weights.

    Args:
        sizes: Its method and sizes.
        frozen: The denoiser.
        latent_shape: (C, x, y, z) of the model's latents.
        factor: Voxels per latent position and axis.

    Raises:
        VCMError: The method is unknown, or its sizes do not fit the frozen model.
    """
    if sizes.control not in CONTROLS:
        raise VCMError(f"control is '{sizes.control}': choose {', '.join(CONTROLS)}.")
    kind, keys = CONTROLS[sizes.control]
    kind = _OF_FAMILY.get((sizes.control, type(frozen)), kind)
    options = {key: _plain(getattr(sizes, key)) for key in keys}
    if sizes.control == "vcm":
        options["latent_shape"] = latent_shape
    channels = tuple(CONDITION_CHANNELS[name] for name in sizes.conditions)
    # VCM and MCM work on the latent grid, the others on the grid of the frozen U-Net.
    fold = 1 if sizes.control in ("vcm", "mcm") else frozen.fold
    control = kind.from_frozen(frozen, channels, factor=factor * fold, **options)
    if not sizes.linear_prior or sizes.control == "vcm":  # VCM's encoder reads linearly itself
        return control
    return WithLinearPrior.around(control, latent_shape[0], latent_shape[1:], fold)


def _plain(value: Any) -> Any:
    """A list as the tuple that configurations of networks have."""
    return tuple(value) if isinstance(value, list) else value
