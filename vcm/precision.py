"""Which type of numbers a device computes with: float32, or bfloat16 where the hardware has it.

bfloat16 halves time and memory on GPUs and on processors that multiply matrices of it (AMX, Arm BF16). Elsewhere
float32 is faster, by much where bfloat16 is emulated and still twofold on a Xeon that has AVX-512 BF16 without AMX
(matrices of 1,024, convolutions of 8 to 64 channels, torch 2.13), so there bfloat16 is never chosen unasked.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from vcm.errors import VCMError

#: Names that a user may give.
PRECISIONS = ("auto", "float32", "bfloat16")
#: Names of the same for training, as accelerate has them.
MIXED_PRECISIONS = ("auto", "no", "bf16", "fp16")


def computes_bfloat16(device: object) -> bool:
    """Whether a device computes bfloat16 faster than float32.

    Args:
        device: A torch.device, or its name.
    """
    import torch

    kind = torch.device(str(device)).type
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(False)
    if kind == "cpu":
        found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return any(found.get(name) for name in ("amx_bf16", "bf16"))
    return False


def check_precision(name: str) -> str:
    """The name, if it is one of PRECISIONS. Raises VCMError for anything else."""
    if name not in PRECISIONS:
        raise VCMError(f"The precision is '{name}': choose {', '.join(PRECISIONS)}.")
    return name


def resolve_precision(name: str, device: object) -> str:
    """'auto' -> 'bfloat16' where `device` computes it, else 'float32'; other names as they are.

    Raises:
        VCMError: The name is none of PRECISIONS.
    """
    if check_precision(name) != "auto":
        return name
    return "bfloat16" if computes_bfloat16(device) else "float32"


def resolve_mixed_precision(name: str, device: object) -> str:
    """As `resolve_precision`, with the names that accelerate has: 'auto' -> 'bf16' or 'no'."""
    if name != "auto":
        return name
    return "bf16" if computes_bfloat16(device) else "no"


def keep_thin_convolutions_exact(net: Any) -> None:
    """Let the 3D convolutions of a network that is trained compute two voxels of depth in float32 on a CPU.

    There oneDNN's weight gradient in bfloat16 is memory that nobody wrote, where the first axis has 2 voxels and the
    kernel is wider than 1 (torch 2.13; other sizes are right).

    Args:
        net: A torch.nn.Module.
    """
    from torch import nn

    part: Any
    for part in net.modules():
        plain = type(part) is nn.Conv3d and "_conv_forward" not in vars(part)
        if plain:
            part._conv_forward = partial(_convolve, part)


def _convolve(conv: Any, x: Any, weight: Any, bias: Any) -> Any:
    import torch

    plain = torch.nn.Conv3d._conv_forward
    if x.device.type != "cpu" or x.shape[2] != 2 or not torch.is_grad_enabled():
        return plain(conv, x, weight, bias)
    with torch.autocast("cpu", enabled=False):
        return plain(conv, x.float(), weight.float(), None if bias is None else bias.float())
