"""What every control method offers, so that sampling and training never ask which one they hold.

    features = control.encode(conditions)                          once per volume: independent of t
    steered  = control.steer(frozen, z_t, t, inputs, features)     what the frozen model should say

A method may modulate the frozen model's output (VCM, MCM) or add to its inner activations
(ControlNet, ControlNet-LITE, T2I-Adapter).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from vcm.errors import VCMError
from vcm.nets.frozen import FrozenDenoiser

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Num


class Steered(NamedTuple):
    """What a step of a control method gives.

    Attributes:
        prediction: (B, C, x, y, z), of the frozen network's own kind.
        unsteered: The same without the method; None where the method never asks for it.
        change: () mean |gamma| + mean |beta| for modulation, 0 for the others.
    """

    prediction: Float[Tensor, "B C x y z"]
    unsteered: Float[Tensor, "B C x y z"] | None
    change: Float[Tensor, ""]


@runtime_checkable
class Control(Protocol):
    """A control method."""

    def encode(
        self, conditions: Tensor | Sequence[Tensor | None], keep: Bool[Tensor, "B K"] | None = None
    ) -> Float[Tensor, "B F x y z"]:
        """Condition volumes -> features on the latent grid; see ConditionFeatures."""

    def steer(
        self,
        frozen: FrozenDenoiser,
        z_t: Float[Tensor, "B C x y z"],
        t: Num[Tensor, "#B"],
        inputs: Float[Tensor, "#B K"],
        features: Float[Tensor, "#B F u v w"],
        conditioning_scale: float = 1.0,
    ) -> Steered:
        """The frozen model's prediction, steered.

        Args:
            frozen: The denoiser.
            z_t: (B, C, x, y, z) noisy latent.
            t: (1 or B,) step of training.
            inputs: (1 or B, K) what the denoiser is told, see vcm.inputs.
            features: (1 or B, F, u, v, w) of the conditions, from `encode`, on the latent grid or on
                that of the frozen U-Net.
            conditioning_scale: Strength; 0 leaves the prediction alone.
        """


def frozen_prediction(
    frozen: FrozenDenoiser,
    z_t: Float[Tensor, "B C x y z"],
    t: Num[Tensor, "#B"],
    inputs: Float[Tensor, "#B K"],
) -> Float[Tensor, "B C x y z"]:
    """What the frozen network says, without a graph: modulation needs no gradient through it."""
    with torch.no_grad():
        return frozen(z_t, t, inputs).to(z_t.dtype)


def check_factor(downsampling: int, factor: int, setting: str) -> None:
    """Refuse features that would not lie on the latent grid.

    Args:
        downsampling: Voxels per feature and axis.
        factor: Voxels per latent position and axis.
        setting: What to change, in words.

    Raises:
        VCMError: They differ.
    """
    if downsampling != factor:
        raise VCMError(
            f"The conditions would be read on a grid {downsampling} times coarser than a volume, but the "
            f"latents of this model are {factor} times coarser: {setting}."
        )


def zero_convolution(channels: int) -> nn.Conv3d:
    """1x1x1, all zero: what lies behind it joins the frozen model without a jolt."""
    conv = nn.Conv3d(channels, channels, 1)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(torch.as_tensor(conv.bias))
    return conv
