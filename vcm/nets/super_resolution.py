"""A volume at half the voxel size: interpolated, with the detail that scans of that resolution have.

    x' = I y + R(y)

I is trilinear interpolation; R, a small U-Net without norms that works at the resolution of y, starts
at 0. Knows tensors; not how R is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn import functional as F

from vcm.nets.band_autoencoder import DetailDecoder
from vcm.nets.saved import ModelMixin

if TYPE_CHECKING:
    from jaxtyping import Float

#: Voxels of the result per voxel read, along each axis.
FACTOR = 2


class SuperResolutionNet(ModelMixin):
    """Volumes (B, 1, X, Y, Z) -> (B, 1, 2X, 2Y, 2Z) of the same field of view."""

    @register_to_config
    def __init__(
        self,
        channels: Sequence[int] = (32, 64),
        blocks: Sequence[int] = (2, 3),
        spacing: float | None = None,
    ) -> None:
        """A network that interpolates.

        Args:
            channels: At the resolution of what is read, and at half of it.
            blocks: Residual blocks of each; the first has its own before and again after the second.
            spacing: Voxel size of the scans that it learned from, which it makes [mm]; None: unknown.
        """
        super().__init__()
        self.detail = DetailDecoder(channels, blocks, fold=1)

    def forward(self, y: Float[Tensor, "B 1 X Y Z"]) -> Float[Tensor, "B 1 2*X 2*Y 2*Z"]:
        """See the class.

        Args:
            y: (B, 1, X, Y, Z) in 0..1.

        Returns:
            Of twice the extents, not clipped.

        Raises:
            ValueError: An extent is odd.
        """
        if any(n % 2 for n in y.shape[2:]):
            raise ValueError(f"extents must be even, not {tuple(y.shape[2:])}")
        detail: Tensor = self.detail(y)
        return interpolated(y) + detail


def interpolated(y: Float[Tensor, "B 1 X Y Z"]) -> Float[Tensor, "B 1 2*X 2*Y 2*Z"]:
    """I: what the network adds to."""
    return F.interpolate(y, scale_factor=FACTOR, mode="trilinear", align_corners=False)
