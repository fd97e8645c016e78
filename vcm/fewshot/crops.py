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


def crop_grid(
    random: np.random.Generator,
    size: Sequence[int],
    centre: NDArray[np.float64],
    image: NDArray[np.int_],
    motion: Motion,
    mirror: bool,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Where each voxel of a crop is read, as grid_sample wants it.

    Args:
        random: Of this crop.
        size: Of the crop [voxel].
        centre: Of the crop in the image [voxel], before it is shifted.
        image: Size of the image [voxel].
        motion: Ranges of what is drawn.
        mirror: Left and right are exchanged half of the time.
        device: Where the grid is made.

    Returns:
        (1, X, Y, Z, 3).
    """
    centre = centre + random.uniform(-motion.shift, motion.shift, 3)
    matrix = turned(random.uniform(-motion.turn, motion.turn, 3))
    matrix = matrix * np.exp(random.uniform(-motion.scale, motion.scale))
    if mirror and random.random() < 0.5:
        matrix[:, 0] *= -1
    # Grids lie on devices without float64 too.
    exact = torch.float32 if torch.device(device).type == "mps" else torch.float64

    def there(values: NDArray[np.float64]) -> Tensor:
        return torch.from_numpy(values).to(device, exact)

    axes = [torch.arange(n, dtype=exact, device=device) - (n - 1) / 2 for n in size]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    voxels = offsets @ there(matrix.T) + there(centre - 0.5)
    normalised = (2 * voxels + 1) / there(image.astype(float)) - 1
    return normalised.flip(-1)[None].float()


def turned(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation about x, then y, then z."""
    x, y, z = angles
    matrix: NDArray[np.float64] = Rotation.from_euler("xyz", (x, -y, z)).as_matrix()
    return matrix
