"""The frozen model on a fine latent grid: a folded U-Net with wings at full latent resolution.

Knows where covariates enter; what it predicts, and how, is in vcm.nets.denoiser.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffusers.configuration_utils import register_to_config
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
from torch import Tensor

from vcm.nets.denoiser import GaussianDenoiser, beside_covariates
from vcm.nets.folded_unet import FOLD, PLACES, FoldedUNet
from vcm.nets.frozen import Residuals, as_unet_options
from vcm.nets.saved import ModelMixin

if TYPE_CHECKING:
    from jaxtyping import Float, Num


class FineDenoiser(GaussianDenoiser, ModelMixin):
    """z_t (B, C, x, y, z), t (B,), covariates (B, 4) in 0..1 -> epsilon (B, C, x, y, z).

    Control methods that reach into the U-Net find it in `net`, and its input, folded, in `unet_inputs`.
    """

    fold = FOLD

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 8,
        covariates: int = 4,
        channels: Sequence[int] = (96, 160),
        attention: Sequence[bool] = (False, True),
        head_channels: Sequence[int] = (0, 40),
        res_blocks: int = 1,
        groups: int = 16,
        wing: int = 32,
        wing_groups: int = 8,
        beta_start: float = 0.0015,
        beta_end: float = 0.0205,
        timesteps: int = 1000,
        latent_shape: Sequence[int] = (20, 28, 20),
    ) -> None:
        """An untrained denoiser, which predicts v and knows a spread of 1.

        Args:
            latent_channels: C.
            covariates: Numbers that it is given of a brain.
            channels: Of the U-Net on the folded grid, per level.
            attention: Whether each level has attention.
            head_channels: Channels per attention head, per level.
            res_blocks: Residual blocks per level.
            groups: Groups of the U-Net's norms.
            wing: Channels at full latent resolution.
            wing_groups: Groups of their norms.
            beta_start: First beta of the schedule.
            beta_end: Last beta.
            timesteps: Steps of training.
            latent_shape: (x, y, z) of a latent; each a multiple of 4 with two levels.
        """
        super().__init__()
        self.unet_in_channels = (latent_channels + covariates) * FOLD**3 + PLACES
        self.folding = FoldedUNet(
            latent_channels + covariates,
            latent_channels,
            wing,
            wing_groups,
            channels=tuple(channels),
            num_res_blocks=res_blocks,
            attention_levels=tuple(attention),
            num_head_channels=tuple(head_channels),
            norm_num_groups=groups,
            with_conditioning=True,
            transformer_num_layers=1,
            cross_attention_dim=covariates,
        )
        self.set_schedule("v_prediction", (latent_channels, *latent_shape))

    @property
    def net(self) -> DiffusionModelUNet:  # type: ignore[override]
        """The U-Net on the folded grid."""
        return self.folding.unet

    def unet_inputs(
        self,
        z_t: Float[Tensor, "B C x y z"],
        t: Num[Tensor, "#B"],
        covariates: Float[Tensor, "#B K"],
    ) -> tuple[Float[Tensor, "B channels u v w"], Num[Tensor, " B"], Float[Tensor, "B 1 K"]]:
        """See GaussianDenoiser."""
        x, t, context = beside_covariates(z_t, t, covariates)
        return self.folding.folded(x), t, context

    def run_unet(
        self,
        z_t: Float[Tensor, "B C x y z"],
        t: Num[Tensor, "#B"],
        covariates: Float[Tensor, "#B K"],
        residuals: Residuals | None,
    ) -> Float[Tensor, "B C x y z"]:
        """See GaussianDenoiser."""
        x, t, context = beside_covariates(z_t, t, covariates)
        out: Tensor = self.folding(x, t, context, **as_unet_options(residuals))
        return out
