"""The Volumetric Conditioning Module: scale and shift what a frozen diffusion model predicts.

Ahn et al., WACV 2025, arXiv 2410.21826. With z_t the noisy latent, eps_t the frozen prediction and
y the condition volumes,

    features    = encode(y)                                   once per volume: independent of t
    gamma, beta = head(time_unet([z_t, eps_t, features], t))
    eps'_t      = eps_t * (1 + gamma) + beta

Nothing here depends on eps being noise: a predicted v or velocity is steered alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from monai.networks.nets import DiffusionModelUNet
from torch import Tensor, nn
from torch.nn import functional as F

from vcm.errors import VCMError
from vcm.nets.condition_encoder import ConditionEncoder
from vcm.nets.published_names import load_strictly, rename_published


class VolumetricConditioningModule(ModelMixin, ConfigMixin):
    """Defaults are the published sizes for BrainLDM: 45,220,134 parameters.

    condition_channels   channels of each condition volume; one encoder per condition
    encoder_patch        > 1 folds voxels into channels in front of the encoder (not in the paper)
    unet_head_channels   channels per attention head and level; None is one head per attention
    head_norm            "instance" as released: gamma and beta have zero mean and unit variance per
                         channel, so the module can never leave a prediction alone.
                         "none": it starts as the identity and learns how much to change.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 3,
        condition_channels: Sequence[int] = (8,),
        encoder_channels: Sequence[int] = (16, 32, 48),
        encoder_res_blocks: int = 2,
        encoder_groups: int = 16,
        encoder_patch: int = 1,
        unet_channels: Sequence[int] = (64, 128, 256),
        unet_res_blocks: int = 2,
        unet_attention: Sequence[bool] = (False, False, True),
        unet_head_channels: Sequence[int] | None = None,
        unet_groups: int = 32,
        unet_out_channels: int = 64,
        head_channels: int = 128,
        head_norm: Literal["instance", "none"] = "instance",
    ) -> None:
        super().__init__()
        if head_norm not in ("instance", "none"):
            raise VCMError(f"head_norm is {head_norm!r}; it must be 'instance' or 'none'")
        self.downsampling = encoder_patch * 2 ** len(encoder_channels)
        self.encoders = nn.ModuleList(
            ConditionEncoder(
                channels, encoder_channels, encoder_res_blocks, encoder_groups, encoder_patch
            )
            for channels in condition_channels
        )
        self.time_unet = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=2 * latent_channels + encoder_channels[-1],
            out_channels=unet_out_channels,
            num_res_blocks=unet_res_blocks,
            channels=tuple(unet_channels),
            attention_levels=tuple(unet_attention),
            norm_num_groups=unet_groups,
            norm_eps=1e-6,
            resblock_updown=True,
            num_head_channels=tuple(unet_head_channels or unet_channels),
            upcast_attention=True,
        )
        self.mlp_shared = nn.Conv3d(unet_out_channels, head_channels, 3, padding=1)
        self.mlp_gamma = nn.Conv3d(head_channels, latent_channels, 3, padding=1)
        self.mlp_beta = nn.Conv3d(head_channels, latent_channels, 3, padding=1)
        if head_norm == "none":
            self._start_as_identity()

    def _start_as_identity(self) -> None:
        """Zero gamma and beta; wake MONAI's zeroed last layer, as one zero in series is enough."""
        for conv in (self.mlp_gamma, self.mlp_beta):
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)
        self.time_unet.out[-1].conv.reset_parameters()

    def encode(self, conditions: Sequence[Tensor | None], keep: Tensor | None = None) -> Tensor:
        """Conditions (B, C_k, D, H, W), None where absent -> features (B, F, D/n, H/n, W/n).

        The features are the mean over the conditions present, so their scale is the same for every
        subset (the paper leaves the aggregation open). `keep` (B, K) bool is the modality latent
        drop of training: False removes condition k of sample b; each sample must keep at least one.
        """
        self._check(conditions)
        present = [k for k, condition in enumerate(conditions) if condition is not None]
        latents = [self.encoders[k](conditions[k]) for k in present]
        if keep is None:
            return sum(latents[1:], latents[0]) / len(latents)
        kept = keep.to(latents[0].device)[:, present]
        if not bool(kept.any(dim=1).all()):
            raise VCMError(
                f"sample {int((~kept.any(dim=1)).nonzero()[0])} keeps none of the conditions "
                "present; every sample must keep at least one"
            )
        share = kept.to(latents[0].dtype) / kept.sum(dim=1, keepdim=True)
        return torch.einsum("bk,kbcdhw->bcdhw", share, torch.stack(latents))

    def modulation(
        self, z_t: Tensor, prediction: Tensor, t: Tensor | int, features: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Latent z_t and frozen prediction (B, L, d, h, w), step t () or (B,) -> (gamma, beta).

        Features of one volume serve a whole batch of latents.
        """
        batch = z_t.shape[0]
        if features.shape[0] == 1:
            features = features.expand(batch, *features.shape[1:])
        steps = torch.as_tensor(t, device=z_t.device).expand(batch)
        h = self.time_unet(torch.cat([z_t, prediction, features], dim=1), steps)
        h = F.leaky_relu(self.mlp_shared(h), 0.01)
        gamma, beta = self.mlp_gamma(h), self.mlp_beta(h)
        if self.config.head_norm == "instance":
            gamma, beta = F.instance_norm(gamma), F.instance_norm(beta)
        return gamma, beta

    def forward(
        self,
        z_t: Tensor,
        prediction: Tensor,
        t: Tensor | int,
        features: Tensor,
        conditioning_scale: float = 1.0,
    ) -> Tensor:
        """The steered prediction (B, L, d, h, w); a scale of 0 gives the frozen one back."""
        gamma, beta = self.modulation(z_t, prediction, t, features)
        return prediction * (1 + conditioning_scale * gamma) + conditioning_scale * beta

    def load_published(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load a released checkpoint (names of monai-generative), or refuse it by name."""
        load_strictly(self, rename_published(state_dict))

    def _check(self, conditions: Sequence[Tensor | None]) -> None:
        expected = list(self.config.condition_channels)
        if len(conditions) != len(expected):
            raise VCMError(
                f"{len(conditions)} conditions given, the module has {len(expected)}; "
                "pass None for an absent one"
            )
        if all(condition is None for condition in conditions):
            raise VCMError("every condition is None; the module needs at least one")
        for k, condition in enumerate(conditions):
            if condition is None:
                continue
            if condition.ndim != 5 or condition.shape[1] != expected[k]:
                raise VCMError(
                    f"condition {k} has shape {tuple(condition.shape)}; "
                    f"it must be (B, {expected[k]}, D, H, W)"
                )
            if any(n % self.downsampling for n in condition.shape[2:]):
                raise VCMError(
                    f"condition {k} has axes {tuple(condition.shape[2:])}; "
                    f"each must be a multiple of {self.downsampling}: pad or resample it"
                )
