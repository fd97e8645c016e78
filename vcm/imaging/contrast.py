"""Does a scan look like T1w? Knows the template's T1w contrast; nothing of diseases or sequences."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VCMError
from vcm.imaging.geometry import resample
from vcm.imaging.registration import common_template
from vcm.imaging.volume import Grid

#: Least correlation with the T1w template inside the brain. Measured on brain-extracted scans after
#: rigid alignment: see the README of weights/brain1mm for the values behind it.
LEAST_LIKENESS = 0.25


def t1w_likeness(image: NDArray, grid: Grid) -> float:
    """Pearson correlation of an aligned brain (X, Y, Z) with the MNI152 T1w template, in both masks."""
    template = resample(common_template(), grid, order=1)
    inside = (template > 0.05) & (image > 0)
    if inside.sum() < 1000:
        return 0.0
    return float(np.corrcoef(template[inside], image[inside])[0, 1])


def refuse_other_contrast(image: NDArray, grid: Grid, source: str) -> float:
    """The likeness, or VCMError for a scan whose tissues are not bright and dark as in T1w."""
    likeness = t1w_likeness(image, grid)
    if likeness < LEAST_LIKENESS:
        raise VCMError(
            f"{source} does not look T1-weighted (its correlation with a T1w template is "
            f"{likeness:.2f}, and that of T1w scans above {LEAST_LIKENESS:g}), and this model knows "
            "T1w only: give the T1w scan, or add --any-contrast to take the risk."
        )
    return likeness
