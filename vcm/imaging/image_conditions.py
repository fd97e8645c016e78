"""Conditions made of an image: a part of it, or the image as thick slices would show it.

Each has two channels: values in 0..1, 0 where unknown, and 1 where they are known. Training draws
which part is known, or how the slices lie; every draw is a function of the generator alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from vcm.imaging.acquisition import Acquisition
from vcm.imaging.conditions import as_condition, check_conditions
from vcm.imaging.geometry import IDENTITY, resample
from vcm.imaging.thick_draws import draw_thick, draw_tilt, tilted
from vcm.imaging.volume import Grid, Volume

#: Conditions that are made of the scan itself rather than of its label map.
IMAGE_CONDITIONS = ("partial", "thick")
#: What `partial` may leave known: the outermost layer of the brain, one side of a plane, all but a box.
PARTS = ("shell", "side", "surround")
#: Ranges that training draws from [mm].
SHELL, BOX = (6.0, 16.0), (30.0, 80.0)

Random = np.random.Generator


def draw_condition(
    name: str,
    classes: NDArray[np.uint8] | None,
    image: NDArray[np.float32] | None,
    grid: Grid,
    random: Random,
) -> NDArray[np.float32]:
    """The condition of that name (C, X, Y, Z) for one subject on the model's grid.

    classes and image (X, Y, Z) may be None where the condition is not made of them.
    """
    check_conditions([name])
    if name not in IMAGE_CONDITIONS:
        assert classes is not None
        return as_condition(name, classes)
    assert image is not None
    if name == "partial":
        return as_partial(image, draw_known(image > 0, grid, random))
    along = tilted(Volume(image, grid.affine), draw_tilt(grid, random))
    thick, acquisition = draw_thick(along.data, along.grid, random)
    return as_thick(thick, acquisition, grid)


def as_partial(image: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(2, X, Y, Z): the image where it is known, and where that is."""
    return np.stack([np.where(known, image, 0), known]).astype(np.float32)


def as_thick(
    thick: Volume,
    acquisition: Acquisition,
    grid: Grid,
    to_world: NDArray[np.float64] = IDENTITY,
) -> NDArray[np.float32]:
    """(2, X, Y, Z): the thick scan interpolated to `grid`, and each voxel's nearness to a slice.

    Nearness is 1 at a slice's centre and 0 halfway between two, linear; 0 outside the scan.
    """
    steps = np.linalg.inv(thick.affine) @ np.linalg.inv(to_world) @ grid.affine
    if _along_one_axis(steps, thick, acquisition.axis, grid):
        return _interpolated(thick, steps, acquisition.axis, grid)
    values = resample(thick.with_data(thick.data.astype(np.float32)), grid, to_world, order=1)
    index = _index_of_slice(steps, thick, acquisition.axis, grid)
    return np.stack([np.clip(values, 0, 1), _nearness(index)]).astype(np.float32)


def _index_of_slice(steps: NDArray, thick: Volume, axis: int, grid: Grid) -> NDArray[np.float32]:
    """Between which slices each voxel of `grid` lies, counted from 0; -1 outside the scan."""
    i, j, k = np.ogrid[tuple(slice(n) for n in grid.shape)]
    places = [(a * i + b * j + c * k + d).astype(np.float32) for a, b, c, d in steps[:3]]
    outside = np.zeros(grid.shape, bool)
    for place, count in zip(places, thick.data.shape, strict=True):
        outside |= (place < 0) | (place > count - 1)
    return np.where(outside, np.float32(-1), places[axis])


def _nearness(index: NDArray) -> NDArray:
    """Slice index, below 0 outside -> 1 at a slice, 0 halfway between two and outside."""
    return np.where(index >= 0, 1 - 2 * np.abs(index - np.rint(index)), 0)


def _along_one_axis(steps: NDArray, thick: Volume, axis: int, grid: Grid) -> bool:
    """Whether voxels of `grid` are those of the thick scan but for their place across the slices."""
    expected = np.eye(4)
    expected[axis, [axis, 3]] = steps[axis, [axis, 3]]
    own = [n for k, n in enumerate(thick.data.shape) if k != axis]
    other = [n for k, n in enumerate(grid.shape) if k != axis]
    return own == other and bool(np.allclose(steps, expected, atol=1e-4))


def _interpolated(thick: Volume, steps: NDArray, axis: int, grid: Grid) -> NDArray[np.float32]:
    """`as_thick` by linear interpolation along one axis, which costs next to nothing."""
    count, last = grid.shape[axis], thick.data.shape[axis] - 1
    index = steps[axis, axis] * np.arange(count) + steps[axis, 3]
    inside = (index > -1e-6) & (index < last + 1e-6)
    held = np.clip(index, 0, last)
    low = np.minimum(held.astype(int), last - 1)
    part = (held - low).astype(np.float32)
    across = [1, 1, 1]
    across[axis] = -1
    data = thick.data.astype(np.float32)
    first, second = data.take(low, axis), data.take(low + 1, axis)
    values = (first + (second - first) * part.reshape(across)) * inside.reshape(across)
    nearness = _nearness(np.where(inside, held, -1)).astype(np.float32).reshape(across)
    return np.stack([np.clip(values, 0, 1), np.broadcast_to(nearness, values.shape)])


def draw_known(brain: NDArray[np.bool_], grid: Grid, random: Random) -> NDArray[np.bool_]:
    """Which voxels of a scan stay known; background always does, except beyond a plane."""
    part = PARTS[random.integers(len(PARTS))]
    if part == "shell":
        depth = random.uniform(*SHELL)
        return np.asarray(distance_transform_edt(brain, sampling=grid.spacing) <= depth)
    axes = [np.arange(n) * s for n, s in zip(brain.shape, grid.spacing, strict=True)]
    if part == "side":
        along = int(random.integers(3))
        middle = axes[along][len(axes[along]) // 2] + random.uniform(-20, 20)
        beyond = (axes[along] > middle) == (random.random() < 0.5)
        shape = [1, 1, 1]
        shape[along] = -1
        return np.broadcast_to(beyond.reshape(shape), brain.shape).copy()
    centre = np.argwhere(brain)[random.integers(max(int(brain.sum()), 1))] * grid.spacing
    sizes = random.uniform(*BOX, 3)
    inside = [np.abs(a - c) < s / 2 for a, c, s in zip(axes, centre, sizes, strict=True)]
    box: NDArray[np.bool_] = inside[0][:, None, None] & inside[1][:, None] & inside[2]
    return ~box
