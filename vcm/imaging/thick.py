"""Conditions made of an image: a part of it, or the image as thick slices would show it.

Each has two channels: values in 0..1, 0 where unknown, and 1 where they are known. Training draws
which part is known, or how the slices lie; every draw is a function of the generator alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vcm.imaging.acquisition import Acquisition
from vcm.imaging.geometry import IDENTITY, resample
from vcm.imaging.volume import Grid, Volume

Random = np.random.Generator
#: Steps below this [voxel per voxel] are rounding of the affines: axes that are parallel.
ROUNDING = 1e-9


def as_thick(
    thick: Volume,
    acquisition: Acquisition,
    grid: Grid,
    to_world: NDArray[np.float64] = IDENTITY,
    lost: Sequence[int] = (),
) -> NDArray[np.float32]:
    """(2, X, Y, Z): the thick scan interpolated to `grid`, and each voxel's nearness to a slice.

    Nearness is 1 at a slice's centre and 0 halfway between two, linear; 0 outside the scan, and where
    the nearest slice is one of `lost`, which hold no measurement.
    """
    steps = _steps(thick, grid, to_world)
    if _along_one_axis(steps, thick, acquisition.axis, grid):
        return _interpolated(thick, steps, acquisition.axis, grid, lost)
    values = resample(thick.with_data(thick.data.astype(np.float32)), grid, to_world, order=1)
    nearness = nearness_to_slices(thick, acquisition, grid, to_world, lost)
    return np.stack([np.clip(values, 0, 1), nearness]).astype(np.float32)


def nearness_to_slices(
    thick: Volume,
    acquisition: Acquisition,
    grid: Grid,
    to_world: NDArray[np.float64] = IDENTITY,
    lost: Sequence[int] = (),
) -> NDArray[np.float32]:
    """(X, Y, Z): the second channel of `as_thick` alone, which needs no interpolation."""
    steps = _steps(thick, grid, to_world)
    axis = acquisition.axis
    if _along_one_axis(steps, thick, axis, grid):
        inside, inner = _place_across(steps, thick, axis, grid)
        nearness = _nearness(np.where(inside, inner, -1), lost).astype(np.float32)
        return np.broadcast_to(nearness.reshape(_along(axis)), grid.shape)
    return _nearness(_index_of_slice(steps, thick, axis, grid), lost).astype(np.float32)


def _steps(thick: Volume, grid: Grid, to_world: NDArray[np.float64]) -> NDArray[np.float64]:
    """Voxels of `grid` -> voxels of the thick scan."""
    return np.linalg.inv(thick.affine) @ np.linalg.inv(to_world) @ grid.affine


def _index_of_slice(steps: NDArray, thick: Volume, axis: int, grid: Grid) -> NDArray[np.float32]:
    """Between which slices each voxel of `grid` lies, counted from 0; -1 outside the scan."""
    places = [_place(row, grid).astype(np.float32) for row in steps[:3]]
    outside = np.zeros(grid.shape, bool)
    for place, count in zip(places, thick.data.shape, strict=True):
        outside |= (place < 0) | (place > count - 1)
    return np.where(outside, np.float32(-1), places[axis])


def _place(row: NDArray[np.float64], grid: Grid) -> NDArray[np.float64]:
    """One coordinate of each voxel of `grid`, constant (length 1) along the axes that do not change it."""
    counts = np.ogrid[tuple(slice(n) for n in grid.shape)]
    moved = [step * n for step, n in zip(row[:3], counts, strict=True) if abs(step) > ROUNDING]
    return np.asarray(sum(moved) + row[3])


def _nearness(index: NDArray, lost: Sequence[int]) -> NDArray:
    """Slice index, below 0 outside -> 1 at a slice, 0 halfway between two, at lost ones and outside."""
    nearest = np.rint(index)
    known = (index >= 0) & ~np.isin(nearest, lost) if lost else index >= 0
    return np.where(known, 1 - 2 * np.abs(index - nearest), 0)


def _along_one_axis(steps: NDArray, thick: Volume, axis: int, grid: Grid) -> bool:
    """Whether voxels of `grid` are those of the thick scan but for their place across the slices."""
    expected = np.eye(4)
    expected[axis, [axis, 3]] = steps[axis, [axis, 3]]
    own = [n for k, n in enumerate(thick.data.shape) if k != axis]
    other = [n for k, n in enumerate(grid.shape) if k != axis]
    return own == other and bool(np.allclose(steps, expected, atol=1e-4))


def _interpolated(
    thick: Volume, steps: NDArray, axis: int, grid: Grid, lost: Sequence[int]
) -> NDArray[np.float32]:
    """`as_thick` by linear interpolation along one axis, which costs next to nothing."""
    inside, inner = _place_across(steps, thick, axis, grid)
    low = np.minimum(inner.astype(int), thick.data.shape[axis] - 2)
    part = (inner - low).astype(np.float32)
    across = _along(axis)
    data = thick.data.astype(np.float32)
    first, second = data.take(low, axis), data.take(low + 1, axis)
    values = (first + (second - first) * part.reshape(across)) * inside.reshape(across)
    nearness = _nearness(np.where(inside, inner, -1), lost).astype(np.float32).reshape(across)
    return np.stack([np.clip(values, 0, 1), np.broadcast_to(nearness, values.shape)])


def _place_across(
    steps: NDArray, thick: Volume, axis: int, grid: Grid
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """For each plane of `grid` across the slices: whether the scan shows it, and its place [slice], within them."""
    last = thick.data.shape[axis] - 1
    index = steps[axis, axis] * np.arange(grid.shape[axis]) + steps[axis, 3]
    return (index > -1e-6) & (index < last + 1e-6), np.clip(index, 0, last)


def _along(axis: int) -> tuple[int, int, int]:
    """Shape of a vector along one axis of a volume."""
    x, y, z = (-1 if k == axis else 1 for k in range(3))
    return x, y, z
