"""Read an image window by window, as a network that learned from patches expects it. Knows tensors alone.

Group norms divide by what they see: a network that learned from patches and is shown a whole brain at once
computes other activations than it learned from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


#: Windows that are read at once. One alone is read by a convolution of PyTorch that takes four times as long.
AT_ONCE = 4
#: Overlap of windows, as a share of them.
HALF = 0.5


def by_windows(
    answer: Callable[[Tensor], Tensor],
    image: Float[Tensor, "1 C X Y Z"],
    edge: int,
    overlap: float = HALF,
) -> Float[Tensor, "1 K X Y Z"]:
    """What a network answers of an image: the mean over windows, in which each counts most in its middle.

    Args:
        answer: From windows (B, C, x, y, z) to as many voxels (B, K, x, y, z), on any device.
        image: Any.
        edge: Of a window [voxel]; an axis that is not longer is read whole.
        overlap: Least share of a window that the next one shows too, in 0..1.

    Returns:
        Where the image is, in single precision.
    """
    size = image.shape[2:]
    places = [
        tuple(slice(s, min(s + edge, n)) for s, n in zip(corner, size, strict=True))
        for corner in product(*(starts(n, edge, overlap) for n in size))
    ]
    hat = _hat([min(edge, n) for n in size]).to(image.device)
    total, weight = torch.zeros(()), torch.zeros(size, device=image.device)
    for first in range(0, len(places), AT_ONCE):
        some = places[first : first + AT_ONCE]
        found = answer(torch.stack([image[0][(slice(None), *place)] for place in some]))
        if not total.ndim:
            total = torch.zeros((1, found.shape[1], *size), device=image.device)
        for place, part in zip(some, found.to(image.device), strict=True):
            total[0][(slice(None), *place)] += hat * part
            weight[place] += hat
    return total / weight


def starts(size: int, edge: int, overlap: float = HALF) -> list[int]:
    """First voxels of windows that cover an axis evenly, each sharing `overlap` or more with the next."""
    steps = max(math.ceil((size - edge) / (edge * (1 - overlap))), 0)
    return [round(n * (size - edge) / steps) for n in range(steps + 1)] if steps else [0]


def _hat(shape: Sequence[int]) -> Tensor:
    """Weights that fall from the middle of a window to its border, and stay above 0."""
    axes = [1 - (torch.linspace(-1, 1, n).abs() * 0.95) for n in shape]
    return axes[0][:, None, None] * axes[1][None, :, None] * axes[2][None, None, :]
