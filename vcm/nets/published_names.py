"""Tensor names of published checkpoints -> names of today's modules, and a load that hides nothing.

BrainLDM and VCM were released with names of monai-generative; MONAI core has since renamed a few.
Rules are explicit, leave today's names as they are, and never touch the dictionary they are given
(MONAI's own `load_old_state_dict` empties it, and lets missing tensors pass).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vcm.errors import VCMError

Rules = tuple[tuple[str, str], ...]

# Plain self-attention moved into `attn`; cross-attention kept its place but for its output layer.
_ATTENTION: Rules = (
    (r"(attentions\.\d+|\.attention|blocks\.\d+)\.(to_[qkv])\.", r"\1.attn.\2."),
    (r"(attentions\.\d+|\.attention|blocks\.\d+)\.proj_attn\.", r"\1.attn.out_proj."),
    (r"\.(attn[12])\.to_out\.0\.", r".\1.out_proj."),
)
_UNET: Rules = (*_ATTENTION, (r"\.upsampler\.conv\.conv\.", ".upsampler.postconv.conv."))
_AUTOENCODER: Rules = (
    *_ATTENTION,
    (r"^decoder\.blocks\.(\d+)\.conv\.conv\.", r"decoder.blocks.\1.postconv.conv."),
)
# Ours: one encoder per condition (the release has one), and convolutions without MONAI's wrapper.
_VCM: Rules = (
    *_UNET,
    (r"^modality_encoder\.", "encoders.0."),
    (r"^(encoders\..*|mlp_\w+)\.conv\.(weight|bias)$", r"\1.\2"),
)


class PublishedNamesError(VCMError):
    """A checkpoint whose tensors are not exactly those of the network."""


def rename_unet(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """monai-generative `DiffusionModelUNet` -> MONAI core `DiffusionModelUNet`."""
    return _rename(state_dict, _UNET)


def rename_autoencoder(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """monai-generative `AutoencoderKL` -> MONAI core `AutoencoderKL`."""
    return _rename(state_dict, _AUTOENCODER)


def rename_published(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """The released VCM -> `vcm.nets.vcm.VolumetricConditioningModule`."""
    return _rename(state_dict, _VCM)


def load_strictly(module: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Load tensors under today's names; refuse missing, unexpected and misshapen ones by name."""
    expected = module.state_dict()
    missing = [name for name in expected if name not in state_dict]
    unexpected = [name for name in state_dict if name not in expected]
    misshapen = [
        f"{name} {list(state_dict[name].shape)} instead of {list(expected[name].shape)}"
        for name in expected
        if name in state_dict and state_dict[name].shape != expected[name].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(faults.values()):
        report = "; ".join(f"{len(v)} {k}: {', '.join(v)}" for k, v in faults.items() if v)
        raise PublishedNamesError(
            f"the checkpoint does not fit the {len(expected)} tensors of {type(module).__name__}: "
            f"{report}; check that the file and the network's configuration belong together"
        )
    module.load_state_dict(dict(state_dict), strict=True)


def _rename(state_dict: Mapping[str, Any], rules: Rules) -> dict[str, Tensor]:
    """Apply each rule in turn, after removing {"state_dict": ...} and the "module." of DDP."""
    if isinstance(state_dict.get("state_dict"), Mapping):
        state_dict = state_dict["state_dict"]
    renamed: dict[str, Tensor] = {}
    for old, tensor in state_dict.items():
        new = old.removeprefix("module.")
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        if new in renamed:
            raise PublishedNamesError(
                f"the checkpoint names {new} twice, the second time as {old}; "
                "it mixes old and new names, and which to trust is unknown"
            )
        renamed[new] = _identity(tensor) if ".proj_attn." in old else tensor
    return renamed


def _identity(tensor: Tensor) -> Tensor:
    """monai-generative held an output projection in its plain self-attention but never applied it;
    MONAI core applies its own. So the projection that repeats the release is the identity."""
    if tensor.ndim == 2 and tensor.shape[0] == tensor.shape[1]:
        return torch.eye(tensor.shape[0], dtype=tensor.dtype, device=tensor.device)
    return torch.zeros_like(tensor)
