"""What thick slices do to a head: a separable linear operator, its transpose and exact projection.

    y = A x + noise,        A = A_0 (x) A_1 (x) A_2

x are values on a fine grid, y those of the scan; A_k has one row per scan voxel along axis k.
Knows grids [mm] and dense matrices; nothing of files, networks or where x comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, cg

from vcm.errors import VCMError
from vcm.imaging.acquisition import (
    Acquisition,
    ProfileKind,
    SliceProfile,
    axis_names,
    find_acquisition,
    grid_about,
    parallel_axes,
)
from vcm.imaging.volume import Grid, Volume

Matrices = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]

#: Singular values of A_k below this share of the largest count as 0. Their inverse would raise
#: the rounding of single precision (6e-8) above a hundredth of the intensity range.
RELATIVE_CUTOFF = 1e-5


@dataclass(frozen=True, eq=False)
class Degradation:
    """What a scan does to an image on a fine grid.

    Rows sum to 1, so a constant stays a constant. A scan voxel whose centre lies outside the fine
    grid is not seen: its row is 0, projections ignore it and residuals do not count it.
    Values are computed in float64; float32 comes back for float32.

    Attributes:
        fine: Grid of the image.
        scan: Grid of the scan.
        axes: Scan axis k runs along fine axis `axes[k]`, forward or backward.
        matrices: A_k, (n_scan, n_fine), which takes the means along it.
    """

    fine: Grid
    scan: Grid
    axes: tuple[int, int, int]
    matrices: Matrices

    @classmethod
    def between(cls, fine: Grid, scan: Grid, acquisition: Acquisition) -> Degradation:
        """Set up the operator between two grids, with offsets from their affines.

        Along the slice axis it is the slice profile integrated over fine voxels; in plane a boxcar of the
        scan's voxel width where that is coarser than the fine one, else linear interpolation.

        Args:
            fine: Grid of the image.
            scan: Grid of the scan, whose axes may differ in order and direction.
            acquisition: How the scan was cut.

        Raises:
            VCMError: The axes are not parallel, or the grids do not overlap.
        """
        if not np.isclose(scan.spacing[acquisition.axis], acquisition.spacing, rtol=1e-3):
            raise ValueError(f"the acquisition ({acquisition}) is not that of {scan}")
        voxel = np.linalg.inv(fine.affine) @ scan.affine  # scan index -> fine index
        axes = parallel_axes(fine, scan)
        middle = (np.asarray(scan.shape) - 1) / 2
        centre = voxel[:3, :3] @ middle + voxel[:3, 3]
        matrices = []
        for k, along in enumerate(axes):
            steps = np.arange(scan.shape[k]) - middle[k]
            positions = centre[along] + voxel[along, k] * steps
            width, fine_width = scan.spacing[k], fine.spacing[along]
            profile: SliceProfile | None = None
            if k == acquisition.axis:
                profile = acquisition.profile
            elif width > fine_width * (1 + 1e-4):
                profile = SliceProfile("boxcar", width)
            matrices.append(_means(positions, fine.shape[along], fine_width, profile))
        if not all(matrix.any() for matrix in matrices):
            raise VCMError(
                f"the scan around {scan.centre.round(1).tolist()} mm has no voxel on the fine grid "
                f"around {fine.centre.round(1).tolist()} mm: give a fine grid that covers the scan."
            )
        a, b, c = matrices
        return cls(fine, scan, axes, (a, b, c))

    def degrade(self, x: NDArray) -> NDArray:
        """Apply A: y = A x.

        Three dense products, the most shrinking axis first: for 144^3 fine voxels and 144 x 144 x 48 of
        the scan about 0.9 GFLOP.

        Args:
            x: (X, Y, Z) on the fine grid.

        Returns:
            (X, Y, Z) of the scan, in the precision of x but at least single.
        """
        return self._degrade(x).astype(_real(x))

    def adjoint(self, y: NDArray) -> NDArray:
        """A^T y, the exact transpose of `degrade` (not its inverse). Same cost."""
        return self._adjoint(y).astype(_real(y))

    def project(self, x: NDArray, y: NDArray, noise: float = 0.0) -> NDArray:
        """The image nearest to `x` that is consistent with the scan `y`.

            x' = x + A^T (A A^T + noise^2 I)^-1 (y - A x)
               = argmin ||x' - x||^2 + ||y - A x'||^2 / noise^2

        Exact: with A_k = U_k diag(s_k) V_k^T this is x + V diag(s / (s^2 + noise^2)) U^T (y - A x), where
        U, V, s are the Kronecker products. Components with s_k below 1e-5 of the largest are
        left as they are in x, whatever the noise: with noise = 0 and dependent rows (the scan finer
        than the fine grid in plane), A x' is the least-squares fit to y. Cost: 3 `degrade`s; the
        decompositions are computed once, n^3 per axis.

        Args:
            x: (X, Y, Z) on the fine grid.
            y: (X, Y, Z) values of the scan.
            noise: Standard deviation of y's error over that of x's; 0 asks for A x' = y.

        Returns:
            (X, Y, Z) x', in the precision of x but at least single.
        """
        if noise < 0:
            raise ValueError(f"noise {noise:g} is negative")
        (u, s, v) = self._spectrum
        amplitude = s[0][:, None, None] * s[1][:, None] * s[2]
        rest = _along_axes((u[0].T, u[1].T, u[2].T), self._rest(x, y))
        change = _along_axes(v, rest * (amplitude / (amplitude**2 + noise**2)))
        return (x + self._to_fine(change)).astype(_real(x))

    def residual(self, x: NDArray, y: NDArray, mask: NDArray[np.bool_] | None = None) -> float:
        """Root mean square of y - A x over the seen scan voxels, of these over `mask`."""
        counted = self.seen if mask is None else self.seen & mask
        if not counted.any():
            raise ValueError("the mask holds no scan voxel that lies on the fine grid")
        return float(np.sqrt(np.mean(self._rest(x, y)[counted] ** 2)))

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Scan voxels whose centre lies on the fine grid."""
        i, j, k = (np.any(matrix, axis=1) for matrix in self.matrices)
        return np.einsum("i,j,k->ijk", i, j, k)

    @cached_property
    def _spectrum(self) -> tuple[Matrices, Matrices, Matrices]:
        """U_k (n_scan, rank), s_k (rank,), V_k (n_fine, rank)."""
        parts = []
        for matrix in self.matrices:
            u, s, vt = np.linalg.svd(matrix, full_matrices=False)
            kept = s > RELATIVE_CUTOFF * s[0]
            parts.append((u[:, kept], s[kept], vt[kept].T))
        (u0, s0, v0), (u1, s1, v1), (u2, s2, v2) = parts
        return (u0, u1, u2), (s0, s1, s2), (v0, v1, v2)

    def _degrade(self, x: NDArray) -> NDArray[np.float64]:
        _check_shape(x, self.fine, "fine grid")
        return _along_axes(self.matrices, x.transpose(self.axes))

    def _adjoint(self, y: NDArray) -> NDArray[np.float64]:
        _check_shape(y, self.scan, "scan")
        a, b, c = self.matrices
        return self._to_fine(_along_axes((a.T, b.T, c.T), y))

    def _rest(self, x: NDArray, y: NDArray) -> NDArray[np.float64]:
        _check_shape(y, self.scan, "scan")
        return y - self._degrade(x)

    def _to_fine(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """From scan axis order to that of the fine grid."""
        return values.transpose(np.argsort(self.axes))


def simulate_thick(
    volume: Volume,
    axis: str,
    spacing: float,
    thickness: float | None = None,
    profile: ProfileKind = "gaussian",
    noise: float = 0.0,
    random: np.random.Generator | None = None,
) -> tuple[Volume, Acquisition]:
    """Cut a (nearly) isotropic scan into `axis` slices, `spacing` [mm] apart, about its centre.

    There are round(extent / spacing) slices; in plane the voxels stay as they are.

    Args:
        volume: At right angles.
        axis: axial, coronal or sagittal.
        spacing: Between slices [mm].
        thickness: Of a slice [mm]; None: the spacing.
        profile: Of a slice.
        noise: Standard deviation of Gaussian noise, in the volume's intensities. Noisy values are clipped
            at 0 as magnitudes are, an approximation of Rician noise that is good where the signal is
            above about three times the noise. Without noise nothing is clipped.
        random: Draws the noise.

    Returns:
        The thick scan, and how it was cut.

    Raises:
        VCMError: The volume cannot be cut so.
    """
    if not (np.isfinite(noise) and noise >= 0):
        raise VCMError(f"a noise of {noise:g} is not possible: give 0 or a positive deviation.")
    if noise > 0 and random is None:
        raise ValueError("noise needs a random generator")
    names = axis_names(volume.grid, volume.source)
    if axis not in names:
        raise VCMError(f"slice axis '{axis}' is unknown: choose axial, coronal or sagittal.")
    across = names.index(axis)
    own = volume.grid.spacing[across]
    count = round(volume.data.shape[across] * own / spacing) if spacing > 0 else 0
    if spacing < own * (1 - 1e-3) or count < 2:
        raise VCMError(
            f"slices {spacing:g} mm apart cannot be cut from {volume.source}, which has "
            f"{volume.data.shape[across]} voxels of {own:.3g} mm across {axis} slices: give a "
            "spacing of at least one such voxel that leaves two slices."
        )
    shape, sizes = list(volume.data.shape), list(volume.grid.spacing)
    shape[across], sizes[across] = count, spacing
    thick = grid_about((shape[0], shape[1], shape[2]), volume.grid, (sizes[0], sizes[1], sizes[2]))
    acquisition = find_acquisition(thick, axis, thickness, profile)
    data = Degradation.between(volume.grid, thick, acquisition).degrade(volume.data)
    if noise > 0 and random is not None:
        data = np.maximum(data + noise * random.standard_normal(data.shape), 0).astype(data.dtype)
    source = f"{volume.source} in {spacing:g} mm {axis} slices"
    return replace(volume, data=data, affine=thick.affine, source=source), acquisition


class LinearScan(Protocol):
    """What `project_all` needs of a scan: y = A x and A^T y on a fine grid; float64 stays float64."""

    @property
    def fine(self) -> Grid:
        """Grid of x."""

    def degrade(self, x: NDArray) -> NDArray:
        """Apply A."""

    def adjoint(self, y: NDArray) -> NDArray:
        """Apply A^T."""


def project_all(
    x: NDArray, scans: Sequence[tuple[LinearScan, NDArray, float]], sweeps: int = 20
) -> NDArray:
    """The image nearest to `x` that is consistent with several scans of one head.

        argmin ||x' - x||^2 + sum_i ||y_i - A_i x'||^2 / noise_i^2

    With one scan this is its `project`. Solved by conjugate gradients, one `degrade` and one `adjoint` per
    scan and step, ended early at a relative residual of 1e-6. Three orthogonal scans of 4 mm slices are
    there after 10 to 20 steps for any noise down to 1e-3, where alternating exact projections is far from
    it after 20 sweeps.

    Args:
        x: (X, Y, Z) on the fine grid.
        scans: (degradation, y, noise) of each scan. All degradations share one fine grid; each scan may
            cut it along any of its axes, or be turned against it (vcm.imaging.turned).
        sweeps: Most steps.

    Returns:
        (X, Y, Z) x', in the precision of x but at least single.
    """
    if not scans:
        raise ValueError("no scans are given")
    fine = scans[0][0].fine
    for degradation, _, noise in scans:
        other = degradation.fine
        if other.shape != fine.shape or not np.allclose(other.affine, fine.affine, atol=1e-4):
            raise ValueError("the degradations are not built on one fine grid")
        if not noise > 0:
            raise ValueError(f"noise {noise:g} is not positive: several scans never agree exactly")

    def normal(flat: NDArray) -> NDArray:
        image = flat.reshape(fine.shape)
        parts = (a.adjoint(a.degrade(image)) / noise**2 for a, _, noise in scans)
        return (image + sum(parts)).ravel()

    start = np.asarray(x, dtype=np.float64)
    pull = sum(a.adjoint(y - a.degrade(start)) / noise**2 for a, y, noise in scans)
    operator = LinearOperator((x.size, x.size), matvec=normal, dtype=np.float64)
    change, _ = cg(operator, np.ravel(pull), rtol=1e-6, maxiter=sweeps)
    return (x + change.reshape(fine.shape)).astype(_real(x))


def _check_shape(values: NDArray, grid: Grid, name: str) -> None:
    if values.shape != grid.shape:
        raise ValueError(f"shape {values.shape} is not that of the {name}, {grid.shape}")


def _real(values: NDArray) -> np.dtype:
    return np.result_type(values.dtype, np.float32)


def _along_axes(matrices: Matrices, values: NDArray) -> NDArray[np.float64]:
    """(M_0 (x) M_1 (x) M_2) values; the most shrinking axis first keeps the others small."""
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


def _means(
    positions: NDArray[np.float64], count: int, width: float, profile: SliceProfile | None
) -> NDArray[np.float64]:
    """Matrix (positions, count): one mean over fine voxels 0..count-1 per position [fine index].

    By `profile` over fine voxels of `width` [mm], or linear between the two nearest for None;
    between the outermost centre and the grid's border the outermost voxel holds. Rows of
    positions beyond the border are 0.
    """
    index = np.arange(count)
    if profile is None:
        inner = np.clip(positions, 0, count - 1)
        rows = np.clip(1 - np.abs(index - inner[:, None]), 0.0, 1.0)
    else:
        rows = profile.weights((index - positions[:, None]) * width, width)
    inside = (positions > -0.5 - 1e-6) & (positions < count - 0.5 + 1e-6)
    return rows * inside[:, None]
