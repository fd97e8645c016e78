"""Linear maps of a volume that act along each of its axes by a matrix. Knows arrays alone.

y = (M_0 (x) M_1 (x) M_2) x
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrices = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def along_axes(matrices: Matrices, values: NDArray) -> NDArray[np.float64]:
    """(M_0 (x) M_1 (x) M_2) values; the most shrinking axis first keeps the others small.

    Args:
        matrices: M_k, (rows, extent of axis k).
        values: (X, Y, Z).
    """
    out = np.asarray(values, dtype=np.float64)
    for k in sorted(range(3), key=lambda k: matrices[k].shape[0] / matrices[k].shape[1]):
        if _is_identity(matrices[k]):
            continue
        out = np.moveaxis(np.tensordot(matrices[k], out, (1, k)), 0, k)
    return out


def _is_identity(matrix: NDArray[np.float64]) -> bool:
    """Within rounding; in plane, where the two grids have the same voxels, this saves the most."""
    rows, columns = matrix.shape
    return rows == columns and bool(np.allclose(matrix, np.eye(rows), rtol=0, atol=1e-12))
