"""Several conditions, one encoder each, one set of features: any subset will do.

Knows how features of the conditions present are put together; nothing of what they steer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from vcm.errors import VCMError
from vcm.nets.control import Steered
from vcm.nets.frozen import FrozenDenoiser

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Num


class ConditionFeatures(nn.Module):
    """Part of every control method. Whoever derives from it sets the attributes.

    Attributes:
        encoders: One per condition, each (B, C_k, X, Y, Z) -> (B, F, X/n, Y/n, Z/n).
        condition_channels: C_k of each.
        downsampling: n; every axis of a condition must be a multiple of it.
        steer: See vcm.nets.control.Control.
    """

    steer: Callable[..., Steered]
    encoders: nn.ModuleList
    condition_channels: tuple[int, ...]
    downsampling: int

    def forward(
        self,
        frozen: FrozenDenoiser,
        z_t: Float[Tensor, "B C x y z"],
        t: Num[Tensor, "#B"],
        inputs: Float[Tensor, "#B K"],
        features: Float[Tensor, "#B F u v w"],
        conditioning_scale: float = 1.0,
    ) -> Steered:
        """The same as `steer`: calling a control method steers, with the hooks of torch in effect."""
        return self.steer(frozen, z_t, t, inputs, features, conditioning_scale)

    @apply_forward_hook
    def encode(
        self, conditions: Tensor | Sequence[Tensor | None], keep: Bool[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B F x y z"]:
        """Conditions -> features on the latent grid.

        The features are the mean over the conditions present, so their scale is the same for every
        subset (the paper leaves the aggregation open).

        Args:
            conditions: (B, C_k, X, Y, Z) per condition, None where absent; one condition may be given
                without a list. X, Y and Z are multiples of n, `downsampling`.
            keep: (B, K) bool, the modality latent drop of training: False removes condition k of
                sample b. None: all are kept.

        Returns:
            (B, F, X/n, Y/n, Z/n).

        Raises:
            VCMError: A condition has another shape than its encoder reads, or a sample has none.
        """
        conditions = [conditions] if isinstance(conditions, Tensor) else conditions
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

    def _check(self, conditions: Sequence[Tensor | None]) -> None:
        expected = self.condition_channels
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
                    f"it must be (B, {expected[k]}, X, Y, Z)"
                )
            if any(n % self.downsampling for n in condition.shape[2:]):
                raise VCMError(
                    f"condition {k} has axes {tuple(condition.shape[2:])}; "
                    f"each must be a multiple of {self.downsampling}: pad or resample it"
                )
