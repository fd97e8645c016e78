"""Lesions and masses at random places, for networks that must not paint them healthy. Knows arrays alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Random = np.random.Generator

#: Largest share of the white matter that is lesion; smoothing [voxel] of the noise whose peaks lesions are.
MOST, SIZE = 0.04, (0.7, 2.0)
#: Width of a lesion's soft border, in standard deviations of that noise.
BORDER = 0.4
#: Radius of a mass [mm], how far its surface wanders from a ball and over what width [shares of the radius].
RADIUS, WANDER, WAVES = (5.0, 28.0), 0.35, (0.25, 0.6)
#: Width of a mass's soft border [mm], share of masses with a core, and the core's size as a share.
SOFT, CORED, CORE = (1.0, 4.0), 0.7, (0.3, 0.8)


class Mass(NamedTuple):
    """A mass such as a tumour, (X, Y, Z) each, 0..1.

    Attributes:
        whole: How far a voxel lies in it, with what lies around its core.
        core: How far it lies in its core; 0 everywhere where it has none.
    """

    whole: NDArray[np.float32]
    core: NDArray[np.float32]


def draw_lesions(white: NDArray[np.bool_], random: Random) -> NDArray[np.float32]:
    """Soft blobs in white matter.

    Args:
        white: (X, Y, Z) where it is.
        random: What the draw depends on, and nothing else.

    Returns:
        (X, Y, Z), 1 inside lesions, 0 outside, between at their borders.
    """
    noise = random.standard_normal(white.shape, dtype=np.float32)
    field = gaussian_filter(noise, random.uniform(*SIZE))
    share = MOST * random.random() ** 2
    if not white.any():
        return np.zeros(white.shape, np.float32)
    inside = field[white]
    least, width = np.quantile(inside, 1 - share), BORDER * float(inside.std())
    return np.asarray(np.clip((field - least) / max(width, 1e-6), 0, 1) * white, dtype=np.float32)


def draw_mass(brain: NDArray[np.bool_], spacing: float, random: Random) -> Mass:
    """One ball with a wandering surface, somewhere in the brain.

    Args:
        brain: (X, Y, Z) where it is.
        spacing: Of the voxels [mm].
        random: What the draw depends on, and nothing else.
    """
    places = np.argwhere(brain)
    if not len(places):
        nothing = np.zeros(brain.shape, np.float32)
        return Mass(nothing, nothing)
    centre = places[int(random.integers(len(places)))]
    radius = random.uniform(*RADIUS)
    waves = random.uniform(*WAVES) * radius / spacing
    noise = gaussian_filter(random.standard_normal(brain.shape, dtype=np.float32), waves)
    noise /= max(float(noise.std()), 1e-6)
    squares = [
        (spacing * (np.arange(n, dtype=np.float32) - c)) ** 2
        for n, c in zip(brain.shape, centre, strict=True)
    ]
    distance = np.sqrt(
        squares[0][:, None, None] + squares[1][None, :, None] + squares[2][None, None, :]
    )
    depth = radius * (1 + np.float32(WANDER) * noise) - distance
    soft = random.uniform(*SOFT)
    whole = np.clip(depth / soft + 0.5, 0, 1) * brain
    core = np.zeros_like(whole)
    if random.random() < CORED:
        within = (1 - random.uniform(*CORE)) * radius
        core = np.clip((depth - within) / soft + 0.5, 0, 1) * brain
    return Mass(whole.astype(np.float32), core.astype(np.float32))
