"""A 2D diffusion model of brain slices, whose decoder tells what each voxel is.

One network serves the axial, coronal and sagittal view: beside the noisy slice it reads the place of
every pixel in the common space, and the view as a class. The U-Net is MONAI's. Knows slices as tensors;
nothing of volumes, files or millimetres.

Variance-preserving noise with alpha = cos(pi t / 2), sigma = sin(pi t / 2), t in 0..1, and v-prediction
(Salimans and Ho, ICLR 2022, arXiv 2202.00512). Features of the decoder: Baranchuk et al., ICLR 2022,
arXiv 2112.03126; three views: arXiv 2407.12329.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from diffusers.configuration_utils import register_to_config
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet, get_timestep_embedding
from torch import Tensor

from vcm.errors import VCMError
from vcm.nets.saved import ModelMixin

if TYPE_CHECKING:
    from jaxtyping import Float, Int

#: Views, by the axis that a slice is taken across; the class that the network is told is the index.
VIEWS = ("sagittal", "coronal", "axial")
#: Channels beside the slice: the place of a pixel along the three axes, -1..1 over the grid.
PLACE_CHANNELS = 3


class SliceDenoiser(ModelMixin):
    """Noisy slices -> v, and the activations of the decoder as features.

    Args:
        channels: Of each level, full resolution first.
        groups: Of the group normalisation; divides every entry of `channels`.
        head_channels: Per head of the attention in the middle block; divides the last of `channels`.
        spacing: Voxel size [mm] of the grid that it was trained on.
        views: Which of VIEWS it was trained on: all three, or one for a network of a single view.
    """

    @register_to_config
    def __init__(
        self,
        channels: Sequence[int] = (24, 48, 96, 128),
        groups: int = 8,
        head_channels: int = 32,
        spacing: float = 2.0,
        views: Sequence[str] = VIEWS,
    ) -> None:
        super().__init__()
        unknown = [view for view in views if view not in VIEWS]
        if unknown or not views:
            raise VCMError(f"views is {list(views)}: choose one or more of {', '.join(VIEWS)}.")
        self.net = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=1 + PLACE_CHANNELS,
            out_channels=1,
            num_res_blocks=1,
            channels=tuple(channels),
            attention_levels=(False,) * len(channels),
            norm_num_groups=groups,
            num_head_channels=head_channels,
            num_class_embeds=len(VIEWS),
        )
        self.downsampling = 2 ** (len(channels) - 1)

    @property
    def blocks(self) -> int:
        """Number of decoder blocks, the deepest first."""
        return len(self.net.up_blocks)

    def forward(
        self,
        x_t: Float[Tensor, "B 1 H W"],
        t: Float[Tensor, " B"],
        view: Int[Tensor, " B"],
        place: Float[Tensor, "B 3 H W"],
    ) -> Float[Tensor, "B 1 H W"]:
        """Predict v.

        Args:
            x_t: (B, 1, H, W) noisy slices; H and W are multiples of `downsampling`.
            t: (B,) time in 0..1; 0 is clean.
            view: (B,) index into VIEWS.
            place: (B, 3, H, W) of every pixel in -1..1, see PLACE_CHANNELS.

        Returns:
            (B, 1, H, W) v = alpha eps - sigma x.
        """
        return self.net.out(self._decode(x_t, t, view, place, self.blocks)[-1])

    def features(
        self,
        x_t: Float[Tensor, "B 1 H W"],
        t: Float[Tensor, " B"],
        view: Int[Tensor, " B"],
        place: Float[Tensor, "B 3 H W"],
        blocks: Sequence[int] = (),
    ) -> list[Float[Tensor, "B _ _ _"]]:
        """Activations of the decoder's blocks, each at its own resolution.

        Args:
            x_t: As in `forward`.
            t: As in `forward`.
            view: As in `forward`.
            place: As in `forward`.
            blocks: Which blocks, 0 the deepest; all of them if empty. The network stops after the
                last one asked for.

        Returns:
            One (B, C_k, H_k, W_k) per block, in the order of `blocks`.
        """
        wanted = list(blocks) or list(range(self.blocks))
        found = self._decode(x_t, t, view, place, max(wanted) + 1)
        return [found[k] for k in wanted]

    def feature_channels(self, blocks: Sequence[int] = ()) -> int:
        """Sum of the channels of these blocks (all if empty), for one view."""
        widths = list(reversed(self.config.channels))
        return sum(widths[k] for k in (list(blocks) or range(self.blocks)))

    def _decode(
        self,
        x_t: Float[Tensor, "B 1 H W"],
        t: Float[Tensor, " B"],
        view: Int[Tensor, " B"],
        place: Float[Tensor, "B 3 H W"],
        blocks: int,
    ) -> list[Float[Tensor, "B _ _ _"]]:
        """Outputs of the first decoder blocks; MONAI's own forward gives only the last."""
        if any(n % self.downsampling for n in x_t.shape[2:]):
            raise VCMError(
                f"A slice has {tuple(x_t.shape[2:])} pixels; each side must be a multiple of "
                f"{self.downsampling}: pad it."
            )
        net = self.net
        embedded = net.time_embed(
            get_timestep_embedding(1000 * t, net.block_out_channels[0]).to(x_t.dtype)
        )
        embedded = embedded + net.class_embedding(view).to(x_t.dtype)
        h = net.conv_in(torch.cat([x_t, place.to(x_t.dtype)], 1))
        skips = [h]
        for down in net.down_blocks:
            h, of_block = down(hidden_states=h, temb=embedded)
            skips += of_block
        h = net.middle_block(hidden_states=h, temb=embedded)
        found = []
        for up in list[Any](net.up_blocks)[:blocks]:
            count = len(up.resnets)
            skips, taken = skips[:-count], skips[-count:]
            h = up(hidden_states=h, res_hidden_states_list=taken, temb=embedded)
            found.append(h)
        return found


def noise_levels(
    t: Float[Tensor, " B"],
) -> tuple[Float[Tensor, "B 1 1 1"], Float[Tensor, "B 1 1 1"]]:
    """Time (B,) in 0..1 -> alpha and sigma, each (B, 1, 1, 1)."""
    angle = (0.5 * math.pi * t)[:, None, None, None]
    return angle.cos(), angle.sin()


def add_noise(
    x: Float[Tensor, "B 1 H W"], noise: Float[Tensor, "B 1 H W"], t: Float[Tensor, " B"]
) -> Float[Tensor, "B 1 H W"]:
    """x_t = alpha x + sigma eps, for slices (B, 1, H, W) and times (B,)."""
    alpha, sigma = noise_levels(t)
    return alpha * x + sigma * noise


def velocity(
    x: Float[Tensor, "B 1 H W"], noise: Float[Tensor, "B 1 H W"], t: Float[Tensor, " B"]
) -> Float[Tensor, "B 1 H W"]:
    """V = alpha eps - sigma x, the target of the prediction."""
    alpha, sigma = noise_levels(t)
    return alpha * noise - sigma * x
