"""Bring intensities to [0, 1]. Knows percentiles; nothing of geometry."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Percentiles inside the brain that become 0 and 1.
PERCENTILES = (0.5, 99.5)


def to_unit_range(
    data: NDArray, mask: NDArray[np.bool_], percentiles: tuple[float, float] = PERCENTILES
) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """Map the two percentiles inside `mask` to 0 and 1, clip, and set 0 outside the mask.

    Returns the values and the two source intensities, so that the way back is known.
    """
    low, high = np.percentile(data[mask], percentiles)
    scaled = np.clip((data - low) / max(high - low, 1e-6), 0.0, 1.0)
    return np.where(mask, scaled, 0.0).astype(np.float32), (float(low), float(high))
