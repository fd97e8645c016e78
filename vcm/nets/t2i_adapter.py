"""T2I-Adapter in 3D: features of the condition, one map per level, added to the frozen encoder.

Mou et al., AAAI 2024, arXiv 2302.08453. It sees neither z_t nor t. Voxels are folded into channels in
front (pixel unshuffle), as the paper does, and residual blocks follow at each level of the U-Net.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from vcm.nets.condition_features import ConditionFeatures
from vcm.nets.control import Steered, zero_convolution
from vcm.nets.frozen import FrozenDenoiser
from vcm.nets.patches import to_patches
from vcm.nets.saved import ModelMixin

if TYPE_CHECKING:
    from jaxtyping import Float, Num, Shaped


class UnfoldedCondition(nn.Module):
    """Condition (B, C, X, Y, Z) -> (B, F, X/n, Y/n, Z/n): n^3 voxels to channels, mixed at each place."""

    def __init__(self, in_channels: int, out_channels: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.conv = nn.Conv3d(in_channels * patch**3, out_channels, 1)

    def forward(self, condition: Shaped[Tensor, "B C X Y Z"]) -> Float[Tensor, "B F x y z"]:
        """(B, C, X, Y, Z) -> (B, C', x, y, z) on the latent grid."""
        unfolded: Tensor = self.conv(to_patches(condition.to(self.conv.weight.dtype), self.patch))
        return unfolded


class AdapterBlock(nn.Module):
    """skip(x) + conv2(relu(conv1(x))), with a convolution in the skip as well."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv3d(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "B C x y z"]) -> Float[Tensor, "B F x y z"]:
        """(B, C, x, y, z) -> (B, C', x, y, z)."""
        summed: Tensor = self.skip(x) + self.conv2(F.relu(self.conv1(x)))
        return summed


class T2IAdapter(ConditionFeatures, ModelMixin):
    """Residual blocks at each level of the frozen U-Net.

    Defaults fit BrainLDM: 216 M parameters, where the one compared in the VCM paper has 223 M.

    Each level's map is added to what the frozen encoder's block of that level puts out last, so it
    goes on to the deeper levels and to the decoder. The zero convolutions at the end are this
    project's: training starts at the frozen model, as with every other method here.
    """

    @register_to_config
    def __init__(
        self,
        *,
        condition_channels: Sequence[int] = (8,),
        channels: Sequence[int] = (256, 512, 768),
        res_blocks: int = 3,
        patch: int = 8,
    ) -> None:
        super().__init__()
        self.condition_channels = tuple(condition_channels)
        self.downsampling = patch
        self.encoders = nn.ModuleList(
            UnfoldedCondition(n, channels[0], patch) for n in condition_channels
        )
        self.levels = nn.ModuleList()
        self.zeros = nn.ModuleList()
        before = channels[0]
        for level, width in enumerate(channels):
            halve = [nn.Conv3d(before, before, 3, stride=2, padding=1)] if level else []
            widths = [before] + [width] * res_blocks
            blocks = [AdapterBlock(a, b) for a, b in pairwise(widths)]
            self.levels.append(nn.Sequential(*halve, *blocks))
            self.zeros.append(zero_convolution(width))
            before = width

    @classmethod
    def from_frozen(
        cls, frozen: Any, condition_channels: Sequence[int], factor: int, adapter_blocks: int = 3
    ) -> T2IAdapter:
        """A new adapter for a frozen model; see VolumetricConditioningModule.from_frozen."""
        return cls(
            condition_channels=tuple(condition_channels),
            channels=tuple(frozen.config.channels),
            res_blocks=adapter_blocks,
            patch=factor,
        )

    def steer(
        self,
        frozen: FrozenDenoiser,
        z_t: Float[Tensor, "B C x y z"],
        t: Num[Tensor, "#B"],
        inputs: Float[Tensor, "#B K"],
        features: Float[Tensor, "#B F u v w"],
        conditioning_scale: float = 1.0,
    ) -> Steered:
        """See vcm.nets.control.Control."""
        maps, h = [], features
        for level, zero in zip(self.levels, self.zeros, strict=True):
            h = level(h)
            maps.append(conditioning_scale * zero(h))
        prediction = frozen.with_encoder_maps(z_t, t, inputs, maps)
        return Steered(prediction, None, z_t.new_zeros(()))
