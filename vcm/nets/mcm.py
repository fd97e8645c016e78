"""MCM, the 2D ancestor of VCM in 3D: modulates the output of a frozen model with a very small U-Net.

Ham et al., "Modulating Pretrained Diffusion Models for Multimodal Image Synthesis", SIGGRAPH 2023,
arXiv 2302.12764. It reads conditions brought down to the latent grid by averaging, where VCM has an
encoder: that is the difference the two are compared for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from vcm.nets.modulation import Modulation
from vcm.nets.saved import ModelMixin

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped


class AveragedCondition(nn.Module):
    """Condition (B, C, X, Y, Z), averaged over n^3 voxels, mixed to F features on the latent grid."""

    def __init__(self, in_channels: int, out_channels: int, downsampling: int) -> None:
        super().__init__()
        self.downsampling = downsampling
        self.mix = nn.Conv3d(in_channels, out_channels, 1)

    def forward(self, condition: Shaped[Tensor, "B C X Y Z"]) -> Float[Tensor, "B F x y z"]:
        """(B, C, X, Y, Z) -> (B, C', x, y, z) on the latent grid."""
        averaged = F.avg_pool3d(condition.to(self.mix.weight.dtype), self.downsampling)
        mixed: Tensor = self.mix(averaged)
        return mixed


class ModulatingConditionModule(Modulation, ModelMixin):
    """gamma and beta from [z_t, prediction, averaged conditions]; 1.4 % of BrainLDM's U-Net (7.5 M).

    Args:
        downsampling: Voxels per latent position and axis.
        features: Channels that a condition is mixed to.

    The other sizes are those of VolumetricConditioningModule.
    """

    @register_to_config
    def __init__(
        self,
        *,
        latent_channels: int = 3,
        condition_channels: Sequence[int] = (8,),
        downsampling: int = 8,
        features: int = 16,
        unet_channels: Sequence[int] = (32, 64, 96),
        unet_res_blocks: int = 2,
        unet_attention: Sequence[bool] = (False, False, True),
        unet_head_channels: Sequence[int] | None = None,
        unet_groups: int = 16,
        unet_out_channels: int = 32,
        head_channels: int = 64,
        head_norm: Literal["instance", "none"] = "none",
        unet_wing: int = 0,
    ) -> None:
        super().__init__()
        self.build_modulation(
            latent_channels, features, unet_channels, unet_res_blocks, unet_attention,
            unet_head_channels, unet_groups, unet_out_channels, head_channels, head_norm,
            None, unet_wing,
        )  # fmt: skip
        self.condition_channels = tuple(condition_channels)
        self.downsampling = downsampling
        self.encoders = nn.ModuleList(
            AveragedCondition(channels, features, downsampling) for channels in condition_channels
        )

    @classmethod
    def from_frozen(
        cls, frozen: Any, condition_channels: Sequence[int], factor: int, **sizes: Any
    ) -> ModulatingConditionModule:
        """A new module for a frozen model; see VolumetricConditioningModule.from_frozen."""
        return cls(
            latent_channels=frozen.config.latent_channels,
            condition_channels=tuple(condition_channels),
            downsampling=factor,
            **sizes,
        )
