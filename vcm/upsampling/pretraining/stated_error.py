"""Terms of the losses of networks that state their own error, sample by sample. Tensors in, tensors out."""

from __future__ import annotations

from torch import Tensor


def mean_inside(values: Tensor, mask: Tensor) -> Tensor:
    """Means (B,) of values (B, 1, X, Y, Z) where a mask of that shape is 1."""
    total: Tensor = (values * mask).flatten(1).sum(1) / mask.flatten(1).sum(1)
    return total


def unlikelihood(squared: Tensor, std: Tensor) -> Tensor:
    """Minus the logarithm of a normal density, less a constant: log s + (x' - x)^2 / (2 s^2).

    It pulls at the stated error alone, not at the image.

    Args:
        squared: (x' - x)^2, of any shape.
        std: s, of the same shape.
    """
    return std.log() + squared.detach() / (2 * std.square())
