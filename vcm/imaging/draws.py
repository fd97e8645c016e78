"""How training draws thick slices of a scan: direction, spacing, thickness, profile, noise, gains and tilt.

A head never lies along its slices, and no two slices of a real scan are quite as bright: odd and even ones
are measured in turns. Every draw is a function of the generator alone.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial.transform import Rotation

from vcm.imaging.acquisition import SLICE_NAMES, Acquisition, ProfileKind
from vcm.imaging.conditions import IMAGE_CONDITIONS, as_condition, check_conditions
from vcm.imaging.degradation import simulate_thick
from vcm.imaging.geometry import IDENTITY, resample
from vcm.imaging.partial import as_partial
from vcm.imaging.thick import as_thick
from vcm.imaging.volume import Grid, Volume

#: Slice spacing [mm] that is drawn between these, above 1.5 voxels.
SPACING = (2.0, 8.0)
#: Slice thickness over slice spacing: gaps below 1, overlap above.
FILL = (0.7, 1.2)
#: Share of draws with a tilt, and standard deviations [degrees] of its rotations about R, A and S:
#: nodding most.
TILTED, TILT = 0.5, (8.0, 3.0, 3.0)
#: Share of draws whose slices differ in gain, and by how much they then may: each slice for itself
#: (standard deviation), and odd from even ones.
UNEVEN, GAIN, ODD_GAIN = 0.5, 0.01, 0.02
#: What a draw depends on besides its generator.
SETTINGS = (SPACING, FILL, TILTED, TILT, UNEVEN, GAIN, ODD_GAIN)

Random = np.random.Generator


def draw_thick(
    image: NDArray[np.float32], grid: Grid, random: Random
) -> tuple[Volume, Acquisition]:
    """Cut an image into thick slices along its axes, axial more often than not.

    Args:
        image: (X, Y, Z) intensities.
        grid: Of the image.
        random: What every draw depends on, and nothing else.

    Returns:
        The thick scan about the image's centre, and how it was cut.
    """
    axis = SLICE_NAMES[random.choice(3, p=(0.2, 0.2, 0.6))]
    spacing = random.uniform(max(SPACING[0], 1.5 * max(grid.spacing)), SPACING[1])
    kinds = get_args(ProfileKind)
    profile: ProfileKind = kinds[random.integers(len(kinds))]
    thick, acquisition = simulate_thick(
        Volume(image, grid.affine), axis, spacing, spacing * random.uniform(*FILL), profile,
        noise=random.uniform(0, 0.02), random=random,
    )  # fmt: skip
    gains = draw_gains(thick.data.shape[acquisition.axis], random)
    shape = [1, 1, 1]
    shape[acquisition.axis] = -1
    return thick.with_data(thick.data * gains.reshape(shape)), acquisition


def draw_gains(count: int, random: Random) -> NDArray[np.float32]:
    """Factors of brightness, since no two slices of a real scan are quite as bright.

    Args:
        count: Slices.
        random: See `draw_thick`.

    Returns:
        (count,) what each slice is multiplied by; 1 for all of them in every other draw.
    """
    uneven = random.random() < UNEVEN
    own = random.uniform(0, GAIN) * random.standard_normal(count)
    odd = random.uniform(-ODD_GAIN, ODD_GAIN) * (np.arange(count) % 2 - 0.5)
    return (1 + uneven * (own + odd)).astype(np.float32)


def draw_tilt(grid: Grid, random: Random) -> NDArray[np.float64]:
    """A head does not lie along its slices.

    Args:
        grid: About whose centre it is turned.
        random: See `draw_thick`.

    Returns:
        (4, 4) rotation, RAS+ -> RAS+ [mm]; the identity in every other draw.
    """
    turned = random.random() < TILTED
    angles = turned * random.normal(0, TILT)
    tilt = np.eye(4)
    tilt[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    tilt[:3, 3] = grid.centre - tilt[:3, :3] @ grid.centre
    return tilt


def tilted(volume: Volume, tilt: NDArray[np.float64]) -> Volume:
    """The same head on voxels that `tilt` has turned; as it is where that turns nothing."""
    if np.array_equal(tilt, IDENTITY):
        return volume
    own = Grid(volume.grid.shape, tilt @ volume.affine)
    return Volume(resample(volume, own).astype(np.float32), own.affine)


#: What `partial` may leave known: the outermost layer of the brain, one side of a plane, all but a box.
PARTS = ("shell", "side", "surround")


#: Ranges that training draws from [mm].
SHELL, BOX = (6.0, 16.0), (30.0, 80.0)


def draw_condition(
    name: str,
    classes: NDArray[np.uint8] | None,
    image: NDArray[np.float32] | None,
    grid: Grid,
    random: Random,
) -> NDArray[np.float32]:
    """Draw a condition of one subject for training.

    Args:
        name: Of the condition, see `vcm.imaging.conditions.CONDITION_CHANNELS`.
        classes: (X, Y, Z) of 0..8; None where the condition is not made of them.
        image: (X, Y, Z) in 0..1; None where the condition is not made of it.
        grid: Of the model, on which both lie.
        random: See `draw_thick`.

    Returns:
        (C, X, Y, Z).
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


def draw_known(brain: NDArray[np.bool_], grid: Grid, random: Random) -> NDArray[np.bool_]:
    """Draw which part of a scan is given: its shell, one side of a plane, or all but a box.

    Args:
        brain: (X, Y, Z) where the brain is.
        grid: Of the scan.
        random: See `draw_thick`.

    Returns:
        (X, Y, Z) True where the scan is given. Background always is, except beyond a plane.
    """
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
