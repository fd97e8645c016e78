"""Deformed and re-contrasted copies of a labelled scan, so that one subject stands for many.

Transforms are MONAI's; a copy is a function of its seed alone.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import torch
from monai.transforms import (
    Compose,
    Rand3DElasticd,
    RandAdjustContrastd,
    RandBiasFieldd,
    RandGaussianNoised,
    RandGaussianSmoothd,
)
from numpy.typing import NDArray
from torch import Tensor

#: Widths [voxel] of the smooth deformations, coarse and fine, and how far they reach: offsets drawn in
#: -1..1 are smoothed by a Gaussian of that width and multiplied.
ELASTIC = (((7.0, 9.0), (300.0, 600.0)), ((4.0, 5.0), (60.0, 110.0)))
#: Largest rotation about each axis [rad], change of size, and shift [voxel].
ROTATION, SCALE, SHIFT = 0.14, 0.08, 2.0
#: Range of the exponent of the contrast, largest standard deviation of the noise.
GAMMA, NOISE = (0.74, 1.35), 0.03


def warped_copy(
    image: NDArray[np.float32], labels: NDArray[np.int16], seed: int, unlabelled: int = -1
) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """A copy of a scan and its labels.

    Args:
        image: (X, Y, Z) in 0..1, 0 outside the brain.
        labels: (X, Y, Z), `unlabelled` where unknown.
        seed: Of the copy; odd ones are deformed finely, even ones coarsely.
        unlabelled: What fills the labels from beyond the volume.

    Returns:
        Both, deformed alike (linear and nearest neighbour); the image in 0..1, re-contrasted.
    """
    width, reach = ELASTIC[seed % 2]
    deform = Rand3DElasticd(
        keys=("image", "labels"), sigma_range=width, magnitude_range=reach, prob=1.0,
        rotate_range=(ROTATION,) * 3, scale_range=(SCALE,) * 3, translate_range=(SHIFT,) * 3,
        mode=("bilinear", "nearest"), padding_mode="zeros",
    )  # fmt: skip
    contrast = Compose(
        [
            RandBiasFieldd("image", degree=3, coeff_range=(-0.15, 0.15), prob=1.0),
            RandAdjustContrastd("image", prob=1.0, gamma=GAMMA),
            RandGaussianSmoothd("image", (0.3, 0.7), (0.3, 0.7), (0.3, 0.7), prob=0.5),
            RandGaussianNoised("image", prob=1.0, std=NOISE),
        ]
    )
    deform.set_random_state(seed)
    contrast.set_random_state(seed)
    # Labels are shifted so that 0, which padding writes, means unknown.
    given: dict[Hashable, Tensor] = {
        "image": torch.from_numpy(image)[None],
        "labels": torch.from_numpy(labels.astype(np.float32) - unlabelled)[None],
    }
    moved = deform(given)
    # MONAI's intensities reach beyond the brain too, where there is nothing.
    brain = np.asarray(moved["image"][0]) > 0
    changed = np.asarray(contrast({"image": moved["image"]})["image"][0], dtype=np.float32)
    found = np.rint(np.asarray(moved["labels"][0])).astype(np.int16) + np.int16(unlabelled)
    return np.where(brain, changed.clip(0, 1), 0).astype(np.float32), found
