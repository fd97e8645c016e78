"""The MAISI family: a rectified flow over latents that is told voxel spacing and contrast.

With noise n and time t in 0..1000,

    z_t = (1 - t/1000) z + t/1000 n        v = z - n, predicted by the network

Source: Guo et al., arXiv 2409.11169 (autoencoder); Zhao et al., arXiv 2508.05772 (flow); networks of
MONAI core at the sizes of NVIDIA's NV-Generate, which are the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
from torch import Tensor

from vcm.errors import VCMError
from vcm.nets.frozen import Residuals, adding_maps, as_unet_options
from vcm.nets.saved import ModelMixin
from vcm.nets.slabs import SlabDecoding

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Num

#: Class of "no contrast given": a tenth of the training volumes carried it instead of their own.
NO_CONTRAST = 0


class MaisiDenoiser(ModelMixin):
    """z_t (B, C, x, y, z), t (B,) in 0..1000, inputs (B, 4) -> velocity v (B, C, x, y, z).

    inputs            spacing along x, y, z [mm] and the class of the contrast (T1w 9, T2w 10, FLAIR
                      11, SWI 20; skull-stripped 29, 30, 31, 32), a whole number given as float
    guidance_scale    g of classifier-free guidance, v = v(none) + g (v(class) - v(none)), where none
                      is class 0 at the same spacing; may be set at any time. 1 is the plain
                      prediction at half the work; there, NVIDIA's scripts say 0. They use 10 for
                      brain MR and no guidance for CT
    shift             s of the transform t' = s t / (1 + (s - 1) t) of training times, t in 0..1; for
                      MAISI (latent voxels / 32^3)^(1/3). Not learned: it belongs to the volume size

    Each axis of a latent must be a multiple of 2^(levels - 1). Attention is computed plainly, as
    MONAI's flash attention needs CUDA; the weights are the same.
    """

    steps_with: str = "flow"
    fold: int = 1

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 4,
        channels: Sequence[int] = (64, 128, 256, 512),
        attention: Sequence[bool] = (False, False, True, True),
        head_channels: Sequence[int] = (0, 0, 32, 32),
        res_blocks: int = 2,
        groups: int = 32,
        classes: int = 128,
        timesteps: int = 1000,
        guidance_scale: float = 1.0,
        shift: float = 1.0,
    ) -> None:
        super().__init__()
        self.net = DiffusionModelUNetMaisi(
            spatial_dims=3,
            in_channels=latent_channels,
            out_channels=latent_channels,
            num_channels=channels,
            attention_levels=attention,
            num_head_channels=head_channels,
            num_res_blocks=res_blocks,
            norm_num_groups=groups,
            norm_eps=1e-6,
            resblock_updown=True,
            include_fc=True,
            num_class_embeds=classes,
            include_spacing_input=True,
            use_flash_attention=False,
        )
        self.timesteps = timesteps
        self.guidance_scale = guidance_scale
        self.shift = shift

    def forward(
        self,
        z_t: Float[Tensor, "B C x y z"],
        t: Num[Tensor, "#B"],
        inputs: Float[Tensor, "#B K"],
        residuals: Residuals | None = None,
    ) -> Float[Tensor, "B C x y z"]:
        """The velocity v = z - noise, guided; what a module steers.

        `residuals` are added in both passes of the guidance, as NV-Generate does.
        """
        spacing, contrast = self.class_inputs(inputs)
        v = self._velocity(z_t, t, spacing, contrast, residuals)
        if self.guidance_scale == 1:
            return v
        nothing = torch.full_like(contrast, NO_CONTRAST)
        none = self._velocity(z_t, t, spacing, nothing, residuals)
        return none + self.guidance_scale * (v - none)

    def to_model_output(
        self, raw: Float[Tensor, "B C x y z"], z_t: Float[Tensor, "B C x y z"], t: Num[Tensor, "#B"]
    ) -> Float[Tensor, "B C x y z"]:
        """Flows of diffusers go from data to noise: dz_t / d(t/1000) = noise - z = -v."""
        return -raw

    def target(
        self, z: Float[Tensor, "B C x y z"], noise: Float[Tensor, "B C x y z"], t: Num[Tensor, "#B"]
    ) -> Float[Tensor, "B C x y z"]:
        """Velocity: v = z - noise, at every t."""
        return z - noise

    def add_noise(
        self, z: Float[Tensor, "B C x y z"], noise: Float[Tensor, "B C x y z"], t: Num[Tensor, "#B"]
    ) -> Float[Tensor, "B C x y z"]:
        """z_t = (1 - t/1000) z + t/1000 noise."""
        alpha, sigma = self.alpha_sigma(t, z)
        return alpha * z + sigma * noise

    def alpha_sigma(
        self, t: Num[Tensor, "#B"], like: Float[Tensor, "B C x y z"]
    ) -> tuple[Float[Tensor, "B 1 1 1 1"], Float[Tensor, "B 1 1 1 1"]]:
        """(1 - t/1000, t/1000) as (B, 1, 1, 1, 1)."""
        part = (t.to(like.dtype) / self.timesteps).expand(like.shape[0])[:, None, None, None, None]
        return 1 - part, part

    def at(self, time: Float[Tensor, " B"]) -> Num[Tensor, " B"]:
        """Time in 0..1 (B,) -> shifted steps in 0..1000, not rounded."""
        return self.timesteps * self.shift * time / (1 + (self.shift - 1) * time)

    def with_encoder_maps(
        self,
        z_t: Float[Tensor, "B C x y z"],
        t: Num[Tensor, "#B"],
        inputs: Float[Tensor, "#B K"],
        maps: Sequence[Float[Tensor, "#B _ _ _ _"]],
    ) -> Float[Tensor, "B C x y z"]:
        """The raw prediction, with one map per level added inside its encoder; see FrozenDenoiser."""
        with adding_maps(self.net.down_blocks, maps):
            return self(z_t, t, inputs)

    def _velocity(
        self,
        z_t: Float[Tensor, "B C x y z"],
        t: Num[Tensor, "#B"],
        spacing: Float[Tensor, "#B 3"],
        contrast: Int[Tensor, "#B"],
        residuals: Residuals | None,
    ) -> Float[Tensor, "B C x y z"]:
        batch = z_t.shape[0]
        velocity: Tensor = self.net(
            z_t,
            t.expand(batch),
            class_labels=contrast.expand(batch),
            spacing_tensor=spacing.to(z_t.dtype).expand(batch, -1),
            **as_unet_options(residuals),
        )
        return velocity

    def class_inputs(self, inputs: Tensor) -> tuple[Float[Tensor, "B 3"], Int[Tensor, " B"]]:
        """(1 or B, 4) -> spacing (1 or B, 3) [mm / 100] and class (1 or B,) as the network has them."""
        if inputs.ndim != 2 or inputs.shape[1] != 4:
            raise VCMError(
                f"MAISI's inputs have shape {tuple(inputs.shape)}; they must be (B, 4): "
                "spacing along x, y, z [mm] and the class of the contrast"
            )
        contrast = inputs[:, 3].round().long()
        classes = int(self.config.classes)
        if bool(((contrast < 0) | (contrast >= classes)).any()):
            raise VCMError(
                f"The classes of contrast are {contrast.tolist()}; "
                f"this model knows 0 to {classes - 1}, see the model card for their meaning"
            )
        return inputs[:, :3] * 100, contrast


class MaisiAutoencoder(SlabDecoding, ModelMixin):
    """Volumes (B, 1, X, Y, Z) in 0..1 <-> latents (B, C, X/4, Y/4, Z/4), z = (mu + sigma eps) scale.

    scale         belongs to the checkpoint of the diffusion model (`scale_factor` there)
    num_splits    > 1 has MONAI run each convolution in that many overlapping parts along axis
                  dim_split, for less memory and the same result; the extent of the latent along it
                  must be a multiple of num_splits, three planes or more each. NVIDIA uses 4 along
                  axis 1. `enable_tiling` saves more, along the first axis, and ignores it

    MAISI maps the 99.5th percentile of an MR scan to 1 and leaves what is brighter above it; decoded
    volumes are clipped here. It normalises in half precision; here everything keeps the type of the
    weights, which must be float32 outside of autocast, as MAISI's group norm always returns that.
    """

    @register_to_config
    def __init__(
        self,
        channels: Sequence[int] = (64, 128, 256),
        latent_channels: int = 4,
        res_blocks: Sequence[int] = (2, 2, 2),
        groups: int = 32,
        scale: float = 1.0,
        latent_shape: Sequence[int] = (64, 64, 64),
        num_splits: int = 1,
        dim_split: int = 1,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.factor = 2 ** (len(channels) - 1)
        self.latent_shape: tuple[int, ...] = (latent_channels, *latent_shape)
        self.net = AutoencoderKlMaisi(
            spatial_dims=3,
            in_channels=1,
            out_channels=1,
            num_channels=channels,
            latent_channels=latent_channels,
            num_res_blocks=res_blocks,
            attention_levels=(False,) * len(channels),
            norm_num_groups=groups,
            norm_eps=1e-6,
            norm_float16=False,
            num_splits=num_splits,
            dim_split=dim_split,
            print_info=False,
            save_mem=False,
        )

    @apply_forward_hook
    def encode(
        self, image: Float[Tensor, "B 1 X Y Z"]
    ) -> tuple[Float[Tensor, "B C x y z"], Float[Tensor, "B C x y z"]]:
        """Posterior (mu, sigma) in the diffusion model's scale."""
        self._check_splits([n // self.factor for n in image.shape[2:]])
        mu, sigma = self.net.encode(image)
        return mu * self.scale, sigma * self.scale

    @apply_forward_hook
    def decode(self, z: Float[Tensor, "B C x y z"]) -> Float[Tensor, "B 1 X Y Z"]:
        """Latent in the diffusion model's scale -> image in 0..1."""
        if self.slab is None:
            self._check_splits(z.shape[2:])
        return self.run_decoder(self.net, z / self.scale).clamp(0, 1)

    def channel_weight(self) -> Float[Tensor, " C"]:
        """(C,) ones: no channel counts more than another, as in the papers."""
        return torch.ones(self.latent_shape[0])

    def _check_splits(self, latent: Sequence[int]) -> None:
        """MONAI drops the planes that are left over, and wraps around in thin parts."""
        parts, extent = self.config.num_splits, latent[self.config.dim_split]
        if parts > 1 and (extent % parts or extent // parts < 3):
            raise VCMError(
                f"A latent of {extent} planes along axis {self.config.dim_split} cannot be cut into "
                f"{parts} parts of 3 planes or more: set num_splits to 1 and use enable_tiling"
            )
