"""A U-Net that is pretrained without labels: it restores scans, and says which views are of one scan.

Knows tensors; nothing of how scans are masked or recoloured. It is the network of the segmenter with one
output, so that its weights start a segmentation in all layers but the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from vcm.nets.saved import ModelMixin
from vcm.nets.segmenter import TissueSegmenter

if TYPE_CHECKING:
    from jaxtyping import Float


class ScanEncoder(ModelMixin):
    """Masked images (B, 1, X, Y, Z) -> restored images (B, 1, X, Y, Z) and projections (B, P).

    Source: masked reconstruction with a whole U-Net, skip connections included, is AMAES (Munk et al.
    2024, arXiv 2408.00640); the projection head is that of SimCLR (Chen et al. 2020, arXiv 2002.05709).

    Args:
        channels: Per level, the finest first.
        groups: Of the group normalisation.
        projection: P, numbers by which views are compared; 0: none are compared.
        patch: Edge of the blocks of voxels that are folded into channels.
        local_brightness: Whether the images are scans after `vcm.nets.local_brightness`, which is for
            the caller to apply, before anything is hidden.
    """

    @register_to_config
    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 64, 128),
        groups: int = 8,
        projection: int = 0,
        patch: int = 2,
        local_brightness: bool = False,
    ) -> None:
        super().__init__()
        self.unet = TissueSegmenter(channels, groups, 1, patch)
        self.project: nn.Module | None = None
        if projection:
            width = 2 * channels[-1]
            # Pooled features of brains are nearly the same: what differs is brought to one scale first, or the
            # projections of all views begin, and stay, alike.
            self.project = nn.Sequential(
                nn.BatchNorm1d(width, affine=False),
                nn.Linear(width, width),
                nn.ReLU(),
                nn.Linear(width, projection),
            )

    def forward(
        self, image: Float[Tensor, "B 1 X Y Z"]
    ) -> tuple[Float[Tensor, "B 1 X Y Z"], Float[Tensor, "B P"] | None]:
        """The restored image, and its projection if there is a head for it."""
        levels = self.unet.levels(image)
        restored = self.unet.decode(levels)
        if self.project is None:
            return restored, None
        deepest = levels[-1].flatten(2)
        pooled = torch.cat([deepest.mean(2), deepest.std(2, correction=0)], 1)
        return restored, self.project(pooled)
