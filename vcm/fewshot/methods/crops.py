"""Where the voxels of a crop are read in a larger image: turned, scaled, shifted, mirrored.

Knows the geometry of grids alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor


@dataclass(frozen=True)
class Motion:
    """Ranges of what is drawn: turns about each axis [rad], logarithm of the scale, shifts [voxel]."""

    turn: float
    scale: float
    shift: float


def scaled(motion: Motion, strength: float) -> Motion:
    """The same ranges, times a strength."""
    return Motion(*(strength * r for r in (motion.turn, motion.scale, motion.shift)))


def crop_grid(
    random: np.random.Generator,
    size: Sequence[int],
    centre: NDArray[np.float64],
    image: NDArray[np.int_],
    motion: Motion,
    mirror: bool,
) -> Tensor:
    """Where each voxel of a crop is read, as grid_sample wants it.

    Args:
        random: Of this crop.
        size: Of the crop [voxel].
        centre: Of the crop in the image [voxel], before it is shifted.
        image: Size of the image [voxel].
        motion: Ranges of what is drawn.
        mirror: Left and right are exchanged half of the time.

    Returns:
        (1, X, Y, Z, 3).
    """
    matrix, centre = draw_motion(random, centre, motion, mirror)
    return crop_grids(size, matrix[None], centre[None], image)


def draw_motion(
    random: np.random.Generator, centre: NDArray[np.float64], motion: Motion, mirror: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Axes of a crop in the image (3, 3), in columns, and its centre (3,) [voxel]; see `crop_grid`."""
    centre = centre + random.uniform(-motion.shift, motion.shift, 3)
    matrix = turned(random.uniform(-motion.turn, motion.turn, 3))
    matrix = matrix * np.exp(random.uniform(-motion.scale, motion.scale))
    if mirror and random.random() < 0.5:
        matrix[:, 0] *= -1
    return matrix, centre


def crop_grids(
    size: Sequence[int],
    matrices: NDArray[np.float64],
    centres: NDArray[np.float64],
    image: NDArray[np.int_],
    device: torch.device | str = "cpu",
) -> Tensor:
    """Where each voxel of N crops is read, as grid_sample wants it.

    Args:
        size: Of the crops [voxel].
        matrices: See `draw_motion` (N, 3, 3).
        centres: Of the crops in the image [voxel] (N, 3).
        image: Size of the image [voxel].
        device: Where the grids are made.

    Returns:
        (N, X, Y, Z, 3), single precision.
    """
    # Products in single precision may be rounded to ten bits on a GPU, which is a part of a voxel.
    exact = torch.float32 if torch.device(device).type == "mps" else torch.float64

    def there(values: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(exact).to(device)

    axes = [torch.arange(n, dtype=exact, device=device) - (n - 1) / 2 for n in size]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 2)
    voxels = offsets @ there(matrices.transpose(0, 2, 1)) + there(centres - 0.5)[:, None]
    normalised = (2 * voxels + 1) / there(image.astype(float)) - 1
    return normalised.flip(-1).float().unflatten(1, tuple(size))


def nearest(labels: Tensor, grid: Tensor) -> Tensor:
    """Labels of a crop, 0 outside of the image: grid_sample of the nearest voxel for whole numbers.

    Args:
        labels: Of the image (1, X, Y, Z), whole numbers.
        grid: Where the crop is read (1, x, y, z, 3), see `crop_grid`.

    Returns:
        (1, x, y, z), of the type of the labels.
    """
    size = torch.tensor(labels.shape[1:])
    voxels = (((grid[0].flip(-1) + 1) * size - 1) / 2).round().long()
    inside = ((voxels >= 0) & (voxels < size)).all(-1)
    x, y, z = voxels.clamp(min=torch.zeros(3, dtype=torch.long), max=size - 1).unbind(-1)
    return (labels[0, x, y, z] * inside)[None]


def turned(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation about x, then y, then z."""
    x, y, z = angles
    matrix: NDArray[np.float64] = Rotation.from_euler("xyz", (x, -y, z)).as_matrix()
    return matrix
