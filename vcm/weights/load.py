"""Find and load models: by the name of one that travels with the package, or by folder."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from diffusers.utils import logging

from vcm.errors import VCMError
from vcm.imaging.volume import Grid
from vcm.pipeline import VCMPipeline
from vcm.weights.frozen import check_module_fits

_PACKAGE = Path(__file__).parents[1]
#: Installed from a wheel, or used from a clone.
_SHELVES = (_PACKAGE / "_embedded" / "weights", _PACKAGE.parent / "weights")

#: Volumes of more voxels than this are decoded in slabs: whole feature maps would fill a laptop.
LARGE = 2_000_000
EXAMPLE = Path("brain2mm", "example_dseg.nii.gz")


def embedded_models() -> list[str]:
    """Names of the models that travel with the package."""
    found = {p.parent.name for shelf in _SHELVES for p in shelf.glob("*/model_index.json")}
    return sorted(found)


def embedded_folder(name: str) -> Path | None:
    """Folder of embedded weights of that name, if there is one."""
    return next((shelf / name for shelf in _SHELVES if (shelf / name).is_dir()), None)


def model_folder(model: str | Path) -> Path:
    """Folder of a model given by name or by path. Raises VCMError if there is none."""
    folder = Path(model)
    if (folder / "model_index.json").is_file():
        return folder
    named = embedded_folder(str(model))
    if named is not None and (named / "model_index.json").is_file():
        return named
    names = ", ".join(embedded_models()) or "none"
    raise VCMError(
        f"The model '{model}' is neither embedded ({names}) nor a folder with a model_index.json: "
        "give one of these names, or a folder written by vcm pretrain diffusion or vcm train."
    )


def example_condition() -> Path:
    """The label map that travels with the package: the segmentation of an uncontrolled sample."""
    folder = embedded_folder(EXAMPLE.parent.name)
    if folder is None or not (folder / EXAMPLE.name).is_file():
        raise VCMError(f"The example {EXAMPLE} does not travel with this copy: give a label map.")
    return folder / EXAMPLE.name


def load_pipeline(model: str | Path) -> VCMPipeline:
    """The pipeline in float32 on the CPU, in evaluation mode.

    Raises VCMError for a folder that is none or is damaged, and for a module that was trained on
    another frozen model.
    """
    folder = model_folder(model)
    logging.disable_progress_bar()
    try:
        pipeline = VCMPipeline.from_pretrained(folder)
    except (ImportError, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise VCMError(
            f"The model in {folder} cannot be loaded ({reason}): its files are damaged or belong to "
            "another version; copy the folder again."
        ) from error
    _cast(pipeline, torch.float32)
    check_module_fits(pipeline)
    if math.prod(pipeline.config.grid.get("shape", ())) > LARGE:
        pipeline.autoencoder.enable_tiling()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def grid_of(model: str | Path) -> Grid:
    """Voxels of a model's volumes, from its index alone. Raises VCMError if there is none."""
    index = json.loads((model_folder(model) / "model_index.json").read_text(encoding="utf-8"))
    x, y, z = index["grid"]["shape"]
    return Grid((x, y, z), np.asarray(index["grid"]["affine"], dtype=np.float64))


def _cast(pipeline: VCMPipeline, dtype: torch.dtype) -> None:
    """Every network to one type of numbers (diffusers' own way warns where nothing is wrong)."""
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            torch.nn.Module.to(part, dtype)
