"""Scale and shift what a frozen model predicts: the part that VCM and MCM have in common.

    gamma, beta = head(time_unet([z_t, prediction, features], t))
    steered     = prediction * (1 + gamma) + beta

Nothing here depends on the prediction being noise: a v or a velocity is steered alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn
from torch.nn import functional as F

from vcm.errors import VCMError
from vcm.nets.condition_features import ConditionFeatures
from vcm.nets.control import Steered, frozen_prediction
from vcm.nets.folded_unet import FoldedUNet
from vcm.nets.frozen import FrozenDenoiser
from vcm.nets.linear_prior import LinearPrior

if TYPE_CHECKING:
    from jaxtyping import Float, Num

#: Groups of the norms in the wings of a FoldedUNet.
WING_GROUPS = 8


class Modulation(ConditionFeatures):
    """A time-dependent U-Net on the latent grid with two heads; see VolumetricConditioningModule."""

    prior: LinearPrior | None

    def build_modulation(
        self,
        latent_channels: int,
        features: int,
        unet_channels: Sequence[int],
        unet_res_blocks: int,
        unet_attention: Sequence[bool],
        unet_head_channels: Sequence[int] | None,
        unet_groups: int,
        unet_out_channels: int,
        head_channels: int,
        head_norm: str,
        prior_shape: Sequence[int] | None = None,
        unet_wing: int = 0,
        prior_mean: bool = False,
    ) -> None:
        """Make the U-Net and the heads.

        Args are those of VolumetricConditioningModule; `features` are the channels of the conditions'
        features.

        Raises:
            VCMError: head_norm is unknown, or unet_wing is no multiple of WING_GROUPS.
        """
        if head_norm not in ("instance", "none"):
            raise VCMError(f"head_norm is {head_norm!r}; it must be 'instance' or 'none'")
        self.head_norm = head_norm
        self.prior = None
        if prior_shape is not None:
            self.prior = LinearPrior(latent_channels, prior_shape, prior_mean)
        if unet_wing % WING_GROUPS:
            raise VCMError(
                f"unet_wing is {unet_wing}: it must be a multiple of {WING_GROUPS}, or 0."
            )
        sizes: dict[str, Any] = {
            "num_res_blocks": unet_res_blocks,
            "channels": tuple(unet_channels),
            "attention_levels": tuple(unet_attention),
            "norm_num_groups": unet_groups,
            "num_head_channels": tuple(unet_head_channels or unet_channels),
        }
        in_channels = 2 * latent_channels + features
        self.time_unet: nn.Module
        if unet_wing:
            self.time_unet = FoldedUNet(
                in_channels, unet_out_channels, unet_wing, WING_GROUPS, **sizes
            )
        else:
            self.time_unet = DiffusionModelUNet(
                spatial_dims=3,
                in_channels=in_channels,
                out_channels=unet_out_channels,
                norm_eps=1e-6,
                resblock_updown=True,
                upcast_attention=True,
                **sizes,
            )
        self.mlp_shared = nn.Conv3d(unet_out_channels, head_channels, 3, padding=1)
        self.mlp_gamma = nn.Conv3d(head_channels, latent_channels, 3, padding=1)
        self.mlp_beta = nn.Conv3d(head_channels, latent_channels, 3, padding=1)
        if head_norm == "none":
            self._start_as_identity()

    def _start_as_identity(self) -> None:
        """Zero gamma and beta; wake the U-Net's zeroed last layer, as one zero in series is enough."""
        for conv in (self.mlp_gamma, self.mlp_beta):
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(torch.as_tensor(conv.bias))
        unet: Any = self.time_unet
        last = unet.head if isinstance(unet, FoldedUNet) else unet.out[-1].conv
        last.reset_parameters()

    def modulation(
        self,
        z_t: Float[Tensor, "B C x y z"],
        prediction: Float[Tensor, "B C x y z"],
        t: Num[Tensor, "#B"],
        features: Float[Tensor, "#B F x y z"],
    ) -> tuple[Float[Tensor, "B C x y z"], Float[Tensor, "B C x y z"]]:
        """Scale and shift of a prediction.

        Args:
            z_t: (B, C, x, y, z) noisy latent.
            prediction: (B, C, x, y, z) of the frozen model.
            t: (1 or B,) step of training.
            features: (1 or B, F, x, y, z); those of one volume serve a whole batch.

        Returns:
            (gamma, beta), each (B, C, x, y, z).
        """
        batch = z_t.shape[0]
        if features.shape[0] == 1:
            features = features.expand(batch, *features.shape[1:])
        steps = torch.as_tensor(t, device=z_t.device).expand(batch)
        h = self.time_unet(torch.cat([z_t, prediction, features], dim=1), steps)
        h = F.leaky_relu(self.mlp_shared(h), 0.01)
        gamma, beta = self.mlp_gamma(h), self.mlp_beta(h)
        if self.head_norm == "instance":
            gamma, beta = F.instance_norm(gamma), F.instance_norm(beta)
        return gamma, beta

    def steer(
        self,
        frozen: FrozenDenoiser,
        z_t: Float[Tensor, "B C x y z"],
        t: Num[Tensor, "#B"],
        inputs: Float[Tensor, "#B K"],
        features: Float[Tensor, "#B F x y z"],
        conditioning_scale: float = 1.0,
    ) -> Steered:
        """See vcm.nets.control.Control."""
        raw = frozen_prediction(frozen, z_t, t, inputs)
        start = raw
        if self.prior is not None:
            times = torch.as_tensor(t, device=z_t.device).expand(len(z_t))
            reading = self.prior.reading(features).expand_as(z_t).to(z_t.dtype)
            start = self.prior(frozen, z_t, times, raw, reading)
        gamma, beta = self.modulation(z_t, start, t, features)
        full = start * (1 + gamma) + beta
        change = gamma.abs().mean() + beta.abs().mean()
        return Steered(raw + conditioning_scale * (full - raw), raw, change)
