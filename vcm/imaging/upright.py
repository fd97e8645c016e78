"""Whether an aligned brain stands on its feet: a header whose axis is flipped turns it over in silence.

An axis that points the wrong way makes a mirror image, which no rotation puts right: the alignment ends with a
brain that is upside down or back to front. Mirrored once more, it then fits the template better than it does as it is.
Left and right cannot be told this way: a brain is nearly its own mirror image.
"""

from __future__ import annotations

import itertools
import warnings

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VCMWarning
from vcm.imaging.geometry import resample
from vcm.imaging.registration import common_template
from vcm.imaging.volume import Grid

#: Template intensity of the brain's border; least correlation of a mirror image that tells anything.
BRAIN, LEAST_FIT = 0.1, 0.3


def warn_unless_upright(image: NDArray, grid: Grid, source: str) -> None:
    """Say with a VCMWarning that a brain seems to be upside down or back to front.

    Args:
        image: (X, Y, Z) an aligned brain in 0..1, 0 outside it.
        grid: Of the image, in the common space, its axes along left-right, back-front and feet-head.
        source: Name of its file.
    """
    fits = fit_of_mirrors(image, grid)
    if fits[0] < max(fits[1:]) > LEAST_FIT:
        warnings.warn(
            f"{source} seems to be upside down or back to front: mirrored, it fits the template better "
            f"(correlation {max(fits[1:]):.2f}) than as it is ({fits[0]:.2f}). Look whether an axis of its affine "
            "points the wrong way.",
            VCMWarning,
            stacklevel=3,
        )


def fit_of_mirrors(image: NDArray, grid: Grid) -> list[float]:
    """Correlation with the template over both brains: as it is, then mirrored across either axis and both.

    Args:
        image: As `warn_unless_upright` has it.
        grid: As there.

    Returns:
        Four numbers in -1..1; those of back-front, feet-head, and both follow that of the image itself.
    """
    template = resample(common_template(), grid, order=1)
    brain = template > BRAIN
    middle = np.round(np.argwhere(brain).mean(0)).astype(int)
    found = []
    for axes in itertools.chain.from_iterable(itertools.combinations((1, 2), n) for n in range(3)):
        mirrored = image
        for axis in axes:
            beyond = 2 * int(middle[axis]) - (image.shape[axis] - 1)
            mirrored = np.roll(np.flip(mirrored, axis), beyond, axis)
        seen = brain | (mirrored > 0)
        found.append(float(np.corrcoef(mirrored[seen], template[seen])[0, 1]))
    return found
