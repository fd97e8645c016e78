"""ControlNet and ControlNet-LITE in 3D: add to the inner activations of the frozen U-Net.

ControlNet (Zhang et al., ICCV 2023, arXiv 2302.05543) is MONAI's: a trainable copy of the frozen
encoder and middle block that sees z_t, t and the embedded condition, joined by zero convolutions.
ControlNet-LITE keeps the zero convolutions and replaces the copy by plain convolutions of the
condition alone: it sees neither z_t nor t, so all it has to say is said once per volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from diffusers.configuration_utils import register_to_config
from monai.networks.nets.controlnet import ControlNet, ControlNetConditioningEmbedding
from torch import Tensor, nn

from vcm.nets.condition_features import ConditionFeatures
from vcm.nets.control import Steered, check_factor, zero_convolution
from vcm.nets.denoiser import GaussianDenoiser
from vcm.nets.frozen import FrozenDenoiser, Residuals
from vcm.nets.saved import ModelMixin

if TYPE_CHECKING:
    from jaxtyping import Float, Num, Shaped


class ConditionEmbedding(nn.Module):
    """MONAI's embedding of a condition volume, halved once per entry of `channels` but the first.

    Its last convolution is zero in MONAI. Where `wake` is set it is not, as one zero in series with
    a zero convolution behind it is enough, and two would never learn.
    """

    def __init__(self, in_channels: int, channels: Sequence[int], out_channels: int, wake: bool):
        super().__init__()
        self.net = ControlNetConditioningEmbedding(3, in_channels, out_channels, tuple(channels))
        if wake:
            self.net.conv_out.conv.reset_parameters()

    def forward(self, condition: Shaped[Tensor, "B C X Y Z"]) -> Float[Tensor, "B F x y z"]:
        """(B, C, X, Y, Z) -> (B, C', x, y, z) on the latent grid."""
        embedded: Tensor = self.net(condition.to(self.net.conv_out.conv.weight.dtype))
        return embedded


def check_embedding(embedding_channels: Sequence[int], factor: int) -> None:
    """Refuse with VCMError an embedding that does not end on the latent grid."""
    needed = max(factor.bit_length(), 1)
    downsampling = 2 ** (len(embedding_channels) - 1)
    check_factor(downsampling, factor, f"give {needed} numbers in embedding_channels")


@runtime_checkable
class UNetDenoiser(FrozenDenoiser, Protocol):
    """A frozen model whose U-Net reads z_t beside its inputs, such as LatentDenoiser."""

    def unet_inputs(
        self,
        z_t: Float[Tensor, "B C x y z"],
        t: Num[Tensor, "#B"],
        covariates: Float[Tensor, "#B K"],
    ) -> tuple[Float[Tensor, "B channels u v w"], Num[Tensor, " B"], Float[Tensor, "B 1 K"]]:
        """What the U-Net is given: z_t beside its inputs' channels, t, context of cross-attention."""


class ControlNetModule(ConditionFeatures, ModelMixin):
    """MONAI's ControlNet behind the interface of control methods; sizes as the frozen U-Net's.

    Defaults fit BrainLDM: 230.7 M parameters. `start_from` copies the frozen encoder.
    """

    @register_to_config
    def __init__(
        self,
        *,
        latent_channels: int = 3,
        condition_channels: Sequence[int] = (8,),
        inputs: int = 4,
        channels: Sequence[int] = (256, 512, 768),
        attention: Sequence[bool] = (False, True, True),
        head_channels: Sequence[int] = (0, 512, 768),
        res_blocks: int = 2,
        groups: int = 32,
        embedding_channels: Sequence[int] = (16, 32, 96, 256),
    ) -> None:
        super().__init__()
        self.condition_channels = tuple(condition_channels)
        self.downsampling = 2 ** (len(embedding_channels) - 1)
        self.net = ControlNet(
            spatial_dims=3,
            in_channels=latent_channels + inputs,
            num_res_blocks=res_blocks,
            channels=tuple(channels),
            attention_levels=tuple(attention),
            norm_num_groups=groups,
            norm_eps=1e-6,
            resblock_updown=True,
            num_head_channels=tuple(head_channels),
            with_conditioning=True,
            cross_attention_dim=inputs,
            upcast_attention=True,
            conditioning_embedding_in_channels=1,
            conditioning_embedding_num_channels=(1,),
        )
        # Embedded once per volume by `encode`, not at every step inside MONAI's forward.
        self.net.controlnet_cond_embedding = nn.Identity()  # type: ignore[assignment]
        self.encoders = nn.ModuleList(
            ConditionEmbedding(n, embedding_channels, channels[0], wake=False)
            for n in condition_channels
        )

    @classmethod
    def from_frozen(
        cls,
        frozen: Any,
        condition_channels: Sequence[int],
        factor: int,
        embedding_channels: Sequence[int],
    ) -> ControlNetModule:
        """A copy of a frozen model's encoder; see VolumetricConditioningModule.from_frozen."""
        check_embedding(embedding_channels, factor)
        config = frozen.config
        made = cls(
            latent_channels=frozen.unet_in_channels - config.covariates,
            condition_channels=tuple(condition_channels),
            inputs=config.covariates,
            channels=tuple(config.channels),
            attention=tuple(config.attention),
            head_channels=tuple(config.head_channels),
            res_blocks=config.res_blocks,
            groups=config.groups,
            embedding_channels=tuple(embedding_channels),
        )
        made.start_from(frozen)
        return made

    def start_from(self, frozen: GaussianDenoiser) -> None:
        """Copy conv_in, time embedding, encoder and middle block of the frozen U-Net."""
        own = self.net.state_dict()
        theirs = frozen.net.state_dict()
        self.net.load_state_dict(own | {name: theirs[name] for name in own if name in theirs})

    def steer(
        self,
        frozen: UNetDenoiser,
        z_t: Float[Tensor, "B C x y z"],
        t: Num[Tensor, "#B"],
        inputs: Float[Tensor, "#B K"],
        features: Float[Tensor, "#B F u v w"],
        conditioning_scale: float = 1.0,
    ) -> Steered:
        """See vcm.nets.control.Control."""
        x, t, context = frozen.unet_inputs(z_t, t, inputs)
        features = features.expand(len(z_t), *features.shape[1:])
        down, middle = self.net(x, t, features, conditioning_scale, context)
        return Steered(frozen(z_t, t, inputs, Residuals(down, middle)), None, z_t.new_zeros(()))


class ControlNetLite(ConditionFeatures, ModelMixin):
    """Plain convolutions of the condition and zero convolutions into the frozen U-Net's skips.

    Defaults fit BrainLDM: 62.3 M parameters, where the one compared in the VCM paper has 63.6 M.
    """

    @register_to_config
    def __init__(
        self,
        *,
        condition_channels: Sequence[int] = (8,),
        channels: Sequence[int] = (256, 512, 768),
        res_blocks: int = 2,
        embedding_channels: Sequence[int] = (16, 32, 96, 256),
    ) -> None:
        super().__init__()
        self.condition_channels = tuple(condition_channels)
        self.downsampling = 2 ** (len(embedding_channels) - 1)
        self.encoders = nn.ModuleList(
            ConditionEmbedding(n, embedding_channels, channels[0], wake=True)
            for n in condition_channels
        )
        self.levels = nn.ModuleList()
        self.zeros = nn.ModuleList([zero_convolution(channels[0])])
        before = channels[0]
        for level, width in enumerate(channels):
            steps = nn.ModuleList()
            for _ in range(res_blocks):
                steps.append(nn.Sequential(nn.Conv3d(before, width, 3, padding=1), nn.SiLU()))
                before = width
            if level < len(channels) - 1:
                steps.append(nn.AvgPool3d(2))
            self.levels.append(steps)
            self.zeros.extend(zero_convolution(width) for _ in steps)
        self.middle = nn.Sequential(nn.Conv3d(before, before, 3, padding=1), nn.SiLU())
        self.zero_middle = zero_convolution(before)

    @classmethod
    def from_frozen(
        cls,
        frozen: Any,
        condition_channels: Sequence[int],
        factor: int,
        embedding_channels: Sequence[int],
    ) -> ControlNetLite:
        """A new module for a frozen model; see VolumetricConditioningModule.from_frozen."""
        check_embedding(embedding_channels, factor)
        return cls(
            condition_channels=tuple(condition_channels),
            channels=tuple(frozen.config.channels),
            res_blocks=frozen.config.res_blocks,
            embedding_channels=tuple(embedding_channels),
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
        maps = [features]
        for level in self.levels:
            for step in level.children():
                maps.append(step(maps[-1]))
        scaled = [conditioning_scale * zero(m) for zero, m in zip(self.zeros, maps, strict=True)]
        middle = conditioning_scale * self.zero_middle(self.middle(maps[-1]))
        return Steered(frozen(z_t, t, inputs, Residuals(scaled, middle)), None, z_t.new_zeros(()))
