"""What one contrast shows of another: detail by a regression in every neighbourhood. Knows arrays alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from vcm.upsampling.space import Image

#: Variance that noise alone has, in intensities of 0..1, and the most that the detail may be multiplied with.
NOISE, STEEPEST = 3e-3, 1.5


def add_detail(
    image: Image,
    scan: Image,
    smooth: Image,
    inside: NDArray[np.bool_],
    spacing: tuple[float, float, float],
    window: float,
) -> Image:
    """Add what a scan shows beyond its smooth version to an image that is as smooth.

    Args:
        image: (X, Y, Z) to be detailed.
        scan: (X, Y, Z) in another contrast.
        smooth: (X, Y, Z) the same, as smooth as `image`.
        inside: (X, Y, Z) the voxels that the regression is told by.
        spacing: Of the voxels [mm].
        window: Standard deviation of the Gaussian neighbourhood that tells the slope [mm].
    """
    sigma = [window / s for s in spacing]
    weight = inside.astype(np.float32)
    total = np.maximum(gaussian_filter(weight, sigma), 1e-3)

    def mean(values: Image) -> Image:
        local: Image = gaussian_filter((weight * values).astype(np.float32), sigma) / total
        return local

    x, y = mean(smooth), mean(image)
    covariance = mean(smooth * image) - x * y
    variance = np.maximum(mean(smooth * smooth) - x * x, 0)
    slope = np.clip(covariance / (variance + NOISE), -STEEPEST, STEEPEST)
    return np.asarray(np.where(inside, image + slope * (scan - smooth), image), dtype=np.float32)
