"""Detail between thick slices, read from two guesses: what the slices say and what a model expects.

A latent autoencoder keeps anatomy and loses texture; an interpolation keeps the slices and knows no
anatomy. This small U-Net at full resolution sees both and corrects the interpolation; with each
voxel it says how far off it expects to be. Tensors in, tensors out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from diffusers.configuration_utils import register_to_config
from monai.inferers.utils import sliding_window_inference
from monai.networks.nets.basic_unet import BasicUNet
from torch import Tensor, nn
from torch.nn import functional as F

from vcm.nets.mirrors import mean_over_mirrors
from vcm.nets.patches import from_patches, to_patches
from vcm.nets.saved import ModelMixin

if TYPE_CHECKING:
    from jaxtyping import Float

#: What the channels of the input are; the slices lie across the last axis.
#: interpolated  the scan, interpolated and projected onto its slices, scaled to 0..1
#: nearness      1 at a slice's centre, 0 halfway between two
#: expected      the brain that the steered model expects under the slices, projected onto them
READS = ("interpolated", "nearness", "expected")
#: The least standard deviation that is ever stated, and the one stated before training. Without a
#: floor one voxel that is wrong where the network was sure outweighs the rest of a crop.
LEAST_STD, FIRST_STD = 0.01, 0.05
#: Axes of (B, C, X, Y, Z) along which the input is mirrored: none, and all at once, which buys most of
#: what all eight combinations do.
MIRRORS = ((), (2, 3, 4))
#: Folded voxels of the input per voxel of BasicUNet's deepest level, along an axis.
DEEPEST = 16
#: Largest edge of a tile of a large volume, and by how much tiles overlap [voxel].
TILE, FADE = 128, 16


class Detailed(NamedTuple):
    """image: the corrected interpolation; std: of its error. Both (B, 1, X, Y, Z)."""

    image: Float[Tensor, "B 1 X Y Z"]
    std: Float[Tensor, "B 1 X Y Z"]


class DetailNet(ModelMixin):
    """MONAI's BasicUNet on voxels folded f x f x f into channels; starts as the interpolation.

    channels     features of its levels, and of its last layer, see BasicUNet
    fold         f
    expects      False: the channel `expected` is ignored, which makes this a plain network that
                 super-resolves without a prior, the one that the prior has to beat

    No norm layers: their statistics would differ between crops and whole volumes.
    """

    @register_to_config
    def __init__(
        self,
        channels: Sequence[int] = (32, 48, 64, 96, 96, 32),
        fold: int = 2,
        expects: bool = True,
    ) -> None:
        super().__init__()
        self.fold, self.expects = fold, expects
        read = len(READS) * fold**3
        no_norm: Any = None
        self.net = BasicUNet(3, read, channels[-1], tuple(channels), norm=no_norm)
        self.head = nn.Conv3d(channels[-1], 2 * fold**3, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(torch.as_tensor(self.head.bias))
        self.register_buffer("offset", torch.tensor(FIRST_STD).expm1().log(), persistent=False)

    def forward(self, read: Float[Tensor, "B 3 X Y Z"]) -> Detailed:
        """Read (B, 3, X, Y, Z), see READS; extents that `fold` does not divide are padded."""
        extent = read.shape[2:]
        padding = [p for n in reversed(extent) for p in (0, -n % self.fold)]
        padded = F.pad(read, padding, mode="replicate") if any(padding) else read
        if not self.expects:
            padded = torch.cat([padded[:, :2], torch.zeros_like(padded[:, 2:])], 1)
        folded = to_patches(padded, self.fold)
        out = from_patches(self.head(self.net(folded)), self.fold)
        out = out[..., : extent[0], : extent[1], : extent[2]].float()
        offset: Tensor = self.get_buffer("offset")
        return Detailed(
            read[:, :1].float() + out[:, :1], F.softplus(out[:, 1:] + offset).clamp(min=LEAST_STD)
        )

    def over_mirrors(
        self, read: Float[Tensor, "B 3 X Y Z"], mirrors: Sequence[Sequence[int]] = MIRRORS
    ) -> Detailed:
        """Means of what it says of mirror images of the input, see `mean_over_mirrors`."""
        return Detailed(*mean_over_mirrors(self, read, mirrors))

    @torch.no_grad()
    def over_tiles(
        self,
        read: Float[Tensor, "1 3 X Y Z"],
        mirrors: Sequence[Sequence[int]] = MIRRORS[:1],
        tile: int = TILE,
    ) -> Detailed:
        """What it says of a volume of any size in bounded memory: of equal tiles, faded into each other.

        Args:
            read: As `forward` has it, on any device; the answer lies there too.
            mirrors: As `over_mirrors` has it, for each tile.
            tile: Largest edge [voxel]; 128 takes 1 GB with the channels of 48 to 128.
        """

        def say(part: Float[Tensor, "B 3 X Y Z"]) -> Float[Tensor, "B 2 X Y Z"]:
            return torch.cat(self.over_mirrors(part, mirrors), 1)

        least = DEEPEST * self.fold
        edges = [max(least, _edge(n, tile)) for n in read.shape[2:]]
        found: Any = sliding_window_inference(
            read, edges, 1, say, overlap=[FADE / e for e in edges], mode="gaussian",
            sigma_scale=0.25, padding_mode="replicate", sw_device=self.device, device=read.device,
        )  # fmt: skip
        return Detailed(found[:, :1], found[:, 1:])


def _edge(extent: int, tile: int) -> int:
    """Of the fewest equal tiles of at most `tile` that overlap by FADE and cover an extent."""
    count = max(1, -(-(extent - FADE) // (tile - FADE)))
    return -(-(extent + (count - 1) * FADE) // count)
