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

from vcm.errors import VCMError
from vcm.imaging.brightness import look_of

#: Scans whose local means differ by more than this share of the range, on average, look different. 46 pairs
#: of 14 training subjects of IXI differ by 0.022 to 0.047, scans of two other studies from them by 0.055 to 0.136.
UNLIKE = 0.05
#: Least intensity in a brain.
LEAST = 1e-3
MATCHES = ("auto", "always", "never")


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
