"""What a frozen model must offer, whichever family it is of, so that all else need not ask.

The denoiser predicts something of its own (epsilon, v, a velocity); a module modulates that raw
prediction; only then is it turned into what the scheduler steps with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Num, Shaped


@runtime_checkable
class FrozenAutoencoder(Protocol):
    """Volumes (B, 1, X, Y, Z) in 0..1 <-> latents (B, C, x, y, z), in the diffusion model's scale."""

    config: Any

    @property
    def device(self) -> torch.device:
        """Where its tensors lie, and so where volumes and latents must."""

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(C, x, y, z) of one latent."""

    def encode(
        self, image: Float[Tensor, "B 1 X Y Z"]
    ) -> tuple[Float[Tensor, "B C x y z"], Float[Tensor, "B C x y z"]]:
        """Posterior (mu, sigma) of a volume's latent."""

    def decode(self, z: Float[Tensor, "B C x y z"]) -> Float[Tensor, "B 1 X Y Z"]:
        """Latent -> volume in 0..1."""

    def channel_weight(self) -> Float[Tensor, " C"]:
        """(C,) mean 1: weight of each latent channel in the loss."""

    def state_dict(self) -> dict[str, Shaped[Tensor, " ..."]]:
        """As torch has it: tensors by name."""

    def enable_tiling(
        self, slab: int = 2, storage_dtype: torch.dtype | None = torch.float16
    ) -> None:
        """Decode in slabs: the same result within 1e-3, exactly it with None, and less memory."""

    def disable_tiling(self) -> None:
        """Decode whole feature maps at once."""


class Residuals(NamedTuple):
    """What a control method adds inside the frozen U-Net.

    Attributes:
        down: (B, C_i, x_i, y_i, z_i) per feature map that the U-Net hands to its decoder, in the order
            they arise.
        middle: Added to the output of the middle block; None: nothing.
    """

    down: Sequence[Float[Tensor, "B _ _ _ _"]]
    middle: Float[Tensor, "B _ _ _ _"] | None


def as_unet_options(residuals: Residuals | None) -> dict[str, Any]:
    """Residuals under the names that MONAI's U-Nets have for them."""
    if residuals is None:
        return {}
    return {
        "down_block_additional_residuals": tuple(residuals.down),
        "mid_block_additional_residual": residuals.middle,
    }


@contextmanager
def adding_maps(
    down_blocks: Iterable[Any], maps: Sequence[Float[Tensor, "#B _ _ _ _"]]
) -> Iterator[None]:
    """While it lasts, one map per level is added to the last output of the encoder's block there.

    What is added goes on to the deeper levels and, as a skip, to the decoder: it enters before the
    block halves the map, so each map has its level's own extent.
    """
    hooks = []
    for block, one in zip(down_blocks, maps, strict=True):
        layers = getattr(block, "attentions", None)
        last = (block.resnets if layers is None else layers)[-1]
        hooks.append(last.register_forward_hook(_adding(one)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _adding(one: Float[Tensor, "#B _ _ _ _"]) -> Callable[[Any, Any, Tensor], Tensor]:
    return lambda layer, given, out: out + one.to(out.dtype)


@runtime_checkable
class FrozenDenoiser(Protocol):
    """z_t (B, C, x, y, z), step t (B,), inputs (B, K) -> a prediction of the network's own kind.

    inputs are what the model is told beside z_t: the four covariates in 0..1 for BrainLDM and brain2mm;
    spacing [mm] along x, y, z and the class of the contrast for MAISI.

    Attributes:
        timesteps: Steps of training.
        steps_with: What `to_model_output` gives, and so which schedulers fit: "epsilon", the noise, or
            "flow", the velocity noise - z.
        fold: Latents per axis that one position of its U-Net's grid covers.
    """

    timesteps: int
    steps_with: str
    fold: int

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """As torch has it: a frozen model needs no gradient of its own."""

    def __call__(
        self,
        z_t: Float[Tensor, "B C x y z"],
        t: Num[Tensor, "#B"],
        inputs: Float[Tensor, "#B K"],
        residuals: Residuals | None = None,
    ) -> Float[Tensor, "B C x y z"]:
        """The raw prediction, with `residuals` added inside where a method gives them.

        Everything asks the network this way, so that hooks and compilation of torch take effect.
        """

    def with_encoder_maps(
        self,
        z_t: Float[Tensor, "B C x y z"],
        t: Num[Tensor, "#B"],
        inputs: Float[Tensor, "#B K"],
        maps: Sequence[Float[Tensor, "#B _ _ _ _"]],
    ) -> Float[Tensor, "B C x y z"]:
        """The raw prediction, with one map per level added inside its encoder."""

    def to_model_output(
        self, raw: Float[Tensor, "B C x y z"], z_t: Float[Tensor, "B C x y z"], t: Num[Tensor, "#B"]
    ) -> Float[Tensor, "B C x y z"]:
        """The raw prediction, steered or not -> what the diffusers scheduler steps with."""

    def target(
        self, z: Float[Tensor, "B C x y z"], noise: Float[Tensor, "B C x y z"], t: Num[Tensor, "#B"]
    ) -> Float[Tensor, "B C x y z"]:
        """The raw prediction that is right for z_t = add_noise(z, noise, t)."""

    def add_noise(
        self, z: Float[Tensor, "B C x y z"], noise: Float[Tensor, "B C x y z"], t: Num[Tensor, "#B"]
    ) -> Float[Tensor, "B C x y z"]:
        """The noisy latent z_t."""

    def alpha_sigma(
        self, t: Num[Tensor, "#B"], like: Float[Tensor, "B C x y z"]
    ) -> tuple[Float[Tensor, "B 1 1 1 1"], Float[Tensor, "B 1 1 1 1"]]:
        """(alpha, sigma) of z_t = alpha z + sigma noise, as (B, 1, 1, 1, 1)."""

    def at(self, time: Float[Tensor, " B"]) -> Num[Tensor, " B"]:
        """Time in 0..1 (B,) -> steps t (B,) of training: whole numbers where the model knows these."""
