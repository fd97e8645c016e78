"""A synthetic volume as files: on the voxels of its condition, and beside it what repeats it.

Knows where results go back to, names and sidecars; nothing of how a volume is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vcm import __version__
from vcm.files import sha256, write_json
from vcm.imaging.placing import Placement
from vcm.imaging.volume import Volume, write_volume


def stem_of(condition: Path | None, otherwise: str = "uncontrolled") -> str:
    """First part of the names of all files that are made from a condition."""
    name = condition.name if condition else otherwise
    return name.removesuffix(".gz").removesuffix(".nii")


def write_synthetic(
    image: NDArray[np.float32],
    placement: Placement,
    folder: Path,
    stem: str,
    mark: str,
    record: dict[str, Any],
    model_grid: bool = False,
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

    Returns:
        Path of the volume.

    Raises:
        VCMError: The folder cannot be written to.
    """
    rest = f"desc-synthetic_{mark}_T1w"
    words = f"synthetic, vcm {__version__}, {mark.replace('-', ' ')}"
    moved = placement.to_scan_space(image)
    result = Volume(_stored(moved), placement.target.affine, placement.header)
    path = write_volume(result, folder / f"{stem}_{rest}.nii.gz", words)
    files = {path.name: sha256(path)}
    if model_grid:
        own = Volume(_stored(image), placement.model.affine)
        on_grid = write_volume(own, folder / f"{stem}_space-model_{rest}.nii.gz", words)
        files[on_grid.name] = sha256(on_grid)
    write_json(folder / f"{stem}_{rest}.json", record | {"Files": files})
    return path


def _stored(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rounded to 1/4096: finer than any noise, and the file is half as large."""
    return (np.rint(image * 4096) / 4096).astype(np.float32)
