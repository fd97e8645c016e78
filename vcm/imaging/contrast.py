"""Does a scan look like T1w? Knows where the template has white and grey matter, and no more.

In T1w white matter is brighter than grey matter, in T2w and FLAIR darker. The measure is how far apart
the medians of the two are, in the spread of both. Cortex does not count: alignment is rigid, so what
the template calls cortex is half fluid, whose darkness makes a FLAIR look like T1w.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from vcm.errors import VCMError
from vcm.imaging.geometry import resample
from vcm.imaging.registration import common_template
from vcm.imaging.volume import Grid, Volume

#: Least separation of a T1w scan; what scans of several contrasts have: benchmarks/contrast.py.
LEAST_SEPARATION = 0.45
#: Template intensities of brain and the two tissues; how far grey matter lies within the brain [2 mm].
BRAIN, WHITE, GREY, WITHIN = 0.1, 0.75, (0.4, 0.65), 5
#: Standard deviations of a normal distribution per distance between its quartiles.
PER_QUARTILES = 0.7413


def t1w_separation(image: NDArray, grid: Grid) -> float:
    """How much brighter white matter is than deep grey matter.

    Args:
        image: (X, Y, Z) an aligned brain, 0 outside it.
        grid: Of the image, in the common space.

    Returns:
        (median white - median grey) / robust deviation over both; 0 where too little of them is seen.
    """
    bright, dark = (image[mask & (image > 0)] for mask in _tissues(grid))
    if min(len(bright), len(dark)) < 100:
        return 0.0
    low, high = np.percentile(np.concatenate([bright, dark]), [25, 75])
    apart = float(np.median(bright) - np.median(dark))
    return apart / max(PER_QUARTILES * float(high - low), 1e-6)


def _tissues(grid: Grid) -> list[NDArray[np.bool_]]:
    """Where the template has white, and deep grey matter, both eroded."""
    template = common_template()
    deep = binary_erosion(template.data > BRAIN, iterations=WITHIN)
    grey = (template.data > GREY[0]) & (template.data < GREY[1])
    white = binary_erosion(template.data > WHITE, iterations=2)
    return [
        resample(Volume(m.astype(np.uint8), template.affine), grid, order=0) > 0
        for m in (white, binary_erosion(grey) & deep)
    ]


def refuse_other_contrast(image: NDArray, grid: Grid, source: str) -> float:
    """Refuse a scan that is not T1-weighted.

    Args:
        image: (X, Y, Z) an aligned brain, 0 outside it.
        grid: Of the image, in the common space.
        source: Name of the scan, for the message.

    Returns:
        The separation, see `t1w_separation`.

    Raises:
        VCMError: White matter is not clearly brighter than grey matter.
    """
    found = t1w_separation(image, grid)
    if found < LEAST_SEPARATION:
        raise VCMError(
            f"{source} does not look T1-weighted (white matter is {found:.2f} deviations "
            f"brighter than grey, in T1w scans at least {LEAST_SEPARATION:g}), and this model knows T1w "
            "only: give the T1w scan, or allow any contrast and take the risk."
        )
    return found
