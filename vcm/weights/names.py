"""Tensor names of published checkpoints -> names of today's modules, and a load that hides nothing.

BrainLDM and VCM were released with names of monai-generative; MONAI core has since renamed a few.
Rules are explicit, leave today's names as they are, and never touch the dictionary they are given
(MONAI's own `load_old_state_dict` empties it, and lets missing tensors pass).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
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

#: Rules by part of a published model, in the order in which they are applied.
RULES: dict[str, Rules] = {"denoiser": _UNET, "autoencoder": _AUTOENCODER, "module": _VCM}

#: Tensors shown of each kind of fault.
SHOWN = 12


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


def rules_applied(names: Iterable[str], rules: Rules) -> dict[str, int]:
    """How many of these names of a checkpoint each rule changes, by its pattern; 0 is left out."""
    counts: dict[str, int] = {}
    for name in names:
        for pattern, replacement in rules:
            name, changes = re.subn(pattern, replacement, name)
            if changes:
                counts[pattern] = counts.get(pattern, 0) + 1
    return counts


def load_strictly(
    module: nn.Module, state_dict: Mapping[str, Tensor], source: str = "The checkpoint"
) -> None:
    """Load tensors under today's names; refuse by name whatever does not fit.

    Refused are tensors that are missing, unexpected, of another shape, not numbers of the same kind
    (integers for floats), not finite, and any tensor of the module that the load leaves without
    values. A module on the meta device takes the given tensors themselves, so no second copy is
    made; any other module is filled by copying. `source` is what the refusal calls the tensors.
    """
    faults = load_faults(module, state_dict)
    if any(faults.values()):
        total = len(module.state_dict())
        raise PublishedNamesError(
            f"{source} does not fit the {total} tensors of {type(module).__name__}: check that "
            f"the file and the network's configuration belong together.{fault_table(faults)}"
        )
    expected = module.state_dict()
    given = {name: value.to(expected[name].dtype) for name, value in state_dict.items()}
    # Finite numbers of 64 bits may be none of 32.
    narrowed = {n: value for n, value in given.items() if value.dtype != state_dict[n].dtype}
    if too_large := not_finite(narrowed):
        raise PublishedNamesError(
            f"{source} has values that are too large for the network's numbers: the file is damaged or its "
            f"training diverged, so take another.{fault_table({'too large': too_large})}"
        )
    module.load_state_dict(given, strict=True, assign=any(v.is_meta for v in expected.values()))
    refuse_empty(module)


def load_faults(module: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """What hinders a strict load: kind of fault -> one line per tensor, with near misses."""
    expected = module.state_dict()
    missing = [name for name in expected if name not in state_dict]
    unexpected = [name for name in state_dict if name not in expected]
    common = [name for name in expected if name in state_dict]
    strangers = {name: state_dict[name].shape for name in unexpected}
    return {
        "missing": [
            f"{name} {list(expected[name].shape)}{_near_miss(name, expected[name].shape, strangers)}"
            if position < SHOWN
            else name
            for position, name in enumerate(missing)
        ],
        "unexpected": [f"{name} {list(state_dict[name].shape)}" for name in unexpected],
        "of another shape": [
            f"{name} {list(state_dict[name].shape)} instead of {list(expected[name].shape)}"
            for name in common
            if state_dict[name].shape != expected[name].shape
        ],
        "of another kind": [
            f"{name} {state_dict[name].dtype} instead of {expected[name].dtype}"
            for name in common
            if state_dict[name].is_floating_point() != expected[name].is_floating_point()
        ],
        "not finite": not_finite(state_dict),
    }


def not_finite(state_dict: Mapping[str, Tensor]) -> list[str]:
    """One line for each tensor with NaN or infinite values."""
    lines = []
    for name, value in state_dict.items():
        if value.is_meta or not value.is_floating_point():
            continue
        # Numbers of 8 bits cannot be asked.
        asked = value.float() if value.element_size() == 1 else value
        bad = value.numel() - int(asked.isfinite().sum())
        if bad:
            lines.append(f"{name} {bad} of {value.numel()} values")
    return lines


def fault_table(faults: Mapping[str, Sequence[str]]) -> str:
    """Faults by kind as lines to set below a sentence, at most SHOWN of each kind."""
    lines = []
    for kind, found in faults.items():
        if found:
            lines += [f"{len(found)} {kind}:", *(f"  {line}" for line in found[:SHOWN])]
        if len(found) > SHOWN:
            lines.append(f"  ... and {len(found) - SHOWN} more")
    return "".join(f"\n{line}" for line in lines)


def refuse_empty(module: nn.Module) -> None:
    """Raise PublishedNamesError if a parameter or buffer was left on the meta device, without values."""
    held = [*module.named_parameters(), *module.named_buffers()]
    empty = [name for name, value in held if value.is_meta]
    if empty:
        raise PublishedNamesError(
            f"{type(module).__name__} was left with tensors that no file filled: give the complete "
            f"checkpoint.{fault_table({'without values': empty})}"
        )


def _near_miss(name: str, shape: torch.Size, strangers: Mapping[str, torch.Size]) -> str:
    """Hint at the unexpected tensor of the same shape whose name is most like this one."""
    alike = [other for other, its_shape in strangers.items() if its_shape == shape]
    near = get_close_matches(name, alike, 1, cutoff=0.8)
    return f"  (is it {near[0]}?)" if near else ""


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
    """The output projection that changes nothing.

    monai-generative held one in its plain self-attention but never applied it; MONAI core applies its
    own. So the projection that repeats the release is the identity.
    """
    if tensor.ndim == 2 and tensor.shape[0] == tensor.shape[1]:
        return torch.eye(tensor.shape[0], dtype=tensor.dtype, device=tensor.device)
    return torch.zeros_like(tensor)
