"""Lesions of white matter at random places, for networks that must not paint them healthy. Knows arrays alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Random = np.random.Generator

#: Largest share of the white matter that is lesion; smoothing [voxel] of the noise whose peaks lesions are.
MOST, SIZE = 0.04, (0.7, 2.0)
#: Width of a lesion's soft border, in standard deviations of that noise.
BORDER = 0.4


def draw_lesions(white: NDArray[np.bool_], random: Random) -> NDArray[np.float32]:
    """Soft blobs in white matter.

    Args:
        white: (X, Y, Z) where it is.
        random: What the draw depends on, and nothing else.

    Returns:
        (X, Y, Z), 1 inside lesions, 0 outside, between at their borders.
    """
    noise = random.standard_normal(white.shape, dtype=np.float32)
    field = gaussian_filter(noise, random.uniform(*SIZE))
    share = MOST * random.random() ** 2
    if not white.any():
        return np.zeros(white.shape, np.float32)
    inside = field[white]
    least, width = np.quantile(inside, 1 - share), BORDER * float(inside.std())
    return np.asarray(np.clip((field - least) / max(width, 1e-6), 0, 1) * white, dtype=np.float32)
