"""Means over mirror images of an input, for networks that state an image and its error. Tensors in, tensors out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


def mean_over_mirrors(
    say: Callable[[Tensor], tuple[Tensor, Tensor]],
    read: Float[Tensor, "B C X Y Z"],
    mirrors: Sequence[Sequence[int]],
) -> tuple[Float[Tensor, "B 1 X Y Z"], Float[Tensor, "B 1 X Y Z"]]:
    """Means of image and error over mirror images of what is read, such as were seen in training.

    As many times the work; their errors differ and cancel in part.

    Args:
        say: The network.
        read: What it reads.
        mirrors: Axes of (B, C, X, Y, Z) that each image is mirrored along.
    """
    image = torch.zeros_like(read[:, :1], dtype=torch.float32)
    std = image.clone()
    for axes in map(list, mirrors):
        found, error = say(read.flip(axes))
        image += found.flip(axes) / len(mirrors)
        std += error.flip(axes) / len(mirrors)
    return image, std
