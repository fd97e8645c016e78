"""The frozen model: predicts the noise in a latent, given timestep and covariates.

The network inside predicts v (Salimans & Ho 2022); at the interface it is converted exactly:

    eps = alpha_t * v + sigma_t * z_t

What a Gaussian latent of known spread s already tells about v is not learned but computed, so that
positions that never vary (air) come out clean and the network learns only the rest, F:

    v = alpha sigma (1 - s^2) / q * z_t + s / sqrt(q) * F(z_t, t)        q = alpha^2 s^2 + sigma^2
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
from torch import Tensor

from vcm.nets.frozen import Residuals, adding_maps, as_unet_options
from vcm.nets.saved import ModelMixin

if TYPE_CHECKING:
    from jaxtyping import Float, Num


class GaussianDenoiser(ModelMixin):
    """What all denoisers here have in common: the schedule, v behind epsilon, and the known spread.

    Whoever derives from it registers beta_start, beta_end and timesteps in its configuration, gives
    `net`, `unet_inputs` and `run_unet`, and calls `set_schedule`.

    Attributes:
        net: The U-Net, which control methods reach into.
        unet_in_channels: Channels that `unet_inputs` gives it.
        fold: Latents per axis that one position of the U-Net's grid covers.
    """

    steps_with: str = "epsilon"
    fold: int = 1
    unet_in_channels: int
    net: DiffusionModelUNet
    alphas_cumprod: Float[Tensor, " timesteps"]

    def set_schedule(self, prediction_type: str, spread_shape: Sequence[int] | None) -> None:
        """Betas that rise as a scaled line.

        Args:
            prediction_type: What the network itself predicts: v_prediction or epsilon.
            spread_shape: (C, x, y, z) of the latents' spread; None: it is not known.
        """
        self.timesteps = self.config.timesteps
        self.v_prediction = prediction_type == "v_prediction"
        self.register_buffer("alphas_cumprod", self._schedule(), persistent=False)
        self.knows_spread = spread_shape is not None
        if spread_shape is not None:
            self.register_buffer("spread", torch.ones(*spread_shape))

    def _schedule(self) -> Float[Tensor, " timesteps"]:
        """Products of alphas (timesteps,), in float32."""
        scheduler = DDIMScheduler(
            num_train_timesteps=self.config.timesteps,
            beta_start=self.config.beta_start,
            beta_end=self.config.beta_end,
            beta_schedule="scaled_linear",
        )
        alphas: Tensor = scheduler.alphas_cumprod
        return alphas

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GaussianDenoiser:
        """As torch has it, but the schedule stays in float32: in half precision its ends are lost."""
        super()._apply(fn, recurse)
        if self.alphas_cumprod.dtype != torch.float32:
            self.alphas_cumprod = self._schedule().to(self.alphas_cumprod.device)
        return self

    def unet_inputs(
        self,
        z_t: Float[Tensor, "B C x y z"],
        t: Num[Tensor, "#B"],
        covariates: Float[Tensor, "#B K"],
    ) -> tuple[Float[Tensor, "B channels u v w"], Num[Tensor, " B"], Float[Tensor, "B 1 K"]]:
        """What the U-Net is given: its input on its own grid, t (B,), context (B, 1, 4)."""
        raise NotImplementedError

    def run_unet(
        self,
        z_t: Float[Tensor, "B C x y z"],
        t: Num[Tensor, "#B"],
        covariates: Float[Tensor, "#B K"],
        residuals: Residuals | None,
    ) -> Float[Tensor, "B C x y z"]:
        """F, with `residuals` added inside."""
        raise NotImplementedError

    def forward(
        self,
        z_t: Float[Tensor, "B C x y z"],
        t: Num[Tensor, "#B"],
        covariates: Float[Tensor, "#B K"],
        residuals: Residuals | None = None,
    ) -> Float[Tensor, "B C x y z"]:
        """What the network itself predicts (v or epsilon)."""
        out = self.run_unet(z_t, t, covariates, residuals)
        if not self.knows_spread:
            return out
        alpha, sigma = self.alpha_sigma(t, z_t)
        s2 = self.spread.to(z_t.dtype).square()
        q = alpha.square() * s2 + sigma.square()
        return alpha * sigma * (1 - s2) / q * z_t + (s2 / q).sqrt() * out

    def with_encoder_maps(
        self,
        z_t: Float[Tensor, "B C x y z"],
        t: Num[Tensor, "#B"],
        covariates: Float[Tensor, "#B K"],
        maps: Sequence[Float[Tensor, "#B _ _ _ _"]],
    ) -> Float[Tensor, "B C x y z"]:
        """The raw prediction, with one map per level added inside its encoder; see FrozenDenoiser."""
        with adding_maps(self.net.down_blocks, maps):
            return self(z_t, t, covariates)

    def to_model_output(
        self, raw: Float[Tensor, "B C x y z"], z_t: Float[Tensor, "B C x y z"], t: Num[Tensor, "#B"]
    ) -> Float[Tensor, "B C x y z"]:
        """The raw prediction, steered or not -> epsilon, which the schedulers step with."""
        if not self.v_prediction:
            return raw
        alpha, sigma = self.alpha_sigma(t, z_t)
        return alpha * raw + sigma * z_t

    def target(
        self, z: Float[Tensor, "B C x y z"], noise: Float[Tensor, "B C x y z"], t: Num[Tensor, "#B"]
    ) -> Float[Tensor, "B C x y z"]:
        """The raw prediction that is right for z_t = alpha z + sigma noise."""
        if not self.v_prediction:
            return noise
        alpha, sigma = self.alpha_sigma(t, z)
        return alpha * noise - sigma * z

    def add_noise(
        self, z: Float[Tensor, "B C x y z"], noise: Float[Tensor, "B C x y z"], t: Num[Tensor, "#B"]
    ) -> Float[Tensor, "B C x y z"]:
        """z_t = alpha_t z + sigma_t noise."""
        alpha, sigma = self.alpha_sigma(t, z)
        return alpha * z + sigma * noise

    def at(self, time: Float[Tensor, " B"]) -> Num[Tensor, " B"]:
        """Time in 0..1 (B,) -> whole steps 0..T-1."""
        return (time * self.timesteps).long()

    def alpha_sigma(
        self, t: Num[Tensor, "#B"], like: Float[Tensor, "B C x y z"]
    ) -> tuple[Float[Tensor, "B 1 1 1 1"], Float[Tensor, "B 1 1 1 1"]]:
        """(alpha_t, sigma_t) as (B, 1, 1, 1, 1), alpha^2 + sigma^2 = 1."""
        a = self.alphas_cumprod[t.long().expand(like.shape[0])][:, None, None, None, None].to(
            like.dtype
        )
        return a.sqrt(), (1 - a).sqrt()


class LatentDenoiser(GaussianDenoiser):
    """z_t (B, C, x, y, z), t (B,), covariates (B, 4) in 0..1 -> epsilon (B, C, x, y, z).

    As in BrainLDM (arXiv 2209.07162) the covariates enter twice: as channels beside z_t and as a
    (B, 1, 4) context of cross-attention. prediction_type is what the network itself predicts;
    the interface is epsilon either way. With latent_shape the spread s of the training latents
    is stored per channel and position and used as in the equation above (the preconditioning of
    Karras et al. 2022, in alpha and sigma, with a map in place of one number).
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 32,
        covariates: int = 4,
        channels: Sequence[int] = (64, 128),
        attention: Sequence[bool] = (False, True),
        head_channels: Sequence[int] = (0, 64),
        res_blocks: int = 2,
        groups: int = 16,
        prediction_type: str = "v_prediction",
        beta_start: float = 0.0015,
        beta_end: float = 0.0205,
        timesteps: int = 1000,
        latent_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.unet_in_channels = latent_channels + covariates
        self.net = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=self.unet_in_channels,
            out_channels=latent_channels,
            channels=channels,
            num_res_blocks=res_blocks,
            attention_levels=attention,
            num_head_channels=head_channels,
            norm_num_groups=groups,
            norm_eps=1e-6,
            resblock_updown=True,
            with_conditioning=True,
            transformer_num_layers=1,
            cross_attention_dim=covariates,
            upcast_attention=True,
        )
        self.set_schedule(
            prediction_type, None if latent_shape is None else (latent_channels, *latent_shape)
        )

    def unet_inputs(
        self,
        z_t: Float[Tensor, "B C x y z"],
        t: Num[Tensor, "#B"],
        covariates: Float[Tensor, "#B K"],
    ) -> tuple[Float[Tensor, "B channels x y z"], Num[Tensor, " B"], Float[Tensor, "B 1 K"]]:
        """What the U-Net is given: z_t beside the covariates' channels, t (B,), context (B, 1, 4)."""
        return beside_covariates(z_t, t, covariates)

    def run_unet(
        self,
        z_t: Float[Tensor, "B C x y z"],
        t: Num[Tensor, "#B"],
        covariates: Float[Tensor, "#B K"],
        residuals: Residuals | None,
    ) -> Float[Tensor, "B C x y z"]:
        """See GaussianDenoiser."""
        x, t, context = self.unet_inputs(z_t, t, covariates)
        out: Tensor = self.net(x, t, context, **as_unet_options(residuals))
        return out


def beside_covariates(
    z_t: Float[Tensor, "B C x y z"],
    t: Num[Tensor, "#B"],
    covariates: Float[Tensor, "#B K"],
) -> tuple[Float[Tensor, "B channels x y z"], Num[Tensor, " B"], Float[Tensor, "B 1 K"]]:
    """Covariates as channels beside the latent, and as context of cross-attention.

    Args:
        z_t: (B, C, x, y, z).
        t: () or (B,).
        covariates: (1 or B, K) in 0..1.

    Returns:
        (B, C + K, x, y, z), t (B,), context (B, 1, K).
    """
    covariates = covariates.to(z_t.dtype).expand(z_t.shape[0], -1)
    spatial = covariates[:, :, None, None, None].expand(-1, -1, *z_t.shape[2:])
    return torch.cat([z_t, spatial], 1), t.expand(z_t.shape[0]), covariates[:, None]
