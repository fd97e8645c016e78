"""Scans of another study made to look like the labelled ones: local mean and contrast of their brightness.

What was learned from one scanner's brightness, its bias field included, fails on another's. All scans lie in one
space, so the brightness of a scan around each voxel can be given the mean and the deviation that the labelled
scans have there; what is finer than that stays. Knows arrays on the model's grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from vcm.errors import VCMError

#: Width of the Gaussian that is meant by `around` [mm].
AROUND = 10.0
#: Scans whose local means differ by more than this share of the range, on average, look different. 40 pairs
#: of 14 training subjects of IXI differ by 0.022 to 0.047, scans of two other studies from them by 0.055 to 0.136.
UNLIKE = 0.05
#: Least intensity in a brain, and least deviation that is scaled up.
LEAST, LEAST_DEVIATION = 1e-3, 3e-3
MATCHES = ("auto", "always", "never")


class Look(NamedTuple):
    """Brightness around each voxel (X, Y, Z): its mean, its standard deviation, where there is brain."""

    mean: NDArray[np.float32]
    deviation: NDArray[np.float32]
    brain: NDArray[np.bool_]


class Alike(NamedTuple):
    """A scan as it is read.

    Attributes:
        image: (X, Y, Z), as it came or matched.
        unlike: By how much its local means differ from those of the labelled scans, a share of the range;
            None: nothing is known of the labelled scans.
        matched: Whether it was changed.
    """

    image: NDArray[np.float32]
    unlike: float | None
    matched: bool


def look_of(images: Sequence[NDArray[np.float32]], spacing: float) -> Look:
    """How one brain looks, or several on average.

    Args:
        images: (X, Y, Z) in 0..1, 0 outside the brain.
        spacing: Of the voxels [mm].
    """
    means, deviations, weights = [], [], []
    for image in images:
        brain = (image > 0).astype(np.float32)
        weight = np.maximum(_smooth(brain, spacing), 1e-6)
        mean = _smooth(image, spacing) / weight
        square = _smooth(image * image, spacing) / weight
        means.append(mean)
        deviations.append(np.sqrt(np.maximum(square - mean * mean, LEAST_DEVIATION**2)))
        weights.append(weight)
    total = np.sum(weights, 0)
    mean, deviation = (
        (np.sum([w * v for w, v in zip(weights, each, strict=True)], 0) / total).astype(np.float32)
        for each in (means, deviations)
    )
    return Look(mean, deviation, np.any([image > 0 for image in images], 0))


def made_alike(
    image: NDArray[np.float32],
    labelled: Sequence[NDArray[np.float32]],
    spacing: float,
    match: str = "auto",
) -> Alike:
    """A scan as the labelled ones would show it.

    Args:
        image: (X, Y, Z) in 0..1 on the model's grid, 0 outside the brain.
        labelled: The labelled brains likewise.
        spacing: Of the grid [mm].
        match: auto (where it looks different by more than UNLIKE), always or never.

    Raises:
        VCMError: `match` is none of these.
    """
    check_match(match)
    if not labelled or not image.any():
        return Alike(image, None, False)
    own, wanted = look_of([image], spacing), look_of(labelled, spacing)
    both = own.brain & wanted.brain
    unlike = float(np.abs(own.mean - wanted.mean)[both].mean()) if both.any() else 1.0
    if match == "never" or (match == "auto" and unlike <= UNLIKE):
        return Alike(image, unlike, False)
    changed = wanted.mean + (image - own.mean) * (wanted.deviation / own.deviation)
    inside = np.clip(changed, LEAST, 1)
    return Alike(np.where(own.brain, inside, 0).astype(np.float32), unlike, True)


def check_match(match: str) -> None:
    """Refuse with VCMError what is none of MATCHES."""
    if match not in MATCHES:
        raise VCMError(f"match is {match}: choose {', '.join(MATCHES[:-1])} or {MATCHES[-1]}.")


def _smooth(image: NDArray[np.float32], spacing: float) -> NDArray[np.float32]:
    return np.asarray(gaussian_filter(image, AROUND / spacing), dtype=np.float32)
