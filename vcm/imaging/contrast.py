"""Which contrast a scan has: by its file name where that says so, and by its intensities.

In T1w white matter is brighter than grey, in T2w, PD and FLAIR darker; fluid is brightest in T2w and darkest in FLAIR.
Of a brain whose tissues are not known the template tells where white and deep grey matter are, which shows whether
a T1w scan is one: separation is how far their medians are apart, in the spread of both. Cortex does not count there:
alignment is rigid, so what the template calls cortex is half fluid, whose darkness makes a FLAIR look like T1w. But
deep grey matter rich in iron is dark in FLAIR too. So where no name tells, the tissues of the brain itself do, by
white matter, fluid and cortex.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_filter1d

from vcm.errors import VCMWarning
from vcm.imaging.bids import stem
from vcm.imaging.geometry import resample
from vcm.imaging.registration import common_template
from vcm.imaging.vocabulary import CLASS_NAMES
from vcm.imaging.volume import Grid, Volume

#: Least separation of a T1w scan; what scans of several contrasts have: benchmarks/contrast.py.
LEAST_SEPARATION = 0.45
#: Least that white matter of a T1w scan is brighter than cortex, see `by_tissues`, and below what a doubt remains: FLAIR
#: had up to 0.02, T1w scans 0.18 or more (benchmarks/contrast.py).
LEAST_ABOVE_CORTEX, SURE_ABOVE_CORTEX = 0.1, 0.14
#: Template intensities of brain and the two tissues; how far grey matter lies within the brain [2 mm].
BRAIN, WHITE, GREY, WITHIN = 0.1, 0.75, (0.4, 0.65), 5
#: Standard deviations of a normal distribution per distance between its quartiles.
PER_QUARTILES = 0.7413
#: What names of files call each contrast, in small letters; the last part of a name counts.
SUFFIXES = {
    "t1w": "T1w", "t1": "T1w", "inplanet1": "T1w", "mprage": "T1w",
    "t1ce": "T1w+gd", "t1gd": "T1w+gd", "t1c": "T1w+gd",
    "t2w": "T2w", "t2": "T2w", "inplanet2": "T2w",
    "pdw": "PD", "pd": "PD", "flair": "FLAIR", "t2starw": "T2*", "t2star": "T2*", "swi": "T2*",
}  # fmt: skip
#: Parts of names, in small letters, that say that gadolinium was given; the name of a person says nothing.
_ENHANCED = re.compile(
    r"(?!(?:sub|ses)-)(ce-(?!no)|.*gadolin|.*postcontrast|\w+-(?!pre).*(gado|gd)|(.*[^a-z])?(gado?|gd)([^a-z]|$))"
)
UNKNOWN = "unknown"
#: What a model of T1w scans reads, if intensities agree.
T1W = ("T1w", "T1w+gd")
#: What told a contrast.
FILE_NAME, INTENSITIES = "file name", "intensities"
#: Of the histograms of tissues, and the standard deviation that they are smoothed with [bin].
BINS, SMOOTHED = 100, 3
#: Fewest voxels of a tissue that tell anything.
FEWEST = 100


@dataclass(frozen=True)
class Contrast:
    """The contrast of a scan, and what tells it.

    Attributes:
        name: T1w, T1w+gd (with gadolinium), T2w, PD, FLAIR, T2* or unknown.
        method: FILE_NAME or INTENSITIES.
        separation: Of white from grey matter, see `t1w_separation`.
        above_cortex: How much white matter is brighter than cortex, see `by_tissues`; None: not measured.
    """

    name: str
    method: str
    separation: float
    above_cortex: float | None = None

    @property
    def is_t1w(self) -> bool:
        """Whether name and intensities are those of T1w, so that a model of T1w scans knows it."""
        if self.above_cortex is not None and self.above_cortex < LEAST_ABOVE_CORTEX:
            return False
        return self.name in T1W and not self._is_too_alike

    @property
    def is_in_doubt(self) -> bool:
        """Whether it is taken for T1w by intensities that another contrast may have."""
        weak = self.above_cortex is not None and self.above_cortex < SURE_ABOVE_CORTEX
        return self.is_t1w and weak

    @property
    def evidence(self) -> str:
        """What its intensities say for T1w or against it, in words."""
        if self.above_cortex is None or self._is_too_alike:
            return (
                f"white matter {self.separation:.2f} deviations brighter than grey, in T1w at least "
                f"{LEAST_SEPARATION:g}"
            )
        return (
            f"white matter {self.above_cortex:.2f} of its distance to fluid brighter than cortex, in T1w at least "
            f"{LEAST_ABOVE_CORTEX:g}"
        )

    @property
    def _is_too_alike(self) -> bool:
        """Whether white and deep grey matter are nearer than in T1w; not asked where tissues told the name."""
        by_tissues = self.method == INTENSITIES and self.above_cortex is not None
        return not by_tissues and self.separation < LEAST_SEPARATION

    def describe(self) -> dict[str, Any]:
        """What a sidecar says of it."""
        return {
            "Contrast": self.name,
            "ContrastFrom": self.method,
            "WhiteGreySeparation": self.separation,
            "WhiteAboveCortex": self.above_cortex,
        }


def by_tissues(image: NDArray, classes: NDArray[np.uint8]) -> tuple[str, float | None]:
    """Contrast of a brain whose tissues are known.

    Args:
        image: (X, Y, Z) the brain in 0..1, 0 outside it.
        classes: (X, Y, Z) its eight classes where they are sure, 0 elsewhere.

    Returns:
        T1w, T2w, FLAIR or unknown; and how much white matter is brighter than cortex, (white - cortex) /
        |white - fluid|, by the most frequent brightness of the first two and the median of the ventricles. What
        cortex shares its voxels with does not count so. None where too little of a tissue is seen.
    """
    names = ("white matter", "grey matter", "ventricles")
    white, cortex, fluid = (
        image[(classes == CLASS_NAMES.index(name)) & (image > 0)] for name in names
    )
    if min(map(len, (white, cortex, fluid))) < FEWEST:
        return UNKNOWN, None
    bright, wet = _most_frequent(white), float(np.median(fluid))
    above = (bright - _most_frequent(cortex)) / max(abs(bright - wet), 1e-6)
    if wet < bright:
        return "T1w" if above >= LEAST_ABOVE_CORTEX else "FLAIR", above
    return "T2w" if above < 0 else UNKNOWN, above


def _most_frequent(values: NDArray) -> float:
    """The peak of a smoothed histogram of values in 0..1."""
    counts, _ = np.histogram(values, BINS, (0, 1))
    return (int(gaussian_filter1d(counts.astype(float), SMOOTHED).argmax()) + 0.5) / BINS


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


def warn_of_wrong_name(contrast: Contrast, source: str) -> None:
    """Say with a VCMWarning that a file that is called T1w does not look like it."""
    if contrast.name in T1W and not contrast.is_t1w:
        warnings.warn(
            f"{source} is {contrast.name} by its {contrast.method}, and does not look like it "
            f"({contrast.evidence}): look whether its name and its contrast are the right ones.",
            VCMWarning,
            stacklevel=3,
        )


def contrast_of_name(source: str) -> str | None:
    """Contrast that the name of a file says, None where it says none: sub-1_ce-gd_T1w.nii.gz is T1w+gd."""
    *entities, suffix = stem(Path(source)).lower().split("_")
    found = SUFFIXES.get(suffix)
    enhanced = any(_ENHANCED.match(entity) for entity in entities)
    return "T1w+gd" if found == "T1w" and enhanced else found


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
