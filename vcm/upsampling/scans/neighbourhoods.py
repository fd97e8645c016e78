"""How two images go together in every neighbourhood. Knows arrays alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from vcm.upsampling.scans.space import Image


class Moments(NamedTuple):
    """Second moments about the local means, (X, Y, Z) each.

    Attributes:
        covariance: Of the two.
        variance: Of the first, from 0.
        other_variance: Of the second, from 0.
    """

    covariance: Image
    variance: Image
    other_variance: Image


def local_moments(
    image: Image,
    other: Image,
    inside: NDArray[np.bool_],
    spacing: tuple[float, float, float],
    window: float,
) -> Moments:
    """Moments of two images in a Gaussian neighbourhood of every voxel.

    Args:
        image: (X, Y, Z).
        other: (X, Y, Z).
        inside: (X, Y, Z) the voxels that count.
        spacing: Of the voxels [mm].
        window: Standard deviation of the neighbourhood [mm].
    """
    sigma = [window / s for s in spacing]
    weight = inside.astype(np.float32)
    total = np.maximum(gaussian_filter(weight, sigma), 1e-3)

    def mean(values: Image) -> Image:
        local: Image = gaussian_filter((weight * values).astype(np.float32), sigma) / total
        return local

    x, y = mean(image), mean(other)
    return Moments(
        mean(image * other) - x * y,
        np.maximum(mean(image * image) - x * x, 0),
        np.maximum(mean(other * other) - y * y, 0),
    )
