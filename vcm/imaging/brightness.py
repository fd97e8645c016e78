"""How bright a brain is around each voxel: local mean and deviation, bias field and contrast included.

Knows arrays and voxel sizes [mm]; nothing of files, spaces or studies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

#: Width of the Gaussian that is meant by `around` [mm].
AROUND = 10.0
#: Least deviation that is scaled up.
LEAST_DEVIATION = 3e-3


class Look(NamedTuple):
    """Brightness around each voxel (X, Y, Z): its mean, its standard deviation, where there is brain."""

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    brain: NDArray[np.bool_]


def look_of(images: Sequence[NDArray[np.float32]], spacing: float) -> Look:
    """How one brain looks, or several on average.

    Args:
        images: (X, Y, Z) in 0..1, 0 outside the brain.
        spacing: Of the voxels [mm].
    """
    means, deviations, weights = [], [], []
    for image in images:
        brain = (image > 0).astype(np.float32)
        weight = np.maximum(_smooth(brain, spacing), 1e-6)
        mean = _smooth(image, spacing) / weight
        square = _smooth(image * image, spacing) / weight
        means.append(mean)
        deviations.append(np.sqrt(np.maximum(square - mean * mean, LEAST_DEVIATION**2)))
        weights.append(weight)
    total = np.sum(weights, 0)
    mean, deviation = (
        (np.sum([w * v for w, v in zip(weights, each, strict=True)], 0) / total).astype(np.float32)
        for each in (means, deviations)
    )
    return Look(mean, deviation, np.any([image > 0 for image in images], 0))


def local_brightness(image: NDArray[np.float32], spacing: float) -> NDArray[np.float64]:
    """Each voxel's deviation from the mean around it over the standard deviation there, 0 outside the brain.

    It does not depend on a bias field that is smooth over AROUND, nor on a contrast that is linear there.

    Args:
        image: (X, Y, Z) in 0..1, 0 outside the brain.
        spacing: Of the voxels [mm].
    """
    own = look_of([image], spacing)
    return np.where(own.brain, (image - own.mean) / own.deviation, 0.0)


def _smooth(image: NDArray[np.float32], spacing: float) -> NDArray[np.float32]:
    return np.asarray(gaussian_filter(image, AROUND / spacing), dtype=np.float32)
