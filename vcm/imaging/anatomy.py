"""Do the classes of a label map lie, and shine, as the tissues of a brain do?

Tells a map whose numbers mean other tissues from one of the eight classes, where their volumes alone do
not: white matter lies deeper than the cortex, and is brighter on a T1-weighted scan. Knows class maps and
intensities; nothing of the numbers that a file holds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vcm.imaging.volume import Volume

WHITE, GREY, VENTRICLES, DEEP, CSF, BRAINSTEM = 1, 2, 3, 4, 7, 8
#: Depth is measured on voxels of at least this size [mm].
COARSE = 2.0
#: (the deeper class, the shallower one, in words), by the mean distance to what lies around the brain.
DEEPER = (
    (WHITE, GREY, "white matter no deeper than grey matter"),
    (VENTRICLES, GREY, "ventricles no deeper than grey matter"),
    (DEEP, BRAINSTEM, "deep grey matter no deeper than the brainstem"),
    (VENTRICLES, BRAINSTEM, "ventricles no deeper than the brainstem"),
)
#: (the brighter class, the darker one, in words) on a T1-weighted scan of an adult.
BRIGHTER = (
    (WHITE, GREY, "white matter is no brighter than grey matter"),
    (GREY, VENTRICLES, "grey matter is no brighter than the ventricles"),
    (DEEP, VENTRICLES, "deep grey matter is no brighter than the ventricles"),
)
#: Less CSF [mL] is that in the cisterns, which FreeSurfer labels; with no ventricles in a map it holds them.
OUTER_CSF = 60.0
#: A map of fewer coarse voxels along an axis shows no depth.
FLAT = 8
#: Voxels of a class, at least, for its depth or brightness to tell something.
TELLING = 50


def misplaced(classes: Volume) -> str:
    """What lies where no brain has it.

    Args:
        classes: Classes 0..8 (X, Y, Z), of which some may be empty.

    Returns:
        A phrase, such as 'white matter no deeper than grey matter'; '' where nothing is.
    """
    steps = [max(1, int(COARSE / s + 0.01)) for s in classes.grid.spacing]
    coarse = classes.data[:: steps[0], :: steps[1], :: steps[2]]
    if min(coarse.shape) < FLAT:
        return ""
    sizes = np.multiply(classes.grid.spacing, steps)
    # CSF that tissue encloses, as in the cisterns, is not outside.
    tissue = ndimage.binary_fill_holes((coarse > 0) & (coarse != CSF))
    without_csf = _depths(coarse, tissue, sizes)
    for deeper, shallower, words in DEEPER:
        if without_csf[deeper] <= without_csf[shallower]:
            return words
    of_csf = float((coarse == CSF).sum() * sizes.prod()) / 1000
    if of_csf < OUTER_CSF or np.isnan(without_csf[VENTRICLES]):
        return ""
    whole = _depths(coarse, coarse > 0, sizes)
    return "CSF around the brain deeper than grey matter" if whole[CSF] >= whole[GREY] else ""


def ill_lit(classes: Volume, image: Volume) -> str:
    """What is not as bright as on a T1-weighted scan.

    Args:
        classes: Classes 0..8 (X, Y, Z).
        image: A scan on the same voxels.

    Returns:
        A phrase, such as 'white matter is no brighter than grey matter'; '' where nothing is.
    """
    median = np.full(9, np.nan)
    for number in {n for pair in BRIGHTER for n in pair[:2]}:
        values = image.data[classes.data == number]
        if values.size >= TELLING:
            median[number] = np.median(values)
    return next((words for a, b, words in BRIGHTER if median[a] <= median[b]), "")


def _depths(
    classes: NDArray, inside: NDArray[np.bool_], sizes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(9,) mean distance of each class to what is outside [mm]; NaN where it has too few voxels."""
    depth = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=sizes)[1:-1, 1:-1, 1:-1]
    counts = np.bincount(classes.ravel(), minlength=9)
    total = np.bincount(classes.ravel(), depth.ravel(), minlength=9)
    means: NDArray[np.float64] = np.where(counts >= TELLING, total / np.maximum(counts, 1), np.nan)
    return means
