"""The files of an upsampling: volumes, sidecar, picture. Knows names and what is recorded of a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vcm.files import write_set
from vcm.imaging.contrast import contrast_of_name
from vcm.imaging.volume import Volume, write_volume
from vcm.report.picture import compared
from vcm.upsampling.result import Upsampled

MARK = "upsampled by a generative model, vcm"


def file_names(source: str, samples: int, seed: int, output: str) -> dict[str, str]:
    """Names of the files by what they are; the volumes first, of these the result first.

    Args:
        source: Name of the first scan's file.
        samples: How many are drawn.
        seed: Of the first.
        output: mean or sample.
    """
    stem, suffix = _split(source)
    volume = f"{stem}_desc-upsampled_{suffix}"
    names = {
        "result": f"{volume}.nii.gz",
        "generated": f"{stem}_desc-generated_mask.nii.gz",
        "uncertainty": f"{stem}_desc-upsampledstd_{suffix}.nii.gz",
    }
    for n in range(samples):
        names[f"sample {n}"] = f"{stem}_desc-upsampled_seed-{seed + n}_{suffix}.nii.gz"
    if output == "sample":
        names["mean"] = f"{stem}_desc-upsampledmean_{suffix}.nii.gz"
    names["brain mask"] = f"{stem}_desc-brain_mask.nii.gz"
    names["picture"] = f"{stem}_desc-upsampled_comparison.png"
    return names | {"sidecar": f"{volume}.json"}


def write_result(
    result: Upsampled, out: Path, names: Mapping[str, str], record: Mapping[str, Any]
) -> list[Path]:
    """Every file of one upsampling, whole, and the sidecar that tells what they are.

    Args:
        result: In the space of the first scan.
        out: Folder.
        names: As `file_names` gives them.
        record: What goes into the sidecar.

    Returns:
        Paths; the first is the result.
    """
    volumes = {
        "result": result.sample(0) if "mean" in names else result.volume,
        "generated": result.generated,
        "uncertainty": result.uncertainty,
        "mean": result.volume,
        "brain mask": result.brain_mask,
    } | {f"sample {n}": result.sample(n) for n in range(len(result.samples))}
    writers: dict[Path, Callable[[Path], object]] = {}
    for what, name in names.items():
        volume = volumes.get(what)
        if volume is not None:
            writers[out / name] = _writer(volume)
    writers[out / names["picture"]] = lambda part: _draw(result, part)
    sidecar = out / names["sidecar"]
    write_set(sidecar, dict(record), writers)
    return [*writers, sidecar]


def _writer(volume: Volume) -> Callable[[Path], object]:
    return lambda part: write_volume(volume, part, MARK)


def _split(name: str) -> tuple[str, str]:
    """sub-1_T1w.nii.gz -> (sub-1, T1w); a name that says no contrast is taken for T1w."""
    name = name.removesuffix(".gz").removesuffix(".nii")
    stem, found, suffix = name.rpartition("_")
    by_bids = suffix.isalnum() and "-" in stem
    known = contrast_of_name(name) is not None
    return (stem, suffix) if found and (by_bids or known) else (name, "T1w")


def _draw(result: Upsampled, path: Path) -> None:
    scan = result.scan
    columns = {
        "thick slices": scan.as_it_came(order=0),
        "cubic interpolation": result.cubic,
        "upsampled": result.mean,
    }
    if len(result.samples):
        columns["one sample"] = result.samples[0]
    if result.std is not None:
        stated = result.std[result.generated_share > 0.5]
        white = max(float(np.percentile(stated, 99)) if stated.size else 0.0, 1e-6)
        columns[f"uncertainty (white: {white:.2f} of the range)"] = result.std / white
    brain = result.generated_share > 0.5
    compared(list(columns.values()), list(columns), scan.fine, path, outline=brain)


def describe_result(result: Upsampled) -> dict[str, Any]:
    """What a sidecar says of the computation."""
    scan = result.scan
    return {
        "Synthetic": "in part",
        "Warning": "Detail between the slices is made by a generative model: not for diagnosis.",
        "Acquisition": str(scan.acquisition),
        "LostSlices": list(scan.lost),
        "RimVoxelsFilled": 0 if scan.rim is None else int(np.isfinite(scan.rim).sum()),
        **scan.contrast.describe(),
        "ModelTookPart": result.model_took_part,
        "FrozenModelTookPart": scan.contrast.is_t1w,
        **(scan.found.describe() if scan.found else {}),
        "Inputs": {name: asdict(given) for name, given in result.inputs.items()},
        "Spacing": list(scan.fine.spacing),
        "Uncertainty": result.uncertainty_kind,
        "ResidualRMS": result.residual,
        "ResidualUnit": "of the range from the 0.5th to the 99.5th percentile of the brain",
        "IntensityRange": list(scan.units),
        "ToCommonSpace": scan.to_common.tolist(),
    }
