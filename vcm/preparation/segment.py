"""Segment: a brain-extracted scan becomes an eight-class label map on its own voxels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from vcm.errors import VCMError
from vcm.imaging.brain import align_brain, brain_mask
from vcm.imaging.conditions import class_volumes
from vcm.imaging.geometry import from_model_grid, model_grid
from vcm.imaging.volume import read_volume, write_volume
from vcm.weights.segmenter import load_segmenter


def segment(scan: Path, out: Path, segmenter: str) -> dict[str, float]:
    """Write the label map; returns the volume of each class [mL]. Raises VCMError."""
    if not out.name.endswith((".nii", ".nii.gz")):
        raise VCMError(f"--out is {out}: give the name of a .nii or .nii.gz file.")
    net = load_segmenter(segmenter)
    image, grid = read_volume(scan), model_grid()
    brain = align_brain(image, brain_mask(image), grid)
    found = net.classes(torch.from_numpy(brain.image)[None, None])[0].numpy()
    back = from_model_grid(found, grid, image.grid, brain.to_common, order=0).astype(np.uint8)
    write_volume(image.with_data(back), out, "eight classes, vcm segment tissues")
    return class_volumes(back, image.grid.voxel_volume)
