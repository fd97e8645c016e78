"""A tumour of three parts at a random place, for networks that are to tell the parts from tissue. Knows arrays alone.

Shapes are those of the literature on gliomas in words (a core that does not enhance, a rim or patches that do,
oedema that follows white matter); none is a patient's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from vcm.imaging.vocabulary import CLASS_NAMES

Random = np.random.Generator

#: The parts, by their number in a map.
CORE, OEDEMA, ENHANCING = 1, 2, 3
PARTS = {CORE: "core", OEDEMA: "oedema", ENHANCING: "enhancing"}
_WHITE = CLASS_NAMES.index("white matter")
#: What a tumour begins in and oedema spreads through, and what mostly stops a tumour.
_TISSUE = [
    CLASS_NAMES.index(n) for n in CLASS_NAMES if "matter" in n or n in ("hippocampus", "amygdala")
]
_SPARED = [CLASS_NAMES.index("ventricles"), CLASS_NAMES.index("brainstem")]
SPARES = 0.8
#: Radius [mm], how far the surface wanders from a ball and over what width [shares of the radius], and by how
#: much the squared distances along the axes differ.
RADIUS, WANDER, WAVES, DRAWN_OUT = (5.0, 28.0), (0.1, 0.4), (0.25, 0.6), (0.6, 1.5)
#: Share of tumours with a core in a rim that enhances, and of those that enhance throughout; the others hardly do.
RIMMED, SOLID = 0.55, 0.2
#: Width of the rim [mm], share of tumours with oedema, its reach [shares of the radius], and the share of those
#: whose oedema follows white matter alone.
RIM, WITH_OEDEMA, REACH, FOLLOWS_WHITE = (1.5, 6.0), 0.85, (0.15, 1.2), 0.6


def smooth_noise(shape: tuple[int, ...], width: float, random: Random) -> NDArray[np.float32]:
    """White noise (X, Y, Z), smoothed with that standard deviation [voxel], of unit variance."""
    noise = gaussian_filter(random.standard_normal(shape, dtype=np.float32), width)
    return np.asarray(noise / max(float(noise.std()), 1e-6), dtype=np.float32)


def draw_tumour(classes: NDArray[np.uint8], spacing: float, random: Random) -> NDArray[np.uint8]:
    """One tumour somewhere in the tissue of a brain.

    Args:
        classes: (X, Y, Z) of 0..8, 0 outside of the brain.
        spacing: Of the isotropic voxels [mm].
        random: What the draw depends on, and nothing else.

    Returns:
        (X, Y, Z), the numbers of PARTS, 0 elsewhere; nothing but 0 where there is no tissue.
    """
    parts = np.zeros(classes.shape, np.uint8)
    tissue = np.isin(classes, _TISSUE)
    places = np.argwhere(tissue)
    if not len(places):
        return parts
    centre = places[int(random.integers(len(places)))]
    radius = random.uniform(*RADIUS)
    depth = _depth(classes.shape, centre, radius, spacing, random)
    whole = (depth > 0) & (classes > 0)
    if random.random() < SPARES:
        whole &= ~np.isin(classes, _SPARED)
    patches = smooth_noise(classes.shape, random.uniform(1, 3), random)
    kind = random.random()
    if kind < RIMMED:
        core = (depth > random.uniform(*RIM)) & (patches > random.uniform(-2, 0.3))
        if random.random() < 0.5:  # a part of the rim does not enhance
            core |= patches > random.uniform(0.5, 2)
    elif kind < RIMMED + SOLID:
        core = patches > random.uniform(1, 3)
    else:
        core = np.ones_like(whole)
        if random.random() < 0.4:  # a patch enhances
            core = patches <= random.uniform(1.2, 2.5)
    parts[whole] = np.where(core, CORE, ENHANCING)[whole]
    if random.random() < WITH_OEDEMA:
        fingers = smooth_noise(classes.shape, random.uniform(2, 4), random)
        near = -depth < random.uniform(*REACH) * radius * (1 + 0.5 * fingers)
        through = classes == _WHITE if random.random() < FOLLOWS_WHITE else tissue
        parts[near & through & (parts == 0)] = OEDEMA
    return parts


def _depth(
    shape: tuple[int, ...], centre: NDArray[np.int64], radius: float, spacing: float, random: Random
) -> NDArray[np.float32]:
    """How far a voxel lies inside a ball drawn out along its axes, with a wandering surface [mm]."""
    squares = [
        (spacing * (np.arange(n, dtype=np.float32) - c)) ** 2 / random.uniform(*DRAWN_OUT)
        for n, c in zip(shape, centre, strict=True)
    ]
    distance = np.sqrt(
        squares[0][:, None, None] + squares[1][None, :, None] + squares[2][None, None, :]
    )
    waves = smooth_noise(shape, random.uniform(*WAVES) * radius / spacing, random)
    wander = np.float32(random.uniform(*WANDER))
    return np.asarray(radius * (1 + wander * waves) - distance, dtype=np.float32)
