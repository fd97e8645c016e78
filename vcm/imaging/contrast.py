"""Does a scan look like T1w? Knows where the template has white and grey matter, and no more.

In T1w white matter is brighter than grey matter, in T2w and FLAIR darker. The measure is how far apart
the two are, in standard deviations.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from vcm.errors import VCMError
from vcm.imaging.geometry import resample
from vcm.imaging.registration import common_template
from vcm.imaging.volume import Grid, Volume

#: Least separation of a T1w scan; what scans have, and have inverted as in T2w: benchmarks/contrast.py.
LEAST_SEPARATION = 0.3
#: Template intensities of the two tissues; white matter is eroded, as alignment is rigid only.
WHITE, GREY = 0.75, (0.4, 0.65)


def t1w_separation(image: NDArray, grid: Grid) -> float:
    """(mean white - mean grey) / standard deviation over both, of an aligned brain (X, Y, Z)."""
    template = common_template()
    white = binary_erosion(template.data > WHITE, iterations=2)
    grey = (template.data > GREY[0]) & (template.data < GREY[1])
    masks = [
        resample(Volume(m.astype(np.uint8), template.affine), grid, order=0) > 0
        for m in (white, grey)
    ]
    bright, dark = (image[mask & (image > 0)] for mask in masks)
    if min(len(bright), len(dark)) < 1000:
        return 0.0
    return float((bright.mean() - dark.mean()) / np.concatenate([bright, dark]).std())


def refuse_other_contrast(image: NDArray, grid: Grid, source: str) -> float:
    """The separation, or VCMError for a scan whose white matter is not clearly brighter than grey."""
    found = t1w_separation(image, grid)
    if found < LEAST_SEPARATION:
        raise VCMError(
            f"{source} does not look T1-weighted (white matter is {found:.2f} standard deviations "
            f"brighter than grey, in T1w scans at least {LEAST_SEPARATION:g}), and this model knows T1w "
            "only: give the T1w scan, or add --any-contrast to take the risk."
        )
    return found
