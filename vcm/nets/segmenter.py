"""A small U-Net that names tissues. It measures what a generative model made, and makes nothing.

Convolutions and blocks are MONAI's (those of DynUNet); full resolution has few channels, because
that is where the time goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from diffusers.configuration_utils import register_to_config
from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetOutBlock, UnetUpBlock
from torch import Tensor, nn

from vcm.errors import VCMError
from vcm.nets.patches import from_patches, to_patches
from vcm.nets.saved import ModelMixin

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8


class TissueSegmenter(ModelMixin):
    """Images (B, inputs, X, Y, Z) in 0..1 -> logits (B, 9, X, Y, Z): background and eight classes.

    Source: U-Net (Ronneberger et al. 2015) in the form of nnU-Net (Isensee et al. 2021), with group
    instead of instance normalisation: after the latter every channel has the same mean and spread,
    and `features` would have little to tell.

    Args:
        channels: Per level, the finest first.
        groups: Of the group normalisation.
        out_classes: Channels of the logits.
        lesions: Whether one more channel, behind those of the classes, is the logit of a lesion. Classes are
            those of the anatomy underneath.
        patch: Edge of the blocks of voxels that are folded into channels before the finest level, and
            unfolded again: much less time per volume, coarser borders.
        inputs: Images that it reads side by side.
    """

    @register_to_config
    def __init__(
        self,
        channels: Sequence[int] = (8, 32, 64, 128),
        groups: int = 8,
        out_classes: int = 9,
        patch: int = 1,
        lesions: bool = False,
        inputs: int = 1,
    ) -> None:
        super().__init__()
        self.patch, self.out_classes = patch, out_classes
        norm = ("group", {"num_groups": groups})
        pairs = list(zip((inputs * patch**3, *channels), channels, strict=False))
        self.down = nn.ModuleList(
            UnetBasicBlock(3, a, b, 3, 1 if level == 0 else 2, norm)
            for level, (a, b) in enumerate(pairs)
        )
        self.up = nn.ModuleList(UnetUpBlock(3, b, a, 3, 1, 2, norm) for a, b in pairs[:0:-1])
        self.out = UnetOutBlock(3, channels[0], (out_classes + lesions) * patch**3)
        self.downsampling = patch * 2 ** (len(channels) - 1)
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
                nn.init.kaiming_normal_(module.weight, a=0.01)

    def forward(self, image: Float[Tensor, "B inputs X Y Z"]) -> Float[Tensor, "B classes X Y Z"]:
        """Logits per class, and of lesions behind them where the network knows lesions."""
        return self.decode(self.levels(image))

    def decode(self, levels: list[Float[Tensor, "B _ _ _ _"]]) -> Float[Tensor, "B classes X Y Z"]:
        """Activations of each level -> logits per class."""
        *skips, h = levels
        for up, skip in zip(self.up, reversed(skips), strict=True):
            h = up(h, skip)
        return from_patches(self.out(h), self.patch)

    @torch.no_grad()
    def classes(
        self, image: Float[Tensor, "B inputs X Y Z"], least: float = 0.0
    ) -> UInt8[Tensor, "B X Y Z"]:
        """(B, inputs, X, Y, Z) -> the most probable class per voxel, uint8 (B, X, Y, Z).

        Args:
            image: In 0..1.
            least: Voxels whose class is less probable than this are background.
        """
        probable, found = self(image)[:, : self.out_classes].softmax(1).max(1)
        return found.where(probable >= least, 0).to(torch.uint8)

    @torch.no_grad()
    def features(self, image: Float[Tensor, "B inputs X Y Z"]) -> Float[Tensor, "B F"]:
        """(B, inputs, X, Y, Z) -> (B, F), for distances between sets of images (MMD, KID).

        Mean and standard deviation over space of every channel of the deepest level, F = 2 channels[-1].
        """
        deepest = self.levels(image)[-1].float().flatten(2)
        return torch.cat([deepest.mean(2), deepest.std(2, correction=0)], 1)

    def levels(self, image: Float[Tensor, "B inputs X Y Z"]) -> list[Float[Tensor, "B _ _ _ _"]]:
        """Activations of each level, full resolution first."""
        if any(n % self.downsampling for n in image.shape[2:]):
            raise VCMError(
                f"The image has axes {tuple(image.shape[2:])}; each must be a multiple of "
                f"{self.downsampling}: pad or resample it."
            )
        levels = [to_patches(image, self.patch)]
        for down in self.down:
            levels.append(down(levels[-1]))
        return levels[1:]
