"""A discriminator that scores patches of a volume, without norms, as its gradients are differentiated.

Norms over a crop would tie its patches together, and MONAI's PatchDiscriminator has them. Knows
tensors; the losses are the training's.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from vcm.nets.patches import to_patches

if TYPE_CHECKING:
    from jaxtyping import Float

FOLD = 2


class PatchDiscriminator(nn.Module):
    """(B, 1, X, Y, Z) -> a score per patch (B, 1, x, y, z).

    Args:
        channels: After 2x2x2 voxels are folded into channels, and after each further halving.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.Conv3d(FOLD**3, channels[0], 3, padding=1),
            nn.LeakyReLU(0.2),
        ]
        for a, b in itertools.pairwise(channels):
            layers += [nn.Conv3d(a, b, 2, stride=2), nn.LeakyReLU(0.2)]
            layers += [nn.Conv3d(b, b, 3, padding=1), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers, nn.Conv3d(channels[-1], 1, 1))

    def forward(self, x: Float[Tensor, "B 1 X Y Z"]) -> Float[Tensor, "B 1 _ _ _"]:
        """See the class."""
        scores: Tensor = self.net(to_patches(x, FOLD))
        return scores
