"""A part of an image as a condition: the values, and where they are given. Knows arrays alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def as_partial(image: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Stack a part of an image with its mask.

    Args:
        image: (X, Y, Z) in 0..1.
        known: (X, Y, Z) True where the image is given.

    Returns:
        (2, X, Y, Z): the image where it is given and 0 elsewhere; 1 where it is given.
    """
    return np.stack([np.where(known, image, 0), known]).astype(np.float32)
