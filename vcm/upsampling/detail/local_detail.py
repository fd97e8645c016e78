"""What one contrast shows of another: detail by a regression in every neighbourhood. Knows arrays alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vcm.upsampling.scans.neighbourhoods import local_moments
from vcm.upsampling.scans.space import Image

#: Variance that noise alone has, in intensities of 0..1, and the most that the detail may be multiplied with.
NOISE, STEEPEST = 3e-3, 1.5
#: Variance below which nothing is explained.
LEAST_VARIANCE = 1e-4


def add_detail(
    image: Image,
    scan: Image,
    smooth: Image,
    inside: NDArray[np.bool_],
    spacing: tuple[float, float, float],
    window: float,
    caution: float = 0.0,
) -> Image:
    """Add what a scan shows beyond its smooth version to an image that is as smooth.

    The detail is multiplied by the slope of a regression, and by a power of the share of the image's variance that it
    explains: where the two hardly go together the slope says little of their detail.

    Args:
        image: (X, Y, Z) to be detailed.
        scan: (X, Y, Z) in another contrast.
        smooth: (X, Y, Z) the same, as smooth as `image`.
        inside: (X, Y, Z) the voxels that the regression is told by.
        spacing: Of the voxels [mm].
        window: Standard deviation of the Gaussian neighbourhood that tells the slope [mm].
        caution: That power, from 0, which asks for the slope alone.
    """
    covariance, variance, own = local_moments(smooth, image, inside, spacing, window)
    slope = np.clip(covariance / (variance + NOISE), -STEEPEST, STEEPEST)
    share = covariance**2 / ((variance + LEAST_VARIANCE) * (own + LEAST_VARIANCE))
    added = slope * np.minimum(share, 1) ** caution * (scan - smooth)
    return np.asarray(np.where(inside, image + added, image), dtype=np.float32)
