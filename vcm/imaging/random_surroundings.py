"""What lies around a brain: layers of a head at random, for networks that are to read scans with their skull too.

Extraction of a brain leaves more or less of it. Shapes are layers of random thickness, nobody's head. Knows arrays
and their generator alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

from vcm.imaging.random_tumour import smooth_noise

Random = np.random.Generator

#: Layers by their number in a map.
FLUID, BONE, FAT, MUSCLE = 1, 2, 3, 4
LAYERS = (FLUID, BONE, FAT, MUSCLE)
#: Thickness of fluid and dura, bone and fat [mm], how far each wanders [shares of it], and over what width [mm].
FLUID_MM, BONE_MM, FAT_MM, WANDER, WAVES = (0.5, 4.0), (3.0, 9.0), (2.0, 8.0), 0.4, 12.0
#: Share of the brains with their head, with a rim that extraction left, and without their outermost voxels; the others
#: are extracted as their label maps say.
HEAD, RIM, TIGHT = 0.2, 0.25, 0.05
#: What extraction leaves of a head [mm].
LEFT = (1.0, 5.0)
#: Depth of muscle under the fat where the base of the skull is, and the share of the field of view that is base.
MUSCLE_MM, BASE = 40.0, 0.35


def draw_surroundings(
    brain: NDArray[np.bool_], spacing: float, random: Random
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Layers around a brain, and the brain as extraction gives it.

    Args:
        brain: (X, Y, Z), the last axis upwards.
        spacing: Of the isotropic voxels [mm].
        random: What the draw depends on, and nothing else.

    Returns:
        The numbers of LAYERS (X, Y, Z), 0 in the brain and where nothing is shown; and the brain that is shown.
    """
    kind = random.random()
    none = np.zeros(brain.shape, np.uint8)
    if kind < TIGHT and brain.any():
        return none, np.asarray(binary_erosion(brain))
    if kind >= TIGHT + RIM + HEAD or not brain.any():
        return none, brain
    away = distance_transform_edt(~brain) * spacing
    waves = smooth_noise(brain.shape, WAVES / spacing, random)
    wander = 1 + WANDER * np.clip(waves, -2, 2)
    fluid = random.uniform(*FLUID_MM) * wander
    bone = fluid + random.uniform(*BONE_MM) * wander[::-1]
    fat = bone + random.uniform(*FAT_MM) * wander[:, ::-1]
    base = np.arange(brain.shape[2]) < BASE * brain.shape[2] * random.uniform(0.5, 1.3)
    muscle = np.where(base, fat + random.uniform(0, MUSCLE_MM), fat)
    layers = np.select(
        [brain, away <= fluid, away <= bone, away <= fat, away <= muscle],
        [0, FLUID, BONE, FAT, MUSCLE],
    ).astype(np.uint8)
    if kind < TIGHT + RIM:
        layers[away > random.uniform(*LEFT)] = 0
    return layers, brain
