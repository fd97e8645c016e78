"""Weights in 8 bits: a quarter of float32 on the disk, and again float32 in memory.

    w = q s        q whole numbers from -127 to 127, s one half-precision number per row (output channel)

Rounding what was rounded changes nothing, so that a checksum over the weights holds for file and memory.
Tensors in, tensors out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float, Int8, Shaped

#: Largest q.
MOST = 127
#: Parameters of fewer numbers, and those without rows, stay in half precision.
LEAST_NUMBERS = 4096
#: What the name of a weight's s ends with.
SCALE = ".row_scale"


def round_rows(
    weight: Shaped[Tensor, "rows ..."],
) -> tuple[Int8[Tensor, "rows ..."], Float[Tensor, " rows"]]:
    """The q and s of a weight; s is rounded up, so that no q is cut off."""
    rows = weight.float().flatten(1)
    exact = rows.abs().amax(1) / MOST
    scale = exact.half()
    scale = torch.where(scale.float() < exact, _next_half(scale), scale)
    steps = torch.where(scale > 0, scale, torch.ones_like(scale)).float()
    return (rows / steps[:, None]).round().to(torch.int8).reshape(weight.shape), scale


def from_rows(
    numbers: Int8[Tensor, "rows ..."], scale: Float[Tensor, " rows"]
) -> Float[Tensor, "rows ..."]:
    """The weight, float32."""
    rows = numbers.float().flatten(1) * scale.float()[:, None]
    return rows.reshape(numbers.shape)


def rounded_names(net: nn.Module) -> set[str]:
    """Names of the parameters of a network that 8 bits are for; buffers are statistics and stay."""
    return {
        name
        for name, p in net.named_parameters()
        if p.ndim > 1 and p.numel() >= LEAST_NUMBERS and p.is_floating_point()
    }


@torch.no_grad()
def round_network(net: nn.Module) -> None:
    """Give a network the weights that it has when it is stored in 8 bits and loaded again."""
    names = rounded_names(net)
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        stored = from_rows(*round_rows(tensor)) if name in names else tensor.half().float()
        tensor.copy_(stored)


def to_stored(
    tensors: dict[str, Shaped[Tensor, " ..."]], names: set[str]
) -> dict[str, Shaped[Tensor, " ..."]]:
    """A state in 8 bits where `names` says so, in half precision elsewhere."""
    stored = {}
    for name, tensor in tensors.items():
        if name in names:
            stored[name], stored[name + SCALE] = round_rows(tensor)
        else:
            stored[name] = tensor.half() if tensor.is_floating_point() else tensor
    return stored


def restore(tensors: dict[str, Shaped[Tensor, " ..."]]) -> None:
    """Make a stored state, in place, one that a network loads."""
    for name in [n for n in tensors if n.endswith(SCALE)]:
        weight = name.removesuffix(SCALE)
        tensors[weight] = from_rows(tensors[weight], tensors.pop(name))


def _next_half(values: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    """The next larger half-precision number of each, from 0 on."""
    return (values.view(torch.int16) + 1).view(torch.float16)
