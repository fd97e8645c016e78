"""An autoencoder whose latent is the scan below a frequency, and whose decoder adds what is above.

    low  = (C (x) C (x) C) x        C: f n/4 x n, the lowest f quarters of the cosine transform of each
                                     axis, and back: orthonormal rows, an ideal low-pass and decimation
    z    = (fold(low) - mean) / std  mean: per voxel, std: one number; f x f x f voxels become channels
    x'   = u + R(u),  u = (C (x) C (x) C)^T low

f is 2 (8 channels, half of the frequencies) or 3 (27 channels, three quarters of them).

The code is linear and fixed: neighbouring latents are as coherent as the voxels of an image, and white
noise in z is white noise in the low image, so that diffusion makes the coarse before the fine, as it
does with images. Only R, a small U-Net without norms, is trained. It changes no latent, so it can be
trained on after a diffusion model was. Truncating an orthonormal cosine transform to resample an image
is Martucci's (1995). Knows tensors; not how R is trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from torch.nn import functional as F

from vcm.nets.patches import from_patches, to_patches
from vcm.nets.saved import ModelMixin

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

#: Voxels of the image per latent and axis.
FACTOR = 4
#: Image voxels per axis that the decoder folds into channels.
FOLD = 2


class PlainResidual(nn.Module):
    """x + conv2(silu(conv1(silu(x)))), which starts as x, without norms (EDSR, Lim et al. 2017)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(torch.as_tensor(self.conv2.bias))

    def forward(self, x: Float[Tensor, "B C x y z"]) -> Float[Tensor, "B C x y z"]:
        """(B, C, x, y, z) -> the same shape."""
        changed: Tensor = self.conv2(F.silu(self.conv1(F.silu(x))))
        return x + changed


class DetailDecoder(nn.Module):
    """R: what to add to a band-limited image; it starts at 0.

    Two levels: of 2x2x2 voxels of the result folded into channels, and of half that resolution.
    """

    def __init__(self, channels: Sequence[int], blocks: Sequence[int], fold: int = FOLD) -> None:
        """A decoder that adds nothing yet.

        Args:
            channels: Of the finer and the coarser level.
            blocks: Residual blocks of each; the finer has its own before and again after the coarser.
            fold: Voxels per axis of what it reads that are folded into channels: 2, or 1 where the
                result has twice the extents of what it reads.
        """
        super().__init__()
        fine, coarse = channels
        self.fold = fold
        self.read = nn.Conv3d(fold**3, fine, 3, padding=1)
        self.before = nn.Sequential(*(PlainResidual(fine) for _ in range(blocks[0])))
        self.down = nn.Conv3d(fine, coarse, 2, stride=2)
        self.middle = nn.Sequential(*(PlainResidual(coarse) for _ in range(blocks[1])))
        self.up = nn.Conv3d(coarse, fine * FOLD**3, 1)
        self.after = nn.Sequential(*(PlainResidual(fine) for _ in range(blocks[0])))
        self.write = nn.Conv3d(fine, FOLD**3, 3, padding=1)
        nn.init.zeros_(self.write.weight)
        nn.init.zeros_(torch.as_tensor(self.write.bias))

    def forward(
        self, u: Float[Tensor, "B 1 X Y Z"]
    ) -> Float[Tensor, "B 1 X*2//{self.fold} Y*2//{self.fold} Z*2//{self.fold}"]:
        """(B, 1, X, Y, Z), multiples of 2 fold -> what to add, (B, 1, 2 X / fold, 2 Y / fold, 2 Z / fold)."""
        h = self.before(self.read(to_patches(u, self.fold)))
        h = h + from_patches(self.up(self.middle(self.down(h))), FOLD)
        return from_patches(self.write(F.silu(self.after(h))), FOLD)


class BandAutoencoder(ModelMixin):
    """Volumes (B, 1, X, Y, Z) in 0..1 <-> latents (B, fold^3, X/4, Y/4, Z/4)."""

    factor = FACTOR

    @register_to_config
    def __init__(
        self,
        decoder_channels: Sequence[int] = (32, 64),
        decoder_blocks: Sequence[int] = (1, 2),
        noise: float = 0.02,
        latent_shape: Sequence[int] = (20, 28, 20),
        fold: int = 2,
    ) -> None:
        """An autoencoder with an untrained decoder and latents that are not standardised.

        Args:
            decoder_channels: Of the decoder's two levels.
            decoder_blocks: Residual blocks of each level.
            noise: Sigma of the posterior, standardised. The code is exact; a diffusion model need not
                learn its last digits.
            latent_shape: (x, y, z) of the latent of a whole volume, whose mean is stored.
            fold: f, quarters of the frequencies that the latent keeps: 2 or 3.

        Raises:
            ValueError: fold is another number.
        """
        super().__init__()
        if fold not in (2, 3):
            raise ValueError(f"fold is {fold}: it must be 2 or 3 of the {FACTOR} quarters")
        self.detail = DetailDecoder(decoder_channels, decoder_blocks)
        self.noise, self.fold = noise, fold
        self.register_buffer("latent_mean", torch.zeros(fold**3, *latent_shape))
        self.register_buffer("latent_std", torch.ones(1))

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(C, x, y, z) of one latent."""
        return tuple(self.latent_mean.shape)

    def posterior(
        self, image: Float[Tensor, "B 1 X Y Z"]
    ) -> tuple[Float[Tensor, "B C x y z"], Float[Tensor, "B C x y z"]]:
        """(mu, sigma), each (B, C, x, y, z), before standardisation."""
        mu = to_patches(band_limited(image, self.fold), self.fold)
        return mu, (self.noise * self.latent_std).to(mu).expand_as(mu)

    @torch.no_grad()
    def store_statistics(
        self, latents: Float[Tensor, "N C x y z"], inside: Bool[Tensor, "N C x y z"]
    ) -> None:
        """Standardise by the statistics of training latents from now on.

        Args:
            latents: (N, C, x, y, z) raw latents; their mean is kept.
            inside: (N, C, x, y, z) True where there is brain; the root mean square around the mean is
                taken there.
        """
        mean = latents.mean(0)
        self.latent_mean.copy_(mean)
        self.latent_std.fill_((latents - mean)[inside].square().mean().sqrt())

    def smooth(self, z: Float[Tensor, "B C x y z"]) -> Float[Tensor, "B 1 X Y Z"]:
        """Raw latent (B, C, x, y, z) of any extent -> u (B, 1, X, Y, Z), the band-limited image."""
        return interpolated(from_patches(z, self.fold), self.fold)

    def decode_raw(self, z: Float[Tensor, "B C x y z"]) -> Float[Tensor, "B 1 X Y Z"]:
        """Raw latent of any extent -> image (B, 1, X, Y, Z), not clipped."""
        u = self.smooth(z)
        detail: Tensor = self.detail(u)
        return u + detail

    def standardise(
        self, mu: Float[Tensor, "B C x y z"], sigma: Float[Tensor, "B C x y z"]
    ) -> tuple[Float[Tensor, "B C x y z"], Float[Tensor, "B C x y z"]]:
        """Posterior of the latent that the diffusion model sees."""
        return (mu - self.latent_mean) / self.latent_std, sigma / self.latent_std

    @apply_forward_hook
    def encode(
        self, image: Float[Tensor, "B 1 X Y Z"]
    ) -> tuple[Float[Tensor, "B C x y z"], Float[Tensor, "B C x y z"]]:
        """Standardised (mu, sigma) of a whole volume."""
        return self.standardise(*self.posterior(image))

    def channel_weight(self) -> Float[Tensor, " C"]:
        """(C,) of 1: all channels show alike."""
        return torch.ones_like(self.latent_mean[:, 0, 0, 0])

    def unstandardise(self, z: Float[Tensor, "B C x y z"]) -> Float[Tensor, "B C x y z"]:
        """Standardised latent -> raw latent."""
        return z * self.latent_std + self.latent_mean

    @apply_forward_hook
    def decode(self, z: Float[Tensor, "B C x y z"]) -> Float[Tensor, "B 1 X Y Z"]:
        """Standardised latent of a whole volume -> image (B, 1, X, Y, Z) in 0..1."""
        return self.decode_raw(self.unstandardise(z)).clamp(0, 1)

    def enable_tiling(
        self, slab: int = 2, storage_dtype: torch.dtype | None = torch.float16
    ) -> None:
        """Nothing to do: with so few channels a whole decode is small."""

    def disable_tiling(self) -> None:
        """Nothing to do."""


def band_limited(image: Float[Tensor, "B 1 X Y Z"], fold: int) -> Float[Tensor, "B 1 _ _ _"]:
    """Low-pass and decimation, orthonormal: the sum of squares never grows.

    Args:
        image: (B, 1, X, Y, Z), extents of which fold quarters are whole numbers.
        fold: Quarters of the frequencies, and of the extents, that stay.

    Returns:
        (B, 1, fold X / 4, fold Y / 4, fold Z / 4), a constant times sqrt(4 / fold)^3.

    Raises:
        ValueError: An extent does not divide.
    """
    if any(n * fold % FACTOR for n in image.shape[2:]):
        raise ValueError(
            f"extents times {fold} must be multiples of {FACTOR}, not {tuple(image.shape[2:])}"
        )
    for axis in (2, 3, 4):
        n = image.shape[axis]
        matrix = _matrix(n, n * fold // FACTOR).to(image)
        image = torch.tensordot(image, matrix, ([axis], [1])).movedim(-1, axis)
    return image


def interpolated(low: Float[Tensor, "B 1 x y z"], fold: int) -> Float[Tensor, "B 1 _ _ _"]:
    """The transpose of `band_limited`, and its inverse on band-limited images.

    Args:
        low: (B, 1, x, y, z), extents that are multiples of fold.
        fold: As there.

    Returns:
        (B, 1, 4 x / fold, 4 y / fold, 4 z / fold).
    """
    for axis in (2, 3, 4):
        n = low.shape[axis]
        matrix = _matrix(n * FACTOR // fold, n).to(low)
        low = torch.tensordot(low, matrix, ([axis], [0])).movedim(-1, axis)
    return low


@lru_cache(maxsize=32)
def _matrix(n: int, kept: int) -> Float[Tensor, "{kept} {n}"]:
    """(kept, n): cosine transform of n samples, its lowest part, and back to `kept` samples."""

    def cosines(size: int) -> Float[Tensor, "{size} {size}"]:
        k, i = torch.arange(size)[:, None], torch.arange(size)[None]
        basis = torch.cos(math.pi * (i + 0.5) * k / size) * math.sqrt(2 / size)
        basis[0] /= math.sqrt(2)
        return basis.double()

    # Kept for later calls, which may need gradients where the first did not.
    with torch.inference_mode(False):
        return (cosines(kept).T @ cosines(n)[:kept]).float()
