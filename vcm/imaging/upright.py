"""Whether an aligned brain stands on its feet: a header whose axes are flipped or exchanged turns it over in silence.

The alignment looks about where it begins, so a brain that the header turns over ends upside down, back to front or
on its side. Turned or mirrored once more, it then fits the template better than it does as it is. Left and right
cannot be told this way: a brain is nearly its own mirror image.
"""

from __future__ import annotations

import itertools
import warnings
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VCMWarning
from vcm.imaging.geometry import centred_grid, resample
from vcm.imaging.registration import common_template
from vcm.imaging.volume import Grid, Volume

#: Template intensity of the brain's border; least correlation of a turned brain that tells anything.
BRAIN, LEAST_FIT = 0.1, 0.3
#: Voxels [mm] on which orientations are compared, and how many of them along each axis.
COARSE, SIDE = 4.0, 60
#: What is done to the axes (left-right, back-front, feet-head): their order, and which are mirrored. Mirrored
#: along the first they would fit as well.
ORIENTATIONS = tuple(
    (order, (1, *signs))
    for order in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=2)
)
UPRIGHT = (0, 1, 2)


def warn_unless_upright(image: NDArray, grid: Grid, source: str) -> None:
    """Say with a VCMWarning that a brain seems to be upside down, back to front or on its side.

    Args:
        image: (X, Y, Z) an aligned brain, or a T1w-like picture of one, in 0..1, 0 outside it.
        grid: Of the image, in the common space.
        source: Name of its file.
    """
    if not (image > BRAIN).any():
        return
    own, *turned = fits = fit_of_orientations(image, grid)
    if not own < max(turned) > LEAST_FIT:
        return
    order, _ = ORIENTATIONS[int(np.argmax(fits))]
    how, done = ("upside down or back to front", "mirrored")
    if order != UPRIGHT:
        how, done = "on its side", "turned"
    warnings.warn(
        f"{source} seems to be {how}: {done}, it fits the template better (correlation {max(turned):.2f}) than as "
        f"it is ({own:.2f}). Look whether an axis of its affine points the wrong way.",
        VCMWarning,
        stacklevel=3,
    )


def fit_of_orientations(image: NDArray, grid: Grid) -> list[float]:
    """Correlation with the template over both brains, for each of ORIENTATIONS; the first is the image's own.

    Args:
        image: As `warn_unless_upright` has it.
        grid: As there.

    Returns:
        24 numbers in -1..1.
    """
    template, cube = _template()
    moved = resample(Volume(image.astype(np.float32), grid.affine), cube)
    # Turned about its own middle: a brain that was aligned in the wrong orientation lies a little beside its place.
    middle = np.argwhere(moved > BRAIN).mean(0)
    centred = np.roll(moved, np.rint((SIDE - 1) / 2 - middle).astype(int), (0, 1, 2))
    found = []
    for n, (order, signs) in enumerate(ORIENTATIONS):
        turned = (centred if n else moved).transpose(order)
        turned = np.flip(turned, tuple(a for a in range(3) if signs[a] < 0))
        seen = (template > BRAIN) | (turned > BRAIN)
        found.append(float(np.corrcoef(turned[seen], template[seen])[0, 1]))
    return found


@lru_cache(maxsize=1)
def _template() -> tuple[NDArray, Grid]:
    """The template on coarse voxels of a cube about its brain, RAS, and their grid."""
    template = common_template()
    middle = np.argwhere(template.data > BRAIN).mean(0)
    x, y, z = (template.affine @ [*middle, 1])[:3]
    cube = centred_grid((SIDE, SIDE, SIDE), COARSE, (x, y, z), "RAS")
    return resample(template, cube), cube
