"""Move values between grids. Knows affines [mm] and interpolation; nothing of what the values mean."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
from nibabel.processing import resample_from_to
from numpy.typing import NDArray

from vcm.errors import VCMError
from vcm.imaging.volume import Grid, Volume

IDENTITY = np.eye(4)


def centred_grid(
    shape: tuple[int, int, int], spacing: float, centre: tuple[float, float, float], axes: str
) -> Grid:
    """A grid of isotropic `spacing` [mm] around the world point `centre`, with axis codes `axes`."""
    ornt = nib.orientations.axcodes2ornt(tuple(axes))
    affine = np.eye(4)
    affine[:3, :3] = 0
    for voxel_axis, (world_axis, sign) in enumerate(ornt):
        affine[int(world_axis), voxel_axis] = sign * spacing
    affine[:3, 3] = np.asarray(centre) - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return Grid(shape, affine)


def resample(
    volume: Volume,
    grid: Grid,
    to_world: NDArray[np.float64] = IDENTITY,
    order: int = 1,
) -> NDArray:
    """Values of a volume at the voxels of a grid; 0 outside its field of view.

    Where the grid is coarser than the volume, intensities (order > 0) are smoothed first so that nothing
    aliases.

    Args:
        volume: What is moved; its voxel axes may be at any angle to each other.
        grid: Where values are wanted.
        to_world: (4, 4), the volume's world -> the grid's world, RAS+ [mm].
        order: 0 nearest neighbour (labels), 1 linear, 3 cubic.

    Returns:
        (X, Y, Z) of the grid's shape.
    """
    data = volume.data if order == 0 else _band_limited(volume, grid, to_world)
    return _interpolated(data, to_world @ volume.affine, grid, order)


def _interpolated(data: NDArray, affine: NDArray[np.float64], grid: Grid, order: int) -> NDArray:
    image = nib.Nifti1Image(data, affine)
    out = resample_from_to(image, (grid.shape, grid.affine), order=order, mode="constant", cval=0)
    return np.asarray(out.dataobj)


def straightened(volume: Volume, order: int = 1) -> Volume:
    """A volume with its voxel axes at right angles; as it is where they are.

    Planes across the coarsest axis stay whole and are shifted in themselves alone, which undoes a gantry
    tilt without interpolating between thick slices.

    Args:
        volume: In the same world as the result.
        order: Of the interpolation, see `resample`; nothing is smoothed.
    """
    if not volume.grid.is_sheared:
        return volume
    grid = straight_grid(volume.grid)
    data = _interpolated(volume.data, volume.affine, grid, order).astype(volume.data.dtype)
    return replace(volume, data=data, affine=grid.affine)


def straightened_mask(mask: NDArray[np.bool_], volume: Volume) -> NDArray[np.bool_]:
    """A mask (X, Y, Z) of the voxels of a volume, on those of the straightened volume; nearest neighbour."""
    moved = straightened(volume.with_data(mask.astype(np.uint8)), order=0)
    return np.asarray(moved.data > 0)


def straight_grid(grid: Grid) -> Grid:
    """The least grid at right angles that holds every voxel centre of a sheared one.

    With the voxel axes as columns, the coarsest last, A = Q R: Q are the new axes and the diagonal of R
    the new voxel sizes [mm], so that the last coordinate of a voxel stays what it is.
    """
    coarsest_last = np.argsort(np.round(grid.spacing, 3), kind="stable")
    axes, upper = np.linalg.qr(grid.affine[:3, :3][:, coarsest_last])
    signs = np.sign(np.diag(upper))
    affine = np.eye(4)
    affine[:3, coarsest_last] = axes * signs * np.abs(np.diag(upper))
    affine[:3, 3] = grid.affine[:3, 3]
    corners = np.stack(np.meshgrid(*([0, n - 1] for n in grid.shape)), -1).reshape(-1, 3)
    found = corners @ (np.linalg.inv(affine[:3, :3]) @ grid.affine[:3, :3]).T
    low = np.floor(found.min(0) + 1e-3).astype(int)
    i, j, k = (int(n) for n in np.ceil(found.max(0) - 1e-3) - low + 1)
    affine[:3, 3] += affine[:3, :3] @ low
    return Grid((i, j, k), affine)


def to_model_grid(
    volume: Volume, grid: Grid, to_common: NDArray[np.float64], order: int
) -> NDArray:
    """Forward: scan space -> common space, on the model's grid."""
    return resample(volume, grid, to_common, order)


def from_model_grid(
    data: NDArray, model: Grid, target: Grid, to_common: NDArray[np.float64], order: int = 1
) -> NDArray:
    """Back: the model's grid in common space -> the scan's own voxels."""
    return resample(
        Volume(data, model.affine), target, np.linalg.inv(to_common).astype(np.float64), order
    )


def halved_grid(grid: Grid) -> Grid:
    """The same field of view in voxels of half the size."""
    x, y, z = grid.shape
    half = np.diag([0.5, 0.5, 0.5, 1.0])
    half[:3, 3] = -0.25
    return Grid((2 * x, 2 * y, 2 * z), grid.affine @ half)


def _band_limited(volume: Volume, grid: Grid, to_world: NDArray[np.float64]) -> NDArray[np.float32]:
    """Gaussian whose FWHM makes up the difference of the two voxel sizes along each axis."""
    from scipy.ndimage import gaussian_filter

    targets = _sizes_along(grid, to_world[:3, :3] @ volume.affine[:3, :3])
    pairs = zip(targets, volume.grid.spacing, strict=True)
    fwhm = [np.sqrt(max(target**2 - s**2, 0.0)) / s for target, s in pairs]
    sigma = [f / np.sqrt(8 * np.log(2)) for f in fwhm]
    data = volume.data.astype(np.float32)
    return gaussian_filter(data, sigma) if max(sigma) > 0.25 else data


def _sizes_along(grid: Grid, axes: NDArray[np.float64]) -> list[float]:
    """Voxel size [mm] of a grid along three directions, the columns of `axes`.

    That of the ellipsoid whose half axes are the voxel's edges: along an edge it is the edge, along others between.
    """
    sizes = np.asarray(grid.spacing)
    if np.ptp(sizes) <= 1e-3 * sizes.min():
        return [float(sizes.mean())] * 3
    along = (axes / np.linalg.norm(axes, axis=0)).T @ (grid.affine[:3, :3] / sizes)
    found: list[float] = np.sqrt(np.square(along * sizes).sum(1)).tolist()
    return found


#: Extent of every embedded model's grid [mm]; it holds an adult brain with some room around it.
FIELD_OF_VIEW = (160.0, 224.0, 160.0)


def model_grid(spacing: float = 2.0) -> Grid:
    """The grid of an embedded model of that spacing [mm], LAS, around the MNI152 brain.

    80 x 112 x 80 voxels for brain2mm, 160 x 224 x 160 for brain1mm. Raises VCMError where the field
    of view does not hold a multiple of 16 voxels along each axis.
    """
    x, y, z = (round(extent / spacing) for extent in FIELD_OF_VIEW)
    whole = np.allclose(np.multiply((x, y, z), spacing), FIELD_OF_VIEW)
    if not whole or x % 16 or y % 16 or z % 16:
        raise VCMError(
            f"A spacing of {spacing:g} mm does not divide the field of view of 160 x 224 x 160 mm into "
            "multiples of 16 voxels: choose 2 or 1."
        )
    return centred_grid((x, y, z), spacing, (0.0, -18.0, 6.0), "LAS")
