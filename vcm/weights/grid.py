"""Voxels and inputs of a model, read from its index alone: no network is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vcm.embedded import INDEX, model_folder
from vcm.errors import VCMError
from vcm.files import read_json
from vcm.imaging.covariates import COVARIATES
from vcm.imaging.volume import Grid


def grid_of(model: str | Path) -> Grid:
    """Voxels of a model's volumes, from its index alone. Raises VCMError if there is none."""
    try:
        grid = _index(model)["grid"]
        x, y, z = map(int, grid["shape"])
        return Grid((x, y, z), np.asarray(grid["affine"], dtype=np.float64).reshape(4, 4))
    except (KeyError, TypeError, ValueError) as error:
        raise _unusable(model) from error


def inputs_of(model: str | Path) -> list[str]:
    """Names of what its denoiser is told, see vcm.inputs. Raises VCMError if there is no such model."""
    return [str(name) for name in _index(model).get("inputs", COVARIATES)]


def _index(model: str | Path) -> dict[str, Any]:
    found = read_json(model_folder(model) / INDEX)
    if not found:
        raise _unusable(model)
    return found


def _unusable(model: str | Path) -> VCMError:
    return VCMError(
        f"{model_folder(model) / INDEX} says nothing of the model's voxels: it is damaged or of another "
        "program; give a folder that vcm wrote."
    )
