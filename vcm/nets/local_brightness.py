"""Each voxel's deviation from the brightness around it, on any device: what networks may read instead of scans.

Knows tensors; nothing of files or studies. `vcm.imaging.brightness` does the same to arrays.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

#: Standard deviation of the Gaussian that is meant by `around` [voxel]: 10 mm in voxels of 2 mm.
AROUND = 5.0
#: Least deviation that is scaled up.
LEAST_DEVIATION = 3e-3


def local_brightness(
    images: Float[Tensor, "B C X Y Z"], around: float = AROUND
) -> Float[Tensor, "B C X Y Z"]:
    """(Image - mean around) / standard deviation around, 0 where the image is 0 or less.

    It does not depend on a bias field that is smooth over `around`, nor on a contrast that is linear there.

    Args:
        images: In 0..1, 0 outside the brain.
        around: Standard deviation of a Gaussian [voxel].
    """
    with torch.autocast(images.device.type, enabled=False):
        image = images.float()
        brain = (image > 0).float()
        image = image * brain
        sums = (brain, image, image.square())
        weight, first, second = (_smooth(x, around) for x in sums)
        mean, square = (x / weight.clamp(min=1e-6) for x in (first, second))
        deviation = (square - mean.square()).clamp(min=LEAST_DEVIATION**2).sqrt()
        return (image - mean) / deviation * brain


def _smooth(x: Tensor, sigma: float) -> Tensor:
    """(B, C, X, Y, Z) through a Gaussian cut at four standard deviations, as if 0 lay around it.

    Along each axis it is a product with a matrix, which takes a quarter of a convolution's time.
    """
    reach = int(4 * sigma + 0.5)
    total = sum(math.exp(-0.5 * (n / sigma) ** 2) for n in range(-reach, reach + 1))
    for axis in range(2, 5):
        places = torch.arange(x.shape[axis], device=x.device, dtype=x.dtype)
        apart = (places[:, None] - places).abs()
        kernel = torch.exp(-0.5 * (apart / sigma).square()) * (apart <= reach) / total
        x = (x.movedim(axis, -1) @ kernel).movedim(-1, axis)
    return x
