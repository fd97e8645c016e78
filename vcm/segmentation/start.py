"""Which weights the 3D U-Net of a few-shot segmenter begins with: random ones, or those of a network that names tissues."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from vcm.embedded import FOR_ANY
from vcm.errors import VCMError
from vcm.files import fingerprint
from vcm.imaging.volume import Grid
from vcm.nets.segmenter import TissueSegmenter
from vcm.weights.segmenter import load_segmenter, segmenter_folder, segmenter_grid

AUTO, RANDOM = "auto", "random"


class Start(NamedTuple):
    """What a U-Net begins with.

    Attributes:
        net: A segmenter; None: random weights.
        name: Of its folder; random where there is none.
        checksums: SHA-256 of its files.
    """

    net: TissueSegmenter | None = None
    name: str = RANDOM
    checksums: dict[str, str] | None = None


def load_start(name: str, whole: bool, grid: Grid) -> Start:
    """What a U-Net on that grid begins with.

    Args:
        name: RANDOM; a segmenter, embedded or a folder; or AUTO, FOR_ANY for labels that are drawn in some slices only
            where it was trained on voxels of this size, else RANDOM.
        whole: Whether the labels are whole.
        grid: That the U-Net computes on.

    Raises:
        VCMError: There is no such network, or it was trained on voxels of another size.
    """
    if name == RANDOM or (name == AUTO and whole):
        return Start()
    chosen = FOR_ANY if name == AUTO else name
    net = load_segmenter(chosen, "start")
    trained = segmenter_grid(net).spacing
    if not np.allclose(trained, grid.spacing, atol=1e-3):
        if name == AUTO:
            return Start()
        raise VCMError(
            f"start is {name}, which was trained on voxels of {trained[0]:g} mm, but the slice diffusion model on "
            f"{grid.spacing[0]:g} mm: choose a segmenter of that size, or random.",
            argument="start",
        )
    return Start(net, Path(chosen).name, fingerprint(segmenter_folder(chosen)))
