"""The network of few-shot tasks: a small U-Net in plain PyTorch, from images to class scores.

Knows tensors only. It is TissueSegmenter layer by layer, under the same names of weights, without
the libraries that a container would have to load; a test holds the two to the same numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vcm.nets.local_brightness import local_brightness
from vcm.nets.normed_relu import NormedReLU

#: The network of `vcm pretrain encoder` as its configurations have it.
ENCODER: dict[str, Any] = {"channels": (16, 32, 64, 128), "groups": 8, "patch": 2}


class _Convolution(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.conv = layer

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class _Block(nn.Module):
    """Twice: convolution of 3 voxels, group norm, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1 = _Convolution(nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False))
        self.conv2 = _Convolution(nn.Conv3d(outputs, outputs, 3, 1, 1, bias=False))
        self.norm1, self.norm2 = (NormedReLU(groups, outputs) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x))
        out: Tensor = self.norm2(self.conv2(x))
        return out


class _Up(nn.Module):
    """Transposed convolution to the next finer level, joined to its skip connection."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.transp_conv = _Convolution(nn.ConvTranspose3d(inputs, outputs, 2, 2, bias=False))
        self.conv_block = _Block(2 * outputs, outputs, 1, groups)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        out: Tensor = self.conv_block(torch.cat([self.transp_conv(x), skip], 1))
        return out


class _Out(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = _Convolution(nn.Conv3d(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class FewShotUNet(nn.Module):
    """Images (B, C, X, Y, Z) in 0..1 -> logits (B, outputs, X, Y, Z), background first.

    Source: U-Net (Ronneberger et al. 2015) as in nnU-Net (Isensee et al. 2021), with group norm. The
    input is padded to multiples of the coarsest voxel, and the padding is cut off again. Blocks of
    patch^3 voxels are folded into channels before the finest level, and unfolded after it. Where it is
    `local`, each voxel of each input is first read as its deviation from the brightness around it.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 9,
        channels: tuple[int, ...] = (8, 32, 64, 128),
        groups: int = 8,
        patch: int = 1,
        local: bool = False,
    ) -> None:
        super().__init__()
        self.channels, self.patch, self.local = channels, patch, local
        self.settings: dict[str, Any] = {
            "inputs": inputs, "outputs": outputs, "channels": list(channels), "groups": groups,
            "patch": patch, "local": local,
        }  # fmt: skip
        pairs = list(zip((inputs * patch**3, *channels), channels, strict=False))
        self.down = nn.ModuleList(
            _Block(a, b, 1 if level == 0 else 2, groups) for level, (a, b) in enumerate(pairs)
        )
        self.up = nn.ModuleList(_Up(b, a, groups) for a, b in pairs[:0:-1])
        self.out = _Out(channels[0], outputs * patch**3)
        self.downsampling = patch * 2 ** (len(channels) - 1)
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
                nn.init.kaiming_normal_(module.weight, a=0.01)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    @property
    def feature_count(self) -> int:
        """How many features a scan has per input."""
        return 2 * sum(self.channels[1:])

    def forward(self, image: Tensor) -> Tensor:
        """Logits per class."""
        size = image.shape[2:]
        *skips, h = self.levels(image)
        for up, skip in zip(self.up, reversed(skips), strict=True):
            h = up(h, skip)
        out = _unfolded(self.out(h), self.patch)
        return out[..., : size[0], : size[1], : size[2]]

    def levels(self, image: Tensor) -> list[Tensor]:
        """Activations of every level, full resolution first, of the padded image."""
        if self.local:
            image = local_brightness(image)
        pad = [n for size in image.shape[:1:-1] for n in (0, -size % self.downsampling)]
        levels = [_folded(functional.pad(image, pad), self.patch)]
        for down in self.down:
            levels.append(down(levels[-1]))
        return levels[1:]

    def features(self, image: Tensor) -> Tensor:
        """(B, C, X, Y, Z) -> (B, F): mean and standard deviation of every channel.

        Not of the first level, whose channels are little more than the image.
        """
        pooled = []
        for level in self.levels(image)[1:]:
            flat = level.float().flatten(2)
            pooled += [flat.mean(2), flat.std(2, correction=0)]
        return torch.cat(pooled, 1)


def _folded(x: Tensor, factor: int) -> Tensor:
    """(B, C, X f, Y f, Z f) -> (B, C f^3, X, Y, Z), as vcm.nets.patches has it."""
    if factor == 1:
        return x
    x = x.unflatten(4, (-1, factor)).unflatten(3, (-1, factor)).unflatten(2, (-1, factor))
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)


def _unfolded(x: Tensor, factor: int) -> Tensor:
    """(B, C f^3, X, Y, Z) -> (B, C, X f, Y f, Z f)."""
    if factor == 1:
        return x
    x = x.unflatten(1, (-1, factor, factor, factor)).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)
