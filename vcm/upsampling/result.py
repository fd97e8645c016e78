"""What `vcm upsample` leaves behind: volumes in the scan's space and units, sidecar, picture."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vcm.files import fingerprint, sha256, versions, write_json
from vcm.imaging.volume import Volume, write_volume
from vcm.report.picture import compared
from vcm.upsampling.explanation import Image
from vcm.weights.load import model_folder

if TYPE_CHECKING:
    from vcm.upsampling.thick_scan import ThickScan
    from vcm.upsampling.upsample import Upsampled, Upsampling

MARK = "upsampled by a generative model, vcm"


def write_result(result: Upsampled, config: Upsampling, command: list[str]) -> list[Path]:
    """Every file of one upsampling; the first is the result."""
    stem, suffix = _names(config.scans[0])
    scan, out = result.scan, config.out
    chosen = result.mean if config.output == "mean" else result.samples[0]
    low, high = scan.units
    values: dict[str, NDArray] = {
        f"{stem}_desc-upsampled_{suffix}": _in_units(chosen, scan),
        f"{stem}_desc-generated_mask": (result.generated > 0.5).astype(np.uint8),
    }
    if result.std is not None:
        std = ((high - low) * result.std).astype(np.float32)
        values[f"{stem}_desc-upsampledstd_{suffix}"] = std
    for number, sample in enumerate(result.samples):
        seed = config.seed + number
        values[f"{stem}_desc-upsampled_seed-{seed}_{suffix}"] = _in_units(sample, scan)
    if config.output == "sample":
        values[f"{stem}_desc-upsampledmean_{suffix}"] = _in_units(result.mean, scan)
    paths = [
        write_volume(
            Volume(data, scan.fine.affine, scan.volume.header), out / f"{name}.nii.gz", MARK
        )
        for name, data in values.items()
    ]
    picture = _picture(result, out / f"{stem}_desc-upsampled_comparison.png")
    files = {path.name: sha256(path) for path in paths}
    record = _record(result, config, command) | {"Files": files}
    sidecar = paths[0].with_name(paths[0].name.removesuffix(".nii.gz") + ".json")
    write_json(sidecar, record)
    return [*paths, picture, sidecar]


def _in_units(data: NDArray, scan: ThickScan) -> NDArray[np.float32]:
    """In the scan's intensities, none below its least: interpolation beside bright fat goes there."""
    return scan.in_units(np.maximum(data, scan.volume.data.min()))


def _names(path: Path) -> tuple[str, str]:
    """sub-1_T1w.nii.gz -> (sub-1, T1w); a name without a BIDS suffix is taken for T1w."""
    name = path.name.removesuffix(".gz").removesuffix(".nii")
    stem, found, suffix = name.rpartition("_")
    return (stem, suffix) if found and suffix.isalnum() and "-" in stem else (name, "T1w")


def _picture(result: Upsampled, path: Path) -> Path:
    scan = result.scan
    columns = {
        "thick slices": scan.interpolated(order=0),
        "cubic interpolation": result.cubic,
        "upsampled": result.mean,
    }
    if len(result.samples):
        columns["one sample"] = result.samples[0]
    if result.std is not None:
        doubted = result.std[result.generated > 0.5]
        white = max(float(np.percentile(doubted, 99)) if doubted.size else 0.0, 1e-6)
        columns[f"uncertainty (white: {white:.2f} of the range)"] = result.std / white
    return compared(list(columns.values()), list(columns), scan.fine, path)


def _record(result: Upsampled, config: Upsampling, command: list[str]) -> dict[str, Any]:
    scan, folder = result.scan, model_folder(config.model)
    wishes = asdict(config)
    for name in ("scans", "masks", "out"):
        wishes.pop(name)
    return {
        "Synthetic": "in part",
        "Warning": "Detail between the slices is made by a generative model: not for diagnosis.",
        "Command": command,
        "Sources": [path.name for path in config.scans],
        "SourcesSHA256": [sha256(path) for path in config.scans],
        "Acquisition": str(scan.acquisition),
        "Spacing": list(scan.fine.spacing),
        "Output": config.output,
        "Uncertainty": result.doubt,
        "Settings": wishes,
        "ResidualRMS": result.residual,
        "ResidualUnit": "of the range from the 0.5th to the 99.5th percentile of the brain",
        "IntensityRange": list(scan.units),
        "WhiteGreySeparation": scan.separation,
        "ToCommonSpace": scan.to_common.tolist(),
        "ModelSHA256": fingerprint(folder),
        "Versions": versions(),
    }


#: What the uncertainty of a result is.
OF_DETAIL = "error that the detail network expects, one standard deviation"


OF_SAMPLES = "standard deviation of the samples: how they differ, not how far off they are"


OF_NOTHING = "none: it takes a detail network, or --samples 2 or more"


@dataclass(frozen=True)
class Upsampled:
    """What comes out, on the fine grid of the first scan, in 0..1 of its brain.

    mean               the expected brain, with its detail: the estimate of least squared error
    std                standard deviation of its error, see `upsample_scans`, 0 where no model took part;
                       None where nothing tells it; doubt: what it is
    samples, before    (K, X, Y, Z) with and without the projection; cubic: the interpolation
    expected           mean before its detail is added
    generated          share of each voxel that the model made, 0..1; elsewhere it is interpolated
    residual           root mean square of measured minus degraded result inside the brain: of the
                       cubic interpolation, of the expected brain before the projection, of `mean`
    """

    scan: ThickScan
    mean: Image
    std: Image | None
    doubt: str
    expected: Image
    samples: Image
    before: Image
    cubic: Image
    generated: Image
    residual: dict[str, float]
