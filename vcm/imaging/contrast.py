"""Which contrast a scan has: by its file name where that says so, and by its intensities.

Knows where the template has white and deep grey matter and fluid, and no more. In T1w white matter is brighter
than grey, in T2w, PD and FLAIR darker; fluid is brightest in T2w and darkest in FLAIR. Separation is how far the
medians of white and deep grey matter are apart, in the spread of both. Cortex does not count: alignment is
rigid, so what the template calls cortex is half fluid, whose darkness makes a FLAIR look like T1w.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, binary_fill_holes

from vcm.errors import VCMWarning
from vcm.imaging.geometry import resample
from vcm.imaging.registration import common_template
from vcm.imaging.volume import Grid, Volume

#: Least separation of a T1w scan; what scans of several contrasts have: benchmarks/contrast.py.
LEAST_SEPARATION = 0.45
#: Below this a scan that no name calls T1w may be another one: a FLAIR had up to 0.72, T1w scans 0.49 or more.
SURE_SEPARATION = 0.8
#: Template intensities of brain and the two tissues; how far grey matter lies within the brain [2 mm].
BRAIN, WHITE, GREY, WITHIN = 0.1, 0.75, (0.4, 0.65), 5
#: Standard deviations of a normal distribution per distance between its quartiles.
PER_QUARTILES = 0.7413
#: Template intensity of fluid, and how far it lies within the brain [2 mm].
FLUID, FLUID_WITHIN = 0.35, 8
#: What names of files call each contrast, in small letters; the last part of a name counts.
SUFFIXES = {
    "t1w": "T1w", "t1": "T1w", "inplanet1": "T1w", "mprage": "T1w",
    "t1ce": "T1w+gd", "t1gd": "T1w+gd", "t1c": "T1w+gd",
    "t2w": "T2w", "t2": "T2w", "inplanet2": "T2w",
    "pdw": "PD", "pd": "PD", "flair": "FLAIR", "t2starw": "T2*", "t2star": "T2*", "swi": "T2*",
}  # fmt: skip
UNKNOWN = "unknown"
#: Fewest voxels of a tissue that tell anything.
FEWEST = 100


@dataclass(frozen=True)
class Contrast:
    """The contrast of a scan, and what tells it.

    Attributes:
        name: T1w, T1w+gd (with gadolinium), T2w, PD, FLAIR, T2* or unknown.
        method: file name, or intensities.
        separation: Of white from grey matter, see `t1w_separation`.
    """

    name: str
    method: str
    separation: float

    @property
    def is_t1w(self) -> bool:
        """Whether name and intensities are those of T1w, so that a model of T1w scans knows it."""
        return self.name in ("T1w", "T1w+gd") and self.separation >= LEAST_SEPARATION

    @property
    def is_in_doubt(self) -> bool:
        """Whether it is taken for T1w by intensities that another contrast may have."""
        weak = self.separation < SURE_SEPARATION
        return self.is_t1w and self.method == "intensities" and weak

    def describe(self) -> dict[str, Any]:
        """What a sidecar says of it."""
        return {
            "Contrast": self.name,
            "ContrastFrom": self.method,
            "WhiteGreySeparation": self.separation,
        }


def find_contrast(image: NDArray, grid: Grid, source: str = "") -> Contrast:
    """Find the contrast of an aligned brain.

    Args:
        image: (X, Y, Z) an aligned brain in 0..1, 0 outside it.
        grid: Of the image, in the common space.
        source: Name of its file.
    """
    separation = t1w_separation(image, grid)
    named = contrast_of_name(source)
    if named:
        return Contrast(named, "file name", separation)
    return Contrast(_by_intensities(image, grid, separation), "intensities", separation)


def warn_unless_t1w(image: NDArray, grid: Grid, source: str) -> None:
    """Say with a VCMWarning that a scan does not look like T1w to what was made for T1w scans alone.

    Args:
        image: (X, Y, Z) an aligned brain in 0..1, 0 outside it.
        grid: Of the image, in the common space.
        source: Name of its file.
    """
    separation = t1w_separation(image, grid)
    if separation < LEAST_SEPARATION:
        warnings.warn(
            f"{source} does not look like a T1w scan (white matter {separation:.2f} deviations brighter than "
            f"grey, in T1w at least {LEAST_SEPARATION}): look whether its contrast is the right one and whether "
            "it is aligned.",
            VCMWarning,
            stacklevel=3,
        )


def contrast_of_name(source: str) -> str | None:
    """Contrast that the name of a file says, None where it says none: sub-1_ce-gd_T1w.nii.gz is T1w+gd."""
    *entities, suffix = source.removesuffix(".gz").removesuffix(".nii").lower().split("_")
    found = SUFFIXES.get(suffix)
    enhanced = any(re.match(r"ce-|.*(gado|gd|postcontrast)", entity) for entity in entities)
    return "T1w+gd" if found == "T1w" and enhanced else found


def _by_intensities(image: NDArray, grid: Grid, separation: float) -> str:
    """T1w, T2w or FLAIR; unknown where white matter, grey matter and fluid are in no known order."""
    white, grey = _tissues(grid)
    seen = [image[mask & (image > 0)] for mask in (white, grey, _fluid(grid))]
    if min(map(len, seen)) < FEWEST:
        return UNKNOWN
    bright, dark, fluid = (float(np.median(values)) for values in seen)
    if separation >= LEAST_SEPARATION:
        return "T1w" if fluid < bright else UNKNOWN
    if fluid > max(bright, dark):
        return "T2w"
    # A rigid alignment takes some tissue for fluid, so the darkest quarter of it tells.
    darkest = float(np.percentile(seen[2], 25))
    return "FLAIR" if darkest < min(bright, dark) else UNKNOWN


def t1w_separation(image: NDArray, grid: Grid) -> float:
    """How much brighter white matter is than deep grey matter.

    Args:
        image: (X, Y, Z) an aligned brain, 0 outside it.
        grid: Of the image, in the common space.

    Returns:
        (median white - median grey) / robust deviation over both; 0 where too little of them is seen.
    """
    bright, dark = (image[mask & (image > 0)] for mask in _tissues(grid))
    if min(len(bright), len(dark)) < FEWEST:
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


def _fluid(grid: Grid) -> NDArray[np.bool_]:
    """Where the template has fluid of the ventricles, eroded."""
    template = common_template()
    within = binary_erosion(binary_fill_holes(template.data > BRAIN), iterations=FLUID_WITHIN)
    fluid = binary_erosion(within & (template.data < FLUID))
    return resample(Volume(fluid.astype(np.uint8), template.affine), grid, order=0) > 0
