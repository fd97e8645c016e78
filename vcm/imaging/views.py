"""Slices of a volume in three views, and the place of their pixels.

A view is named by the axis that its slices are taken across: on a grid whose axes run left-right,
posterior-anterior and inferior-superior these are sagittal, coronal and axial slices. Knows arrays and
their axes; nothing of networks or labels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: In the order of the axes that the slices are taken across.
VIEWS = ("sagittal", "coronal", "axial")


def slices(volume: NDArray, view: str) -> NDArray:
    """A view of the volume, without a copy.

    Args:
        volume: (X, Y, Z).
        view: One of VIEWS.

    Returns:
        (N, H, W): N slices, the two other axes in their order.
    """
    return np.moveaxis(volume, VIEWS.index(view), 0)


def from_slices(stack: NDArray, view: str) -> NDArray:
    """Back from (N, H, W, ...) slices of a view to (X, Y, Z, ...), without a copy."""
    return np.moveaxis(stack, 0, VIEWS.index(view))


def places(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Place of every voxel of a grid along its three axes.

    Returns:
        (3, X, Y, Z) in -1..1: -1 at the first voxel of an axis, 1 at the last.
    """
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def place_slices(shape: tuple[int, int, int], view: str) -> NDArray[np.float32]:
    """`places`, cut like the volume: (N, 3, H, W) for the slices of a view."""
    moved = np.moveaxis(places(shape), 1 + VIEWS.index(view), 1)
    return np.moveaxis(moved, 0, 1)
