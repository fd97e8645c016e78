"""Is one scan given twice? It would count as two measurements. Knows voxels and their place, no files."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from vcm.errors import VCMError
from vcm.imaging.volume import Volume

#: Correlation of two copies, which rounding or another scale may lower; noise of a second scan lowers it more.
COPIES = 0.99999


def refuse_same_scan(scans: Sequence[Volume]) -> None:
    """Raise VCMError where two scans hold the same measurements, in whatever axis order or scale."""
    for one, other in combinations(scans, 2):
        if _are_copies(one, other):
            raise VCMError(
                f"{one.source} and {other.source} hold the same scan, which would count as two "
                "measurements: give each scan once."
            )


def _are_copies(one: Volume, other: Volume) -> bool:
    (x, affine), (y, affine_y) = _canonical(one), _canonical(other)
    if x.shape != y.shape or not np.allclose(affine, affine_y, atol=1e-2):
        return False
    shown = (x != x.flat[0]) | (y != y.flat[0])
    if not shown.any():
        return False
    a, b = x[shown].astype(np.float64), y[shown].astype(np.float64)
    return bool(np.corrcoef(a, b)[0, 1] > COPIES)


def _canonical(volume: Volume) -> tuple[NDArray, NDArray]:
    """Values and affine with axes in the order and direction nearest to RAS+."""
    image = nib.as_closest_canonical(nib.Nifti1Image(volume.data, volume.affine))
    return np.asarray(image.dataobj), image.affine
