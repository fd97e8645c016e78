"""Voxels and inputs of a model, read from its index alone: no network is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from vcm.embedded import INDEX, model_folder
from vcm.imaging.covariates import COVARIATES
from vcm.imaging.volume import Grid


def grid_of(model: str | Path) -> Grid:
    """Voxels of a model's volumes, from its index alone. Raises VCMError if there is none."""
    index = _index(model)
    x, y, z = index["grid"]["shape"]
    return Grid((x, y, z), np.asarray(index["grid"]["affine"], dtype=np.float64))


def inputs_of(model: str | Path) -> list[str]:
    """Names of what its denoiser is told, see vcm.inputs. Raises VCMError if there is no such model."""
    return [str(name) for name in _index(model).get("inputs", COVARIATES)]


def _index(model: str | Path) -> dict[str, Any]:
    return dict(json.loads((model_folder(model) / INDEX).read_text(encoding="utf-8")))
