"""A diffusion U-Net on a fine latent grid for the price of one on a grid half as fine.

    h    = stem(x)                                     fine grid, few channels
    u    = unfold(unet([fold(x), place], t, context))   MONAI's U-Net on 2x2x2 latents folded into channels
    out  = head([h, u])                                fine grid, few channels

`place` are sines and cosines of the position in the volume, as aligned brains have the same anatomy at
the same place (Fourier features, Tancik et al. 2020). The two wings at full latent resolution see what
a fold hides from a convolution: neighbours of neighbouring blocks. Knows tensors; not what the
prediction means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
from torch import Tensor, nn
from torch.nn import functional as F

from vcm.nets.patches import from_patches, to_patches

if TYPE_CHECKING:
    from jaxtyping import Float, Num

FOLD = 2
#: Periods over the field of view of the sines and cosines, per axis.
PERIODS = (0.5, 1.0, 2.0, 4.0)
PLACES = 6 * len(PERIODS)


class Wing(nn.Module):
    """x + conv2(silu(norm(conv1(silu(norm(x)))))) on the fine grid, shifted by an embedding of t."""

    def __init__(self, channels: int, groups: int, embedding: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.shift = nn.Linear(embedding, channels)
        self.norm2 = nn.GroupNorm(groups, channels, eps=1e-6)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(torch.as_tensor(self.conv2.bias))

    def forward(
        self, x: Float[Tensor, "B C x y z"], embedded: Float[Tensor, "B embedding"]
    ) -> Float[Tensor, "B C x y z"]:
        """Features (B, C, x, y, z), embedded timestep (B, embedding) -> features of the same shape."""
        h = self.conv1(F.silu(self.norm1(x))) + self.shift(embedded)[..., None, None, None]
        changed: Tensor = self.conv2(F.silu(self.norm2(h)))
        return x + changed


class FoldedUNet(nn.Module):
    """(B, in_channels, x, y, z), t (B,), context -> (B, out_channels, x, y, z).

    An extent must be 2 times what the U-Net can halve: a multiple of 4 for one of two levels.
    """

    def __init__(
        self, in_channels: int, out_channels: int, wing: int, wing_groups: int, **unet: Any
    ) -> None:
        """A U-Net whose output starts at 0.

        Args:
            in_channels: Of the fine grid.
            out_channels: Of the fine grid.
            wing: Channels at full resolution, even.
            wing_groups: Norm groups of these.
            unet: Further arguments of MONAI's DiffusionModelUNet.
        """
        super().__init__()
        self.embedding = wing
        self.time = nn.Sequential(nn.Linear(wing, 4 * wing), nn.SiLU())
        self.stem = nn.Conv3d(in_channels, wing, 3, padding=1)
        self.before = Wing(wing, wing_groups, 4 * wing)
        self.unet = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=in_channels * FOLD**3 + PLACES,
            out_channels=wing * FOLD**3,
            norm_eps=1e-6,
            resblock_updown=True,
            upcast_attention=True,
            **unet,
        )
        # MONAI's last layer is zero, as ours is: one zero in series is enough.
        last: Any = self.unet.out[-1]
        last.conv.reset_parameters()
        self.join = nn.Conv3d(2 * wing, wing, 3, padding=1)
        self.after = Wing(wing, wing_groups, 4 * wing)
        self.norm = nn.GroupNorm(wing_groups, wing, eps=1e-6)
        self.head = nn.Conv3d(wing, out_channels, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(torch.as_tensor(self.head.bias))

    def folded(self, x: Float[Tensor, "B C x y z"]) -> Float[Tensor, "B channels x//2 y//2 z//2"]:
        """What the U-Net reads of x, with the place."""
        blocks = to_patches(x, FOLD)
        place = places(blocks.shape[2:]).to(blocks)
        return torch.cat([blocks, place.expand(len(x), *place.shape)], 1)

    def forward(
        self,
        x: Float[Tensor, "B C x y z"],
        t: Num[Tensor, " B"],
        context: Float[Tensor, "B n c"] | None = None,
        **added: Any,
    ) -> Float[Tensor, "B D x y z"]:
        """The prediction.

        Args:
            x: (B, in_channels, x, y, z).
            t: (B,) timesteps.
            context: (B, n, c) for cross-attention, or None.
            added: Residuals, as MONAI's U-Net names them.

        Returns:
            (B, out_channels, x, y, z).
        """
        embedded = self.time(_waves(t, self.embedding).to(x.dtype))
        h = self.before(self.stem(x), embedded)
        u = from_patches(self.unet(self.folded(x), t, context, **added), FOLD)
        h = self.after(self.join(torch.cat([h, u], 1)), embedded)
        out: Tensor = self.head(F.silu(self.norm(h)))
        return out


def places(extent: Sequence[int]) -> Float[Tensor, "places x y z"]:
    """Sines and cosines of each coordinate over the field of view, -1/2..1/2.

    Args:
        extent: (x, y, z) of the grid.

    Returns:
        (PLACES, x, y, z) in -1..1.
    """
    axes = [(torch.arange(n) + 0.5) / n - 0.5 for n in extent]
    grid = torch.meshgrid(*axes, indexing="ij")
    waves = [2 * math.pi * p * g for g in grid for p in PERIODS]
    return torch.stack([f(w) for w in waves for f in (torch.sin, torch.cos)])


def _waves(t: Num[Tensor, " B"], size: int) -> Float[Tensor, "B {size}"]:
    """(B, size): the usual embedding of a timestep (Ho et al. 2020)."""
    half = size // 2
    rates = torch.exp(-math.log(10000) * torch.arange(half, device=t.device) / half)
    phase = t.float()[:, None] * rates
    return torch.cat([phase.cos(), phase.sin()], 1)
