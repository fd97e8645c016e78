"""Label prepared scans that came without a label map, with the tissue segmenter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vcm.imaging.conditions import ventricular_and_brain_volume
from vcm.imaging.geometry import model_grid, resample
from vcm.imaging.volume import Volume, read_volume, write_volume
from vcm.nets.segmenter import TissueSegmenter


def label_scan(image_file: Path, classes_file: Path, net: TissueSegmenter) -> tuple[float, float]:
    """Write the eight-class map of a prepared scan; returns its (ventricular, brain) volume [mL].

    The segmenter sees 2 mm; on a finer grid each voxel takes the class of the nearest one.
    """
    image = read_volume(image_file)
    coarse = model_grid()
    classes = _classes(resample(image, coarse, order=1), net)
    fine = resample(Volume(classes, coarse.affine), image.grid, order=0).astype(np.uint8)
    # Beyond the brain there is nothing to label, and a voxel of 2 mm may reach over its border.
    fine[image.data <= 0] = 0
    write_volume(Volume(fine, image.affine), classes_file, "eight classes, vcm segmenter")
    return ventricular_and_brain_volume(classes, coarse.voxel_volume)


@torch.inference_mode()
def _classes(image: NDArray, net: TissueSegmenter) -> NDArray[np.uint8]:
    batch = torch.from_numpy(np.clip(image, 0, 1).astype(np.float32))[None, None]
    found: NDArray[np.uint8] = net.classes(batch.to(net.device))[0].cpu().numpy()
    return found
