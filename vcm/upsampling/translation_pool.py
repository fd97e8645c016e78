"""Training pairs of a translator: a T1w brain, and a scan of it in random contrast and resolution.

Knows prepared T1w scans with their class maps, on one grid of common space; nothing of networks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from vcm.imaging.brain import to_unit_range
from vcm.imaging.conditions import CSF
from vcm.imaging.deformation import DeformationSizes
from vcm.imaging.random_contrast import painted, recoloured, with_bias_field
from vcm.imaging.random_lesions import draw_lesions
from vcm.imaging.scan_pool import ScanPool

Random = np.random.Generator
Image = NDArray[np.float32]

WHITE_MATTER = 1
#: Share of brains with lesions, of scans that are painted by class in part, of brains without the fluid
#: around them, and of scans of thick slices.
LESIONS, PAINTED, WITHOUT_FLUID, THICK = 0.5, 0.4, 0.2, 0.7
#: By which share a lesion darkens a T1w scan, and what it adds to a scan of another contrast.
DARKER, ADDS = (0.1, 0.5), (-0.5, 0.6)
#: Full width at half maximum of slices [mm], in plane [mm], and of a Gaussian in standard deviations.
SLICES, IN_PLANE, FWHM = (1.0, 8.0), 2.0, 2.355
#: Most noise, as a share of the brain's range.
NOISE = 0.06
#: The darkest voxel of a brain, which tells it from air.
DARKEST = 1e-3


class TranslationBatch(NamedTuple):
    """B brains, each (B, 1, X, Y, Z).

    Attributes:
        scan: In any contrast, in 0..1.
        truth: In T1w, in 0..1.
        brain: 1 in the brain.
    """

    scan: Tensor
    truth: Tensor
    brain: Tensor


def draw_brains(
    pool: ScanPool, sizes: DeformationSizes, batch_size: int, random: Random
) -> TranslationBatch:
    """Deformed brains of the pool, and a scan of each.

    Args:
        pool: Of T1w scans.
        sizes: Of the deformations.
        batch_size: B.
        random: What the draw depends on, and nothing else.
    """
    brains = pool.make(pool.draw(batch_size, sizes, random))
    drawn = [
        draw_pair(image.numpy(), classes.numpy(), pool.grid.spacing[0], random)
        for image, classes in zip(brains.images[:, 0], brains.classes[:, 0], strict=True)
    ]
    return TranslationBatch(
        *(torch.from_numpy(np.stack(v))[:, None] for v in zip(*drawn, strict=True))
    )


def draw_pair(
    t1w: Image, classes: NDArray[np.uint8], spacing: float, random: Random
) -> tuple[Image, Image, Image]:
    """A scan of a brain in random contrast and resolution, its T1w image, and where its brain is.

    Args:
        t1w: (X, Y, Z) in 0..1.
        classes: (X, Y, Z) of 0..8.
        spacing: Of the voxels [mm].
        random: What the draw depends on, and nothing else.
    """
    brain = classes > 0
    if random.random() < WITHOUT_FLUID:
        brain = brain & (classes != CSF)
    lesions = np.zeros_like(t1w)
    if random.random() < LESIONS:
        lesions = draw_lesions(classes == WHITE_MATTER, random)
    t1w = t1w * (1 - np.float32(random.uniform(*DARKER)) * lesions)
    scan = recoloured(t1w, random)
    if random.random() < PAINTED:
        share = np.float32(random.random())
        scan = share * painted(classes, random) + (1 - share) * scan
    scan = scan + np.float32(random.uniform(*ADDS)) * lesions
    scan = with_bias_field(scan, random)
    scan = _blurred(np.where(brain, scan, 0).astype(np.float32), spacing, random)
    scan = scan + np.float32(NOISE * random.random() ** 2) * random.standard_normal(
        scan.shape, dtype=np.float32
    )
    return to_read(scan, brain)[0], np.where(brain, t1w, 0), brain.astype(np.float32)


def to_read(data: Image, brain: NDArray[np.bool_]) -> tuple[Image, tuple[float, float]]:
    """A scan as the translator reads it: 0..1 between percentiles of its brain, above 0 in the brain alone.

    Args:
        data: (X, Y, Z) any intensities.
        brain: (X, Y, Z).

    Returns:
        It, and the intensities that are 0 and 1 now.
    """
    scaled, units = to_unit_range(data, brain)
    return np.where(brain, np.maximum(scaled, np.float32(DARKEST)), 0).astype(np.float32), units


def _blurred(scan: Image, spacing: float, random: Random) -> Image:
    """What upsampled slices, thick along a random axis, show of an image."""
    across, thick = int(random.integers(3)), random.random() < THICK
    width = random.uniform(*SLICES) if thick else 0.0
    plane = random.uniform(0, IN_PLANE)
    for axis in range(3):
        sigma = (width if axis == across else plane) / FWHM / spacing
        if sigma > 0.1:
            scan = gaussian_filter1d(scan, sigma, axis)
    return scan
