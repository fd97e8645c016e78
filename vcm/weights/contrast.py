"""Which contrast a scan has, where the network that names tissues in any contrast tells what no name does."""

from __future__ import annotations

import torch
from numpy.typing import NDArray

from vcm.embedded import FOR_ANY
from vcm.imaging.contrast import Contrast, by_tissues, contrast_of_name, t1w_separation
from vcm.imaging.volume import Grid
from vcm.weights.segmenter import load_segmenter, seen_by

#: Least probability of a tissue that tells the contrast.
SURE = 0.8


def find_contrast(image: NDArray, grid: Grid, source: str = "") -> Contrast:
    """Find the contrast of an aligned brain. Where a network is asked, it takes a second on a CPU.

    Args:
        image: (X, Y, Z) an aligned brain in 0..1, 0 outside it.
        grid: Of the image, in the common space.
        source: Name of its file.
    """
    separation = t1w_separation(image, grid)
    named = contrast_of_name(source)
    if named:
        return Contrast(named, "file name", separation)
    name, above = _by_its_tissues(image, grid)
    return Contrast(name, "intensities", separation, above)


@torch.inference_mode()
def _by_its_tissues(image: NDArray, grid: Grid) -> tuple[str, float]:
    segmenter = load_segmenter(FOR_ANY)
    seen = seen_by(segmenter, image, grid)
    return by_tissues(seen[0, 0].numpy(), segmenter.classes(seen, SURE)[0].numpy())
