"""The memory layout in which convolutions are fastest on CPUs."""

from __future__ import annotations

import torch
from torch import nn


def channels_last(*nets: nn.Module) -> None:
    """Lay out every convolution with its channels last; torch converts no module with other buffers."""
    for part in (part for net in nets for part in net.modules()):
        if isinstance(part, nn.Conv3d):
            part.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def channels_last_on_cpu(net: nn.Module, device: torch.device | str) -> None:
    """As `channels_last`, where the network is to compute on a CPU."""
    if torch.device(device).type == "cpu":
        channels_last(net)
