"""A brain of any contrast becomes the T1w brain that is expected under it, voxel by voxel.

A regression as in SynthSR (Iglesias et al., NeuroImage 2021): of all T1w images that fit what it reads it says the
mean, and how far off it expects to be. What it begins with is computed, not learned: brains lie in common space, so
the mean T1w brain there tells what an intensity of the scan means,

    T1w(v) = E[ mean brain | intensity of the scan = v ],  scaled to the mean and spread of T1w brains

which has the right order of tissues, blurred; the network corrects it. Tensors in, tensors out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from monai.networks.nets.basic_unet import BasicUNet
from torch import Tensor, nn
from torch.nn import functional as F

from vcm.nets.mirrors import mean_over_mirrors
from vcm.nets.patches import from_patches, to_patches
from vcm.nets.saved import ModelMixin

if TYPE_CHECKING:
    from jaxtyping import Float

#: The least standard deviation that is ever stated, and the one stated before training.
LEAST_STD, FIRST_STD = 0.01, 0.1
#: Knots of the curve T1w(v) over 0..1, and the voxels that each counts beside its own, of the mean.
KNOTS, BESIDE = 33, 100.0
#: Axes of (B, C, X, Y, Z) that a brain is mirrored along: none, and left for right.
MIRRORS = ((), (2,))
#: What the network reads: the scan, the curve of it, the mean brain.
READS = 3


class Translated(NamedTuple):
    """image: expected T1w brain; std: of its error. Both (B, 1, X, Y, Z), where 0..1 are percentiles of the brain."""

    image: Float[Tensor, "B 1 X Y Z"]
    std: Float[Tensor, "B 1 X Y Z"]


class Translator(ModelMixin):
    """MONAI's BasicUNet on voxels folded f x f x f into channels, with instance norms.

    It reads whole brains on one grid, so that the statistics of its norms tell the contrast.

    Args:
        channels: Features of its levels, and of its last layer, see BasicUNet.
        fold: f.
        grid: "shape" and "affine" (voxel -> common space, RAS+ [mm]) of the brains that it reads.
    """

    template: Float[Tensor, "1 1 X Y Z"]
    scale: Float[Tensor, " 2"]

    @register_to_config
    def __init__(
        self,
        channels: Sequence[int] = (32, 48, 64, 96, 128, 32),
        fold: int = 2,
        grid: Any = None,
    ) -> None:
        super().__init__()
        self.fold = fold
        shape = tuple(grid["shape"])
        self.affine = np.array(grid["affine"], np.float64).reshape(4, 4)
        self.register_buffer("template", torch.zeros(1, 1, *shape))
        self.register_buffer("scale", torch.tensor([0.5, 0.25]))
        self.net = BasicUNet(3, READS * fold**3, channels[-1], tuple(channels))
        self.head = nn.Conv3d(channels[-1], 2 * fold**3, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(torch.as_tensor(self.head.bias))
        self.register_buffer("offset", torch.tensor(FIRST_STD).expm1().log(), persistent=False)

    def knows(self, template: Float[Tensor, "X Y Z"], mean: float, std: float) -> None:
        """Set what it knows of T1w brains: their mean in common space, and mean and deviation inside a brain."""
        self.template.copy_((template + template.flip(0)) / 2)
        self.scale.copy_(torch.tensor([mean, std]))

    @torch.no_grad()
    def guess(self, scan: Float[Tensor, "B 1 X Y Z"]) -> Float[Tensor, "B 1 X Y Z"]:
        """The curve T1w(v) of each scan, 0 where the scan is 0."""
        made = []
        for one in scan.float():
            inside = one > 0
            place = one[inside].clamp(0, 1) * (KNOTS - 1)
            low = place.floor().clamp(max=KNOTS - 2).long()
            part = place - low
            told = self.template[0].float()[inside]
            counts, sums = place.new_zeros(KNOTS), place.new_zeros(KNOTS)
            for knot, share in ((low, 1 - part), (low + 1, part)):
                counts.index_add_(0, knot, share)
                sums.index_add_(0, knot, share * told)
            curve = (sums + BESIDE * told.mean()) / (counts + BESIDE)
            values = curve[low] * (1 - part) + curve[low + 1] * part
            mean, std = self.scale
            values = mean + std * (values - values.mean()) / values.std().clamp(min=1e-4)
            made.append(torch.zeros_like(one).masked_scatter_(inside, values))
        return torch.stack(made)

    def over_mirrors(self, scan: Float[Tensor, "B 1 X Y Z"]) -> Translated:
        """Means of what it says of a brain and of its mirror image, left for right."""
        return Translated(*mean_over_mirrors(self, scan, MIRRORS))

    def forward(self, scan: Float[Tensor, "B 1 X Y Z"]) -> Translated:
        """Read brains (B, 1, X, Y, Z), see vcm.imaging.brain.to_unit_range; `fold` divides their extents."""
        guess = self.guess(scan)
        read = torch.cat([scan, guess, self.template.expand_as(scan)], 1)
        out = from_patches(self.head(self.net(to_patches(read, self.fold))), self.fold).float()
        offset: Tensor = self.get_buffer("offset")
        return Translated(guess + out[:, :1], F.softplus(out[:, 1:] + offset).clamp(min=LEAST_STD))
