"""A scan of a brain in random contrast and resolution, made of its T1w image and its label map.

What networks that know no contrast learn from: translators and tissue segmenters. Knows prepared scans on an
isotropic grid and their generator; nothing of networks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from vcm.imaging.brain import to_unit_range
from vcm.imaging.conditions import CSF
from vcm.imaging.deformation import DeformationSizes
from vcm.imaging.random_contrast import painted, recoloured, with_bias_field
from vcm.imaging.random_lesions import draw_lesions, draw_mass
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


class RandomScan(NamedTuple):
    """One brain, (X, Y, Z) each.

    Attributes:
        scan: In any contrast, in 0..1.
        t1w: In T1w, in 0..1, with its lesions.
        brain: True in the brain.
        lesions: 0..1, how far a voxel is lesion.
        classes: 0..8, 0 outside the brain.
    """

    scan: Image
    t1w: Image
    brain: NDArray[np.bool_]
    lesions: Image
    classes: NDArray[np.uint8]


def draw_scans(
    pool: ScanPool, sizes: DeformationSizes, count: int, random: Random, masses: float = 0.0
) -> list[RandomScan]:
    """Scans of deformed brains.

    Args:
        pool: Of T1w scans with their label maps.
        sizes: Of the deformations.
        count: Of the scans.
        random: What the draw depends on, and nothing else.
        masses: As `draw_scan` has it.
    """
    brains = pool.make(pool.draw(count, sizes, random))
    return [
        draw_scan(image.numpy(), classes.numpy(), pool.grid.spacing[0], random, masses)
        for image, classes in zip(brains.images[:, 0], brains.classes[:, 0], strict=True)
    ]


def draw_scan(
    t1w: Image, classes: NDArray[np.uint8], spacing: float, random: Random, masses: float = 0.0
) -> RandomScan:
    """A scan of a brain in random contrast and resolution, with lesions in half of the draws.

    Args:
        t1w: (X, Y, Z) in 0..1.
        classes: (X, Y, Z) of 0..8.
        spacing: Of the voxels [mm].
        random: What the draw depends on, and nothing else.
        masses: Share of brains, 0..1, with a mass such as a tumour.
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
    if masses and random.random() < masses:
        scan, lesions = _with_mass(scan, lesions, brain, spacing, random)
    scan = with_bias_field(scan, random)
    scan = slice_profile(np.where(brain, scan, 0).astype(np.float32), spacing, random)
    scan = scan + np.float32(NOISE * random.random() ** 2) * random.standard_normal(
        scan.shape, dtype=np.float32
    )
    return RandomScan(
        to_read(scan, brain)[0], np.where(brain, t1w, 0), brain, lesions, classes * brain
    )


def to_read(data: Image, brain: NDArray[np.bool_]) -> tuple[Image, tuple[float, float]]:
    """A scan as such networks read it: 0..1 between percentiles of its brain, above 0 in the brain alone.

    Args:
        data: (X, Y, Z) any intensities.
        brain: (X, Y, Z).

    Returns:
        It, and the intensities that are 0 and 1 now.
    """
    scaled, units = to_unit_range(data, brain)
    return np.where(brain, np.maximum(scaled, np.float32(DARKEST)), 0).astype(np.float32), units


def _with_mass(
    scan: Image, lesions: Image, brain: NDArray[np.bool_], spacing: float, random: Random
) -> tuple[Image, Image]:
    """A scan with a mass of two intensities, one within the other, and what is lesion in it then."""
    mass = draw_mass(brain, spacing, random)
    around, core = random.uniform(0.0, 1.1, 2).astype(np.float32)
    texture = 1 + np.float32(0.1) * random.standard_normal(scan.shape, dtype=np.float32)
    # Where the mass is faint, as fluid around a tumour is, the tissue shows through.
    share = mass.whole * np.float32(random.uniform(0.4, 1.0))
    changed = (1 - share) * scan + share * around
    changed = (1 - mass.core) * changed + mass.core * core * texture
    return changed.astype(np.float32), np.maximum(lesions, mass.whole)


def slice_profile(scan: Image, spacing: float, random: Random) -> Image:
    """What upsampled slices, thick along a random axis, show of an image."""
    across, thick = int(random.integers(3)), random.random() < THICK
    width = random.uniform(*SLICES) if thick else 0.0
    plane = random.uniform(0, IN_PLANE)
    for axis in range(3):
        sigma = (width if axis == across else plane) / FWHM / spacing
        if sigma > 0.1:
            scan = gaussian_filter1d(scan, sigma, axis)
    return scan
