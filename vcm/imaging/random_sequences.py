"""Four sequences of one brain with a tumour and lesions, made of its T1w image and its label map.

Two draws in three look as T1w, T1w with a contrast agent, T2w and FLAIR do; the others have random contrasts, after
the idea of SynthSeg (Billot et al., Medical Image Analysis 2023), so that no brightness is relied on. Some
sequences are left out. Knows arrays and their generator; nothing of networks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from vcm.imaging.brain import PERCENTILES
from vcm.imaging.conditions import CSF
from vcm.imaging.random_contrast import painted, recoloured, with_bias_field
from vcm.imaging.random_lesions import draw_lesions
from vcm.imaging.random_scan import WHITE_MATTER, slice_profile
from vcm.imaging.random_tumour import CORE, ENHANCING, OEDEMA, PARTS, draw_tumour, smooth_noise
from vcm.imaging.vocabulary import CLASS_NAMES

Random = np.random.Generator
Image = NDArray[np.float32]

SEQUENCES = ("t1", "t1ce", "t2", "flair")
#: Names of the labels of a brain: background, tissues, and the parts of a tumour; a lesion of white matter is
#: named as oedema is, which looks like it.
LABELS = (*CLASS_NAMES, *PARTS.values())
_FIRST_PART = len(CLASS_NAMES) - 1
#: Brightness of background and the tissues.
_T2 = np.array([0, 0.33, 0.5, 0.95, 0.42, 0.5, 0.5, 0.9, 0.38], np.float32)
_FLAIR = np.array([0, 0.45, 0.6, 0.1, 0.5, 0.62, 0.62, 0.2, 0.47], np.float32)
#: Brightness of the parts where contrasts are real, between these: oedema, core, enhancing.
_PARTS = {
    "t1": {OEDEMA: (0.35, 0.75), CORE: (0.12, 0.5), ENHANCING: (0.3, 0.7)},
    "t1ce": {OEDEMA: (0.35, 0.75), CORE: (0.12, 0.5), ENHANCING: (0.8, 1.4)},
    "t2": {OEDEMA: (0.6, 1.0), CORE: (0.5, 1.1), ENHANCING: (0.4, 0.9)},
    "flair": {OEDEMA: (0.65, 1.1), CORE: (0.15, 0.95), ENHANCING: (0.5, 1.0)},
}
#: How much of the tissue each part hides.
_HIDES = {OEDEMA: (0.35, 0.95), CORE: (0.6, 1.0), ENHANCING: (0.6, 1.0)}
#: Shares of brains with real contrasts, with a tumour, with lesions of white matter, without the fluid around them;
#: of sequences that are coarse, and that are left out.
REAL, TUMOUR, LESIONS, WITHOUT_FLUID, COARSE, LEFT_OUT = 0.65, 0.8, 0.4, 0.25, 0.5, 0.1
#: Brightness that white matter of a T1w scan is brought to, and most noise.
WHITE, NOISE = 0.8, 0.05


class Sequences(NamedTuple):
    """One brain.

    Attributes:
        images: (4, X, Y, Z) in 0..1, in the order of SEQUENCES; 0 where one is left out.
        labels: (X, Y, Z), the places of LABELS.
    """

    images: Image
    labels: NDArray[np.uint8]


def draw_sequences(
    t1w: Image, classes: NDArray[np.uint8], spacing: float, random: Random
) -> Sequences:
    """Sequences of a brain as scanners might have made them.

    Args:
        t1w: (X, Y, Z) in 0..1.
        classes: (X, Y, Z) of 0..8.
        spacing: Of the isotropic voxels [mm].
        random: What the draw depends on, and nothing else.
    """
    if random.random() < WITHOUT_FLUID:
        classes = np.where(classes == CSF, 0, classes).astype(np.uint8)
    brain, white = classes > 0, classes == WHITE_MATTER
    none = np.zeros(classes.shape, np.float32)
    lesions = draw_lesions(white, random) if random.random() < LESIONS else none
    tumour = np.zeros_like(classes)
    if random.random() < TUMOUR:
        tumour = draw_tumour(classes, spacing, random)
    usual = float(np.median(t1w[white])) if white.any() else WHITE
    t1 = t1w * np.float32(WHITE / max(usual, 0.2))
    real = random.random() < REAL
    grain = smooth_noise(classes.shape, 0.6, random)
    images = []
    for sequence in SEQUENCES:
        image = (
            _healthy(sequence, t1, classes, grain, random) if real else _any(t1w, classes, random)
        )
        image = _with_parts(image, sequence if real else "", tumour, lesions, grain, random)
        images.append(_scanned(image, brain, spacing, random))
    left_out = random.random(len(SEQUENCES)) < LEFT_OUT
    if not left_out.all():
        images = [np.zeros_like(i) if out else i for i, out in zip(images, left_out, strict=True)]
    labels = np.where(lesions > 0.5, _FIRST_PART + OEDEMA, classes)
    labels = np.where(tumour > 0, _FIRST_PART + tumour, labels)
    return Sequences(np.stack(images), np.where(brain, labels, 0).astype(np.uint8))


def _healthy(
    sequence: str, t1: Image, classes: NDArray[np.uint8], grain: Image, random: Random
) -> Image:
    """A brain as that sequence shows it: from the T1w scan, or painted by tissue with the texture of it."""
    if sequence == "t1":
        return t1 * np.float32(random.uniform(0.9, 1.1))
    if sequence == "t1ce":
        image = t1 * np.float32(random.uniform(0.9, 1.15))
        if random.random() < 0.5:  # vessels and meninges
            vessels = (classes == CSF) & (grain > 1.2)
            image = _blended(image, vessels, random.uniform(0.6, 1.2), 0.7, random)
        return image
    usual = _T2 if sequence == "t2" else _FLAIR
    means = usual + random.normal(0, 0.05, len(usual)).astype(np.float32)
    means[0] = 0
    image = gaussian_filter(means[classes], random.uniform(0.3, 0.7))
    texture = t1 - gaussian_filter(t1, 1.5)
    return np.asarray(image - np.float32(random.uniform(0, 0.6)) * texture, dtype=np.float32)


def _any(t1w: Image, classes: NDArray[np.uint8], random: Random) -> Image:
    """A brain in a random contrast."""
    image = recoloured(t1w, random)
    if random.random() < 0.5:
        share = np.float32(random.random())
        image = share * painted(classes, random) + (1 - share) * image
    return image


def _with_parts(
    image: Image,
    sequence: str,
    tumour: NDArray[np.uint8],
    lesions: Image,
    grain: Image,
    random: Random,
) -> Image:
    """The image with lesions and tumour, of random brightness where the sequence is none."""
    within = _PARTS.get(sequence, dict.fromkeys(PARTS, (0.0, 1.2)))
    brightness = {part: random.uniform(*within[part]) for part in PARTS}
    hides = {part: random.uniform(*_HIDES[part]) for part in PARTS}
    texture = np.float32(random.uniform(0, 0.08)) * grain
    share = lesions * np.float32(hides[OEDEMA])
    image = image * (1 - share) + share * np.float32(brightness[OEDEMA])
    for part in (OEDEMA, ENHANCING, CORE) if tumour.any() else ():
        image = _blended(image, tumour == part, brightness[part] + texture, hides[part], random)
    return image


def _blended(
    image: Image, where: NDArray[np.bool_], value: float | Image, share: float, random: Random
) -> Image:
    """That value for a share of what was there, with a soft border."""
    weight = gaussian_filter(where.astype(np.float32), random.uniform(0.3, 0.8)) * share
    return np.asarray(image * (1 - weight) + weight * value, dtype=np.float32)


def _scanned(image: Image, brain: NDArray[np.bool_], spacing: float, random: Random) -> Image:
    """With a bias field, in half of the draws coarser voxels, and noise; 0..1 between percentiles of the brain."""
    image = with_bias_field(np.maximum(image, 0).astype(np.float32), random)
    image = np.where(brain, image, 0).astype(np.float32)
    if random.random() < COARSE:
        image = slice_profile(image, spacing, random)
    level = np.float32(NOISE * random.random() ** 2)
    image = image + level * random.standard_normal(image.shape, dtype=np.float32)
    if not brain.any():
        return np.zeros_like(image)
    low, high = np.percentile(image[brain], PERCENTILES)
    scaled = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    return np.where(brain, scaled, 0).astype(np.float32)
