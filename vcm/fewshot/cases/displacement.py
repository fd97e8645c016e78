"""How far two scans of a case lie apart, by what their brightness tells of each other. Knows arrays alone.

Source: normalised mutual information (Studholme et al., Pattern Recognition 1999), (H(a) + H(b)) / H(a, b), which
needs no common contrast.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

Shift = tuple[int, int, int]

#: Shifts that are tried first [voxel], along each axis.
FIRST = (-6, -3, 0, 3, 6)
#: Bins of brightness.
BINS = 24
#: Smaller images [voxel along an axis] tell nothing.
LEAST_SHAPE = 16
#: A shift must tell at least so much, and so much more than none, as a ratio, or the scans are where they should be.
LEAST, WORTH = 0.02, 1.1


def displacement(one: NDArray[np.float32], other: NDArray[np.float32]) -> Shift:
    """By how many voxels (x, y, z) one image lies from where the other shows the same; (0, 0, 0) where they agree.

    Args:
        one: (X, Y, Z) in 0..1.
        other: The same head on the same grid in any contrast, in 0..1.
    """
    here = (0, 0, 0)
    if min(one.shape) < LEAST_SHAPE:
        return here
    known: dict[Shift, float] = {}

    def told(shift: Shift) -> float:
        if shift not in known:
            known[shift] = _shared(one, other, shift)
        return known[shift]

    found: Shift = max(product(FIRST, FIRST, FIRST), key=told)
    while (best := max([found, *_beside(found)], key=told)) != found:
        found = best
    return found if told(found) > max(LEAST, WORTH * told(here)) else here


def _beside(shift: Shift) -> list[Shift]:
    """The six shifts one voxel further."""
    steps = [(axis, step) for axis in range(3) for step in (-1, 1)]
    x, y, z = shift
    return [(x + s * (a == 0), y + s * (a == 1), z + s * (a == 2)) for a, s in steps]


def _shared(one: NDArray[np.float32], other: NDArray[np.float32], shift: Shift) -> float:
    """Normalised mutual information - 1 where the images overlap, of one image against the other one shifted."""
    pairs = list(zip(shift, one.shape, strict=True))
    a = one[tuple(slice(max(k, 0), n - max(-k, 0)) for k, n in pairs)].ravel()
    b = other[tuple(slice(max(-k, 0), n - max(k, 0)) for k, n in pairs)].ravel()
    if not len(a):
        return 0.0
    counts, _, _ = np.histogram2d(a, b, BINS, [[0, 1], [0, 1]])
    shares = counts / max(float(counts.sum()), 1.0)
    joint = _entropy(shares)
    if joint <= 0:
        return 0.0
    return (_entropy(shares.sum(0)) + _entropy(shares.sum(1))) / joint - 1


def _entropy(shares: NDArray[np.float64]) -> float:
    some = shares[shares > 0]
    return float(-(some * np.log(some)).sum())
