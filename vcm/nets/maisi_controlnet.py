"""ControlNet for MAISI: a trainable copy of its encoder, which is told spacing and contrast as well.

Zhang et al., ICCV 2023, arXiv 2302.05543. MONAI's own for MAISI knows no spacing, so it cannot start as a
copy of a U-Net that does. This one is the encoder half of that U-Net itself; it calls methods of
MONAI that have no promise to stay, checked with MONAI 1.5.1 to 1.6.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from diffusers.configuration_utils import register_to_config
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from torch import Tensor, nn

from vcm.nets.condition_features import ConditionFeatures
from vcm.nets.control import Steered, zero_convolution
from vcm.nets.controlnet import ConditionEmbedding, check_embedding
from vcm.nets.frozen import FrozenDenoiser, Residuals
from vcm.nets.saved import ModelMixin

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Num


@runtime_checkable
class ClassDenoiser(FrozenDenoiser, Protocol):
    """A frozen model that reads spacing and contrast, such as MaisiDenoiser."""

    def class_inputs(self, inputs: Tensor) -> tuple[Float[Tensor, "B 3"], Int[Tensor, " B"]]:
        """See MaisiDenoiser."""


class MaisiControlNet(ConditionFeatures, ModelMixin):
    """As ControlNetModule, for MaisiDenoiser; sizes as the frozen U-Net's."""

    @register_to_config
    def __init__(
        self,
        *,
        latent_channels: int = 4,
        condition_channels: Sequence[int] = (8,),
        channels: Sequence[int] = (64, 128, 256, 512),
        attention: Sequence[bool] = (False, False, True, True),
        head_channels: Sequence[int] = (0, 0, 32, 32),
        res_blocks: int = 2,
        groups: int = 32,
        classes: int = 128,
        embedding_channels: Sequence[int] = (16, 32, 96),
    ) -> None:
        super().__init__()
        self.condition_channels = tuple(condition_channels)
        self.downsampling = 2 ** (len(embedding_channels) - 1)
        self.net = DiffusionModelUNetMaisi(
            spatial_dims=3,
            in_channels=latent_channels,
            out_channels=latent_channels,
            num_channels=tuple(channels),
            attention_levels=tuple(attention),
            num_head_channels=tuple(head_channels),
            num_res_blocks=res_blocks,
            norm_num_groups=groups,
            norm_eps=1e-6,
            resblock_updown=True,
            include_fc=True,
            num_class_embeds=classes,
            include_spacing_input=True,
            use_flash_attention=False,
        )
        del self.net.up_blocks, self.net.out
        self.encoders = nn.ModuleList(
            ConditionEmbedding(n, embedding_channels, channels[0], wake=False)
            for n in condition_channels
        )
        self.zeros = nn.ModuleList([zero_convolution(channels[0])])
        for level, width in enumerate(channels):
            maps = res_blocks + (level < len(channels) - 1)
            self.zeros.extend(zero_convolution(width) for _ in range(maps))
        self.zero_middle = zero_convolution(channels[-1])

    @classmethod
    def from_frozen(
        cls,
        frozen: Any,
        condition_channels: Sequence[int],
        factor: int,
        embedding_channels: Sequence[int],
    ) -> MaisiControlNet:
        """A copy of a frozen model's encoder; see VolumetricConditioningModule.from_frozen."""
        check_embedding(embedding_channels, factor)
        names = (
            "latent_channels",
            "channels",
            "attention",
            "head_channels",
            "res_blocks",
            "groups",
        )
        sizes = {name: frozen.config[name] for name in (*names, "classes")}
        made = cls(
            condition_channels=tuple(condition_channels),
            embedding_channels=tuple(embedding_channels),
            **sizes,
        )
        theirs = frozen.net.state_dict()
        made.net.load_state_dict({name: theirs[name] for name in made.net.state_dict()})
        return made

    def steer(
        self,
        frozen: ClassDenoiser,
        z_t: Float[Tensor, "B C x y z"],
        t: Num[Tensor, "#B"],
        inputs: Float[Tensor, "#B K"],
        features: Float[Tensor, "#B F x y z"],
        conditioning_scale: float = 1.0,
    ) -> Steered:
        """See vcm.nets.control.Control."""
        batch, net = len(z_t), self.net
        spacing, contrast = frozen.class_inputs(inputs)
        times = torch.as_tensor(t, device=z_t.device).expand(batch)
        spacing = spacing.to(z_t.dtype).expand(batch, -1)
        embedded = net._get_time_and_class_embedding(z_t, times, contrast.expand(batch))
        embedded = net._get_input_embeddings(embedded, None, None, spacing)
        h, maps = net._apply_down_blocks(net.conv_in(z_t) + features, embedded, None, None)
        middle = conditioning_scale * self.zero_middle(net.middle_block(h, embedded, None))
        scaled = [conditioning_scale * zero(m) for zero, m in zip(self.zeros, maps, strict=True)]
        prediction = frozen(z_t, t, inputs, Residuals(scaled, middle))
        return Steered(prediction, None, z_t.new_zeros(()))
