"""What a steered model predicts at each step of sampling. Knows when the module acts; no files, no layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Num


def acts(scale: float, window: tuple[float, float], steps: int) -> bool:
    """Whether a module of that strength acts in any of so many steps, between those fractions of them."""
    return scale != 0 and any(window[0] <= step / steps < window[1] for step in range(steps))


@dataclass
class SteeredPrediction:
    """predict(z_t, t) for one volume, as a scheduler wants it.

    Attributes:
        denoiser: The frozen model.
        module: A control method, or None.
        covariates: (1, K) what the denoiser is told.
        features: (1, F, x, y, z) of the conditions, or None: not steered.
        scale: Strength of the module.
        window: Fractions of the steps from which and until which the module acts.
        steps: Denoising steps.
        dtype: Of autocast; float32 is none.
        step: The step that is being taken, from 0; whoever samples counts it up.
    """

    denoiser: Any
    module: Any
    covariates: Float[Tensor, "1 K"]
    features: Float[Tensor, "1 F u v w"] | None
    scale: float
    window: tuple[float, float]
    steps: int
    dtype: torch.dtype
    step: int = 0

    def __call__(
        self, z_t: Float[Tensor, "1 C x y z"], t: Num[Tensor, ""]
    ) -> Float[Tensor, "1 C x y z"]:
        """What the scheduler steps with, at z_t and the training step t."""
        # Networks that were cast themselves need it too: their attention computes in float32 in between.
        cast = self.denoiser.dtype
        dtype = self.dtype if cast == torch.float32 else cast
        with torch.autocast(z_t.device.type, dtype, enabled=dtype != torch.float32):
            return self._predict(z_t, t).to(z_t.dtype)

    def _predict(
        self, z_t: Float[Tensor, "1 C x y z"], t: Num[Tensor, ""]
    ) -> Float[Tensor, "1 C x y z"]:
        denoiser, module = self.denoiser, self.module
        t = torch.as_tensor(t, device=z_t.device)[None]
        z = z_t.to(denoiser.dtype)
        if self.features is not None and self.window[0] <= self.step / self.steps < self.window[1]:
            features = self.features.to(z.device)
            raw = module(denoiser, z, t, self.covariates, features, self.scale).prediction
        else:
            raw = denoiser(z, t, self.covariates)
        model_output: Tensor = denoiser.to_model_output(raw.to(z_t.dtype), z_t, t)
        return model_output
