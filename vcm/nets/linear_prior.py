"""What a linear reading of the condition tells about the latent, computed instead of learned.

With y the linear reading of z_0, s the spread of z_0 around it, and z_t = alpha z_0 + sigma eps,

    z_hat = (alpha s^2 z_t + sigma^2 y) / (alpha^2 s^2 + sigma^2)        E[z_0 | z_t, y], Gaussian
    prior = (1 - m) raw + m P(z_hat)                                      m per channel and time

P(z_hat) is what the frozen network would predict if z_0 were z_hat. It is a scale and a shift of the
raw prediction, as all that VCM does, with gamma = -m and beta = m P(z_hat); the module goes on from
there, and through y it trains its encoder. Not in the paper: it is for few scans and few hours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vcm.nets.frozen import FrozenDenoiser

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Num

#: Equal parts of the time 0..1 in which m is constant.
BINS = 8


class LinearPrior(nn.Module):
    """spread s (C, x, y, z), fitted and fixed; mix m (BINS, C), fitted and trained on.

    With `knows_mean`, the reading is of latents before their mean at each place was taken off: what a
    tissue looks like does not depend on the place, and a brain that lies elsewhere is read as well.
    """

    spread: Float[Tensor, "C x y z"]
    mean: Float[Tensor, "C x y z"]

    def __init__(
        self, latent_channels: int, latent_shape: Sequence[int], knows_mean: bool = False
    ) -> None:
        super().__init__()
        self.channels, self.knows_mean = latent_channels, knows_mean
        self.register_buffer("spread", torch.ones(latent_channels, *latent_shape))
        if knows_mean:
            self.register_buffer("mean", torch.zeros(latent_channels, *latent_shape))
        self.mix = nn.Parameter(torch.zeros(BINS, latent_channels))

    def reading(self, features: Float[Tensor, "B F x y z"]) -> Float[Tensor, "B C x y z"]:
        """y: the first C features of a condition, less the mean where it is known."""
        y = features[:, : self.channels]
        return y - self.mean.to(y.dtype) if self.knows_mean else y

    def expected(
        self,
        frozen: FrozenDenoiser,
        z_t: Float[Tensor, "B C x y z"],
        t: Num[Tensor, " B"],
        y: Float[Tensor, "B C x y z"],
    ) -> Float[Tensor, "B C x y z"]:
        """P(z_hat), what the frozen network would predict if z_0 were z_hat.

        Args:
            frozen: The denoiser.
            z_t: (B, C, x, y, z) noisy latent.
            t: (B,) step of training.
            y: (B, C, x, y, z) linear reading of the conditions.

        Returns:
            (B, C, x, y, z).
        """
        alpha, sigma = frozen.alpha_sigma(t, z_t)
        square = self.spread.to(z_t.dtype).square()
        z = (alpha * square * z_t + sigma.square() * y) / (alpha.square() * square + sigma.square())
        return frozen.target(z, (z_t - alpha * z) / sigma, t)

    def bins(self, frozen: FrozenDenoiser, t: Num[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Which row of `mix` belongs to each t (B,)."""
        return (t.float() * BINS / frozen.timesteps).long().clamp(0, BINS - 1)

    def forward(
        self,
        frozen: FrozenDenoiser,
        z_t: Float[Tensor, "B C x y z"],
        t: Num[Tensor, " B"],
        raw: Float[Tensor, "B C x y z"],
        y: Float[Tensor, "B C x y z"],
    ) -> Float[Tensor, "B C x y z"]:
        """The mixed prediction (B, C, x, y, z)."""
        mix = self.mix[self.bins(frozen, t)][..., None, None, None]
        return raw + mix * (self.expected(frozen, z_t, t, y) - raw)
