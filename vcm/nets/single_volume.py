"""Convolutions of one small volume on a CPU, by oneDNN as those of larger batches.

Torch leaves a float32 convolution of one volume with few channels to an older kernel, which takes two to
eight times as long (measured with torch 2.13 on 2 cores: 32 channels on 20 x 28 x 20, 80 ms against 13 ms).
Changes which kernel computes, and nothing else; only where no gradient is needed.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def compute_single_volumes_fast(*nets: object) -> None:
    """Let every plain 3D convolution of the networks take oneDNN's kernel for one volume on a CPU."""
    if not torch.backends.mkldnn.is_available():
        return
    part: Any
    for part in (part for net in nets if isinstance(net, nn.Module) for part in net.modules()):
        plain = type(part) is nn.Conv3d and part.padding_mode == "zeros" and part.groups == 1
        if plain and not isinstance(part.padding, str):
            part._conv_forward = partial(_convolve, part)


def _convolve(conv: nn.Conv3d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    single = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and len(x) == 1
    if single and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
        sizes: Any = (conv.padding, conv.stride, conv.dilation, conv.groups)
        out: Tensor = torch.mkldnn_convolution(x, weight, bias, *sizes)
        return out
    return nn.Conv3d._conv_forward(conv, x, weight, bias)
