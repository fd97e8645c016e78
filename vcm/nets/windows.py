"""Read an image window by window, as a network that learned from patches expects it. Knows tensors alone.

Group norms divide by what they see: a network that learned from patches and is shown a whole brain at once
computes other activations than it learned from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


def by_windows(
    answer: Callable[[Tensor], Tensor], image: Float[Tensor, "1 C X Y Z"], edge: int
) -> Float[Tensor, "1 K X Y Z"]:
    """What a network answers of an image: the mean over windows, in which each counts most in its middle.

    Args:
        answer: From a part of the image (1, C, x, y, z) to as many voxels (1, K, x, y, z), on any device.
        image: Any.
        edge: Of a window [voxel]; an axis that is not longer is read whole. Neighbours share half or more.

    Returns:
        Where the image is, in single precision.
    """
    size = image.shape[2:]
    total, weight = torch.zeros(()), torch.zeros(size, device=image.device)
    for corner in product(*(starts(n, edge) for n in size)):
        place = tuple(slice(s, min(s + edge, n)) for s, n in zip(corner, size, strict=True))
        found = answer(image[(slice(None), slice(None), *place)])
        if not total.ndim:
            total = torch.zeros((1, found.shape[1], *size), device=image.device)
        hat = _hat(found.shape[2:]).to(image.device)
        total[(slice(None), slice(None), *place)] += hat * found.to(image.device)
        weight[place] += hat
    return total / weight


def starts(size: int, edge: int) -> list[int]:
    """First voxels of windows that cover an axis evenly, each sharing half or more with the next."""
    steps = max(math.ceil(2 * (size - edge) / edge), 0)
    return [round(n * (size - edge) / steps) for n in range(steps + 1)] if steps else [0]


def _hat(shape: torch.Size) -> Tensor:
    """Weights that fall from the middle of a window to its border, and stay above 0."""
    axes = [1 - (torch.linspace(-1, 1, n).abs() * 0.95) for n in shape]
    return axes[0][:, None, None] * axes[1][None, :, None] * axes[2][None, None, :]
