"""A part of an image as a condition: the values, and where they are given."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def as_partial(image: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(2, X, Y, Z): the image where it is known, and where that is."""
    return np.stack([np.where(known, image, 0), known]).astype(np.float32)
