"""Encode a condition volume into features on the latent grid. Knows nothing of time or of noise.

The encoder of the Volumetric Conditioning Module (Ahn et al., WACV 2025, arXiv 2410.21826): since
no block sees t, the features of a volume are computed once and reused at every denoising step.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from vcm.nets.patches import to_patches

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped


class ResidualBlock(nn.Module):
    """h = skip(x) + conv2(silu(norm2(conv1(silu(norm1(x)))))), which starts as skip(x).

    With `down`, both branches are averaged over 2x2x2 voxels before the first convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        groups: int,
        eps: float,
        down: bool = False,
    ) -> None:
        super().__init__()
        self.down = down
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=eps)
        self.conv1 = nn.Conv3d(in_channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=eps)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(torch.as_tensor(self.conv2.bias))
        self.skip_connection: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.skip_connection = nn.Conv3d(in_channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "B C X Y Z"]) -> Float[Tensor, "B F x y z"]:
        """(B, C, X, Y, Z) -> (B, C', X, Y, Z), or half of each axis."""
        h = F.silu(self.norm1(x))
        if self.down:
            x, h = F.avg_pool3d(x, 2), F.avg_pool3d(h, 2)
        h = self.conv1(h)
        h = self.conv2(F.silu(self.norm2(h)))
        return self.skip_connection(x) + h


class Level(nn.Module):
    """Residual blocks at one resolution, then, with `halve`, a residual block that halves it."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        res_blocks: int,
        groups: int,
        eps: float,
        halve: bool,
    ) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * res_blocks
        self.resnets = nn.Sequential(
            *(ResidualBlock(widths[i], widths[i + 1], groups, eps) for i in range(res_blocks))
        )
        self.downsampler: nn.Module = nn.Identity()
        if halve:
            self.downsampler = ResidualBlock(widths[-1], out_channels, groups, eps, down=True)

    def forward(self, x: Float[Tensor, "B C X Y Z"]) -> Float[Tensor, "B F x y z"]:
        """(B, C, X, Y, Z) -> (B, C', X, Y, Z), or half of each axis."""
        return self.downsampler(self.resnets(x))


class ConditionEncoder(nn.Module):
    """(B, in_channels, X, Y, Z) -> (B, channels[-1], X/n, Y/n, Z/n).

    As published every level ends in a halving, the last one too, n = patch * 2^len(channels): three
    levels bring an image to a x8 latent grid. `patch` > 1 folds that many voxels per axis into
    channels first; it is not in the paper and loses nothing.

    halve False is this project's own: n = patch, the folded voxels are mixed by one 1x1x1
    convolution, and residual blocks follow on the latent grid. Averaging, which halving does, forgets
    where in a block of n voxels a border runs; folding keeps it, for a fraction of the work.

    checkpointing True recomputes each residual block in the backward pass instead of keeping its
    feature maps: the same gradients, a third more work in the encoder, a fraction of its memory.
    """

    checkpointing: bool = False

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int] = (16, 32, 48),
        res_blocks: int = 2,
        groups: int = 16,
        patch: int = 1,
        eps: float = 1e-6,
        halve: bool = True,
    ) -> None:
        super().__init__()
        self.patch, self.halve = patch, halve
        # Every voxel of a one-hot map speaks up at once: unscaled, one small step of each of their
        # weights would be a leap of their sum.
        self.scale = 1.0 if halve else patch**-1.5
        kernel = 3 if halve else 1
        folded = in_channels * patch**3
        self.conv_in = nn.Conv3d(folded, channels[0], kernel, padding=kernel // 2)
        widths = [channels[0], *channels]
        self.down_blocks = nn.Sequential(
            *(Level(a, b, res_blocks, groups, eps, halve) for a, b in pairwise(widths))
        )

    @torch.no_grad()
    def start_from_linear(
        self, weight: Float[Tensor, "C folded"], bias: Float[Tensor, " C"]
    ) -> None:
        """Set the first C features to weight (C, C_in patch^3) times the folded voxels plus bias (C,).

        For an encoder that does not halve: training then starts from a linear reading of the
        condition, as the residual blocks start as nothing.
        """
        count = len(bias)
        self.conv_in.weight[:count] = weight[:, :, None, None, None] / self.scale
        torch.as_tensor(self.conv_in.bias)[:count] = bias

    def forward(self, condition: Shaped[Tensor, "B C X Y Z"]) -> Float[Tensor, "B F x y z"]:
        """(B, C, X, Y, Z) -> features (B, C', x, y, z) on the latent grid."""
        weight, bias = self.conv_in.weight, self.conv_in.bias
        x = self.scale * to_patches(condition.to(weight.dtype), self.patch)
        if self.halve:
            return self._levels(self.conv_in(x))
        # The same as conv_in(x), as a product: with thousands of channels in, few out, channels last
        # and bfloat16, the backward of that convolution corrupts memory (oneDNN in torch 2.13).
        mixed = F.linear(x.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)
        return self._levels(mixed)

    def _levels(self, x: Float[Tensor, "B C X Y Z"]) -> Float[Tensor, "B F x y z"]:
        if not (self.checkpointing and torch.is_grad_enabled()):
            return self.down_blocks(x)
        for level in self.down_blocks:
            assert isinstance(level, Level)
            for block in (*level.resnets, level.downsampler):
                x = checkpoint(block, x, use_reentrant=False)
        return x
