"""Which contrast a scan has, where the network that names tissues in any contrast tells what no name does."""

from __future__ import annotations

import torch
from numpy.typing import NDArray

from vcm.embedded import FOR_ANY
from vcm.imaging.contrast import (
    FILE_NAME,
    INTENSITIES,
    T1W,
    Contrast,
    by_tissues,
    contrast_of_name,
    t1w_separation,
)
from vcm.imaging.volume import Grid
from vcm.weights.segmenter import load_segmenter, seen_by

#: Least probability of a tissue that tells the contrast.
SURE = 0.8


def find_contrast(image: NDArray, grid: Grid, source: str = "") -> Contrast:
    """Find the contrast of an aligned brain. Where a network is asked, it takes a second on a CPU.

    It is asked where no name tells, and where the name says T1w, since a model of T1w scans believes it.

    Args:
        image: (X, Y, Z) an aligned brain in 0..1, 0 outside it.
        grid: Of the image, in the common space.
        source: Name of its file.
    """
    separation = t1w_separation(image, grid)
    named = contrast_of_name(source)
    if named and named not in T1W:
        return Contrast(named, FILE_NAME, separation)
    name, above = _by_its_tissues(image, grid)
    if named:
        return Contrast(named, FILE_NAME, separation, above)
    return Contrast(name, INTENSITIES, separation, above)


@torch.inference_mode()
def _by_its_tissues(image: NDArray, grid: Grid) -> tuple[str, float | None]:
    segmenter = load_segmenter(FOR_ANY)
    seen = seen_by(segmenter, image, grid)
    return by_tissues(seen[0, 0].numpy(), segmenter.classes(seen, SURE)[0].numpy())
