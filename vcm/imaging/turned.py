"""Thick scans whose axes are turned against the fine grid, as further scans of one head may be.

    A = M A_along R

R interpolates linearly from the fine grid to one of the same spacing along the scan's own axes, A_along
is what the slices do there (see Degradation), and M leaves out scan voxels that the fine grid does not
cover whole. Knows grids and sparse matrices; nothing of files.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from vcm.errors import VCMError
from vcm.imaging.acquisition import Acquisition, isotropic_grid, runs_along
from vcm.imaging.degradation import Degradation
from vcm.imaging.volume import Grid

#: A scan voxel counts as seen where this much of its weight lies on the fine grid.
SEEN = 0.999


@dataclass(frozen=True, eq=False)
class TurnedDegradation:
    """The operator A = M A_along R.

    Attributes:
        fine: Grid of the image.
        along: A_along, from a grid of the same spacing along the scan's axes.
        turn: R, (voxels there, fine voxels).
        seen: M, (X, Y, Z) of the scan; see `Degradation.seen`.
    """

    fine: Grid
    along: Degradation
    turn: csr_matrix
    seen: NDArray[np.bool_]

    @classmethod
    def between(cls, fine: Grid, scan: Grid, acquisition: Acquisition) -> TurnedDegradation:
        """Set up the operator between two grids.

        Memory: 64 bytes per voxel of the scan's volume at the fine spacing, 0.3 GB for a head at 1 mm.

        Args:
            fine: Grid of the image.
            scan: Grid of the scan, at right angles.
            acquisition: How the scan was cut.

        Raises:
            VCMError: The two grids do not meet.
        """
        own = isotropic_grid(scan, acquisition, float(np.mean(fine.spacing)))
        along = Degradation.between(own, scan, acquisition)
        turn = _interpolation(fine, own)
        covered = np.asarray(turn.sum(axis=1)).reshape(own.shape)
        seen = (along.degrade(covered) > SEEN) & along.seen
        if not seen.any():
            raise VCMError(
                f"the scan around {scan.centre.round(1).tolist()} mm has no voxel on the fine grid "
                f"around {fine.centre.round(1).tolist()} mm: give scans of one head."
            )
        return cls(fine, along, turn, seen)

    def degrade(self, x: NDArray) -> NDArray:
        """Apply A: y = A x, in the precision of x but at least single."""
        turned = (self.turn @ x.ravel()).reshape(self.along.fine.shape)
        return np.asarray(np.where(self.seen, self.along.degrade(turned), 0), dtype=_real(x))

    def adjoint(self, y: NDArray) -> NDArray:
        """A^T y, the exact transpose of `degrade`."""
        back = self.along.adjoint(np.where(self.seen, y, 0))
        return np.asarray((self.turn.T @ back.ravel()).reshape(self.fine.shape), dtype=_real(y))


def degradation_between(
    fine: Grid, scan: Grid, acquisition: Acquisition
) -> Degradation | TurnedDegradation:
    """What a scan does to an image on the fine grid.

    Args:
        fine: Grid of the image.
        scan: Grid of the scan.
        acquisition: How the scan was cut.

    Returns:
        The exact separable operator where the axes are parallel, else the turned one.

    Raises:
        VCMError: The two grids do not meet.
    """
    if runs_along(fine, scan):
        return Degradation.between(fine, scan, acquisition)
    return TurnedDegradation.between(fine, scan, acquisition)


def _interpolation(fine: Grid, own: Grid) -> csr_matrix:
    """Trilinear weights, a row per voxel of `own`; neighbours outside the fine grid weigh nothing."""
    voxel = np.linalg.inv(fine.affine) @ own.affine
    indices = np.indices(own.shape, dtype=np.float32).reshape(3, -1)
    place = voxel[:3, :3] @ indices + voxel[:3, 3:]
    low = np.floor(place).astype(np.int32)
    part = (place - low).astype(np.float32)
    columns, weights = [], []
    strides = (fine.shape[1] * fine.shape[2], fine.shape[2], 1)
    for corner in product((0, 1), repeat=3):
        column = np.zeros(place.shape[1], np.int32)
        weight = np.ones(place.shape[1], np.float32)
        for k, step in enumerate(corner):
            index = low[k] + step
            inside = (index >= 0) & (index < fine.shape[k])
            weight *= np.where(inside, part[k] if step else 1 - part[k], 0)
            column += strides[k] * np.clip(index, 0, fine.shape[k] - 1)
        columns.append(column)
        weights.append(weight)
    count = place.shape[1]
    starts = np.arange(0, 8 * count + 1, 8, dtype=np.int32)
    return csr_matrix(
        (np.stack(weights, 1).ravel(), np.stack(columns, 1).ravel(), starts),
        shape=(count, int(np.prod(fine.shape))),
    )


def _real(values: NDArray) -> np.dtype:
    return np.result_type(values.dtype, np.float32)
