"""The voxels of a model, read from its index alone: no network is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from vcm.embedded import INDEX, model_folder
from vcm.imaging.volume import Grid


def grid_of(model: str | Path) -> Grid:
    """Voxels of a model's volumes, from its index alone. Raises VCMError if there is none."""
    index = json.loads((model_folder(model) / INDEX).read_text(encoding="utf-8"))
    x, y, z = index["grid"]["shape"]
    return Grid((x, y, z), np.asarray(index["grid"]["affine"], dtype=np.float64))
