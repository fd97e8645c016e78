"""A synthetic volume as files: on the voxels of its condition, and beside it what repeats it.

Knows where results go back to, names and sidecars; nothing of how a volume is made.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vcm import __version__
from vcm.files import write_set
from vcm.imaging.placing import Placement
from vcm.imaging.volume import Volume, write_volume

#: A volume on a model's grid -> the same on `Placement.halved`.
Halved = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def stem_of(condition: Path | None, otherwise: str = "uncontrolled") -> str:
    """First part of the names of all files that are made from a condition."""
    name = condition.name if condition else otherwise
    return name.removesuffix(".gz").removesuffix(".nii")


def file_names(stem: str, mark: str, model_grid: bool = False) -> list[str]:
    """Names of the volume, if asked of that on the model's grid, and of the sidecar.

    Args:
        stem: First part, see `stem_of`.
        mark: What tells it from others of this condition: seed-N.
        model_grid: Whether the volume is written on the model's grid too.
    """
    rest = f"desc-synthetic_{mark}_T1w"
    on_grid = [f"{stem}_space-model_{rest}.nii.gz"] if model_grid else []
    return [f"{stem}_{rest}.nii.gz", *on_grid, f"{stem}_{rest}.json"]


def write_synthetic(
    image: NDArray[np.float32],
    placement: Placement,
    folder: Path,
    stem: str,
    mark: str,
    record: dict[str, Any],
    model_grid: bool = False,
    fine: NDArray[np.float32] | None = None,
) -> Path:
    """Write a volume on the voxels it belongs to, if asked also on the model's, and its sidecar.

    Args:
        image: (X, Y, Z) on the model's grid, 0..1.
        placement: The way back from there.
        folder: Where the files are to lie.
        stem: First part of their names, see `stem_of`.
        mark: What tells it from others of this condition: seed-N.
        record: What else the sidecar says.
        model_grid: Write the volume on the model's grid too.
        fine: The volume on `Placement.halved`, which is written on the voxels it belongs to instead of
            the interpolated one (2X, 2Y, 2Z), 0..1.

    Returns:
        Path of the volume.

    Raises:
        VCMError: The folder cannot be written to.
    """
    *names, sidecar = file_names(stem, mark, model_grid)
    words = f"synthetic, vcm {__version__}, {mark.replace('-', ' ')}"
    if fine is None:
        moved = placement.to_scan_space(image)
    else:
        moved = placement.halved().to_scan_space(fine)
    volumes = [Volume(_stored(moved), placement.target.affine, placement.header)]
    if model_grid:
        volumes.append(Volume(_stored(image), placement.model.affine))
    writers = {
        folder / name: _writer(volume, words) for name, volume in zip(names, volumes, strict=True)
    }
    write_set(folder / sidecar, record, writers)
    return folder / names[0]


def _writer(volume: Volume, words: str) -> Callable[[Path], object]:
    return lambda part: write_volume(volume, part, words)


def _stored(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rounded to 1/4096: finer than any noise, and the file is half as large."""
    return (np.rint(image * 4096) / 4096).astype(np.float32)
