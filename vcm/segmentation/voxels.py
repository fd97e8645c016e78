"""Which voxels of a labelled brain the perceptrons learn from: small structures and their rims wholly, the rest in part."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from vcm.segmentation.labelled import UNKNOWN

#: A class with at most this share of the labelled brain is small.
SMALL = 0.03
#: Width [voxel] of the rim around small structures that is taken too.
RIM = 2


def choose_voxels(
    image: NDArray[np.float32], labels: NDArray[np.int16], count: int, random: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """A sample of the labelled brain voxels.

    Args:
        image: (X, Y, Z), 0 outside the brain.
        labels: (X, Y, Z), UNKNOWN where not labelled.
        count: Voxels, about; fewer where fewer are labelled.
        random: Draws them.

    Returns:
        Mask of the chosen voxels, and the weight (N,) of each: 1 over the share of its kind that was
        chosen, so that weighted counts are those of the brain.
    """
    usable = (image > 0) & (labels != UNKNOWN)
    sizes = np.bincount(labels[usable], minlength=1)
    small = np.flatnonzero((sizes > 0) & (sizes <= SMALL * usable.sum()))
    near = binary_dilation(np.isin(labels, small), iterations=RIM) & usable
    rest = usable & ~near
    left = max(count - int(near.sum()), count // 3)
    shares = (
        min(1.0, (count - min(left, int(rest.sum()))) / max(int(near.sum()), 1)),
        min(1.0, left / max(int(rest.sum()), 1)),
    )
    share = np.where(near, shares[0], shares[1])
    chosen = usable & (random.random(labels.shape) < share)
    return chosen, (1 / share[chosen]).astype(np.float32)
