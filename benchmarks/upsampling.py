"""How close `vcm upsample` comes to scans whose slices were thickened, beside its competitors.

    python benchmarks/upsampling.py BIDS --model brain1mm --cnn FOLDER --out runs/upsampling --spacings 4 8

Every brain-extracted scan of the split is brought to 1 mm on its own axes (the truth), cut into
thick axial slices, and upsampled the way the command does. FOLDER is what `vcm pretrain detail
expects=false` wrote: the same network, trained on the same scans, that sees no model. Tables in `out`:

    upsampling.tsv    subject, spacing, method: PSNR [dB] and SSIM inside the brain, over the brain's range
    volumes.tsv       subject, spacing, method, tissue: volume [mL] that the segmenter finds
    calibration.tsv   subject, spacing, tenth of the voxels by stated error: stated and real error, and
                      the share of the brain that has a stated error

and example_SPACINGmm.png, the first subject by every method; `upsampling_page.py` makes a page of them.
`--part 1 2` and `--part 2 2` in two processes, each with its own `out`, share the subjects.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from upsampling_page import TABLES, write_page

from vcm.files import write_table
from vcm.imaging.acquisition import grid_about, isotropic_about
from vcm.imaging.brain import to_unit_range
from vcm.imaging.conditions import CLASS_NAMES, class_volumes
from vcm.imaging.geometry import model_grid, to_model_grid
from vcm.imaging.source import find_scans
from vcm.imaging.volume import Volume, read_volume, write_volume
from vcm.metrics import psnr, ssim
from vcm.nets.detail import DetailNet
from vcm.nets.segmenter import TissueSegmenter
from vcm.pipeline import VCMPipeline
from vcm.report.picture import compared
from vcm.upsampling.detail.brain_detail import add_detail
from vcm.upsampling.detail.consistency import DataConsistency
from vcm.upsampling.pretraining.isotropic_scan import brain_on
from vcm.upsampling.results.upsampled import Upsampled
from vcm.upsampling.scans.space import Image, ResultSpace
from vcm.upsampling.scans.thick_scan import ThickScan
from vcm.upsampling.simulate import simulate_slices
from vcm.upsampling.upsample import upsample
from vcm.weights.load import load_pipeline
from vcm.weights.segmenter import load_segmenter


def truth_at(path: Path, spacing: float, thick: float) -> Volume:
    """The scan at `spacing` [mm] on its own axes; as many voxels across slices as these fill."""
    scan = read_volume(path)
    sizes = list(isotropic_about(scan.grid, spacing).shape)
    across = int(np.abs(scan.affine[2, :3] / scan.grid.spacing).argmax())
    per = round(thick / spacing)
    sizes[across] = sizes[across] // per * per
    grid = grid_about((sizes[0], sizes[1], sizes[2]), scan.grid, (spacing,) * 3)
    return brain_on(grid, scan, scan.data > 0)[0]


def thickened(
    truth: Volume, spacing: float, uneven: float = 0.0, direction: str = "axial"
) -> Volume:
    """Thick slices, brain-extracted: a voxel is brain where half of its slice is.

    Odd slices are brighter than even ones by the share `uneven`.
    """
    thick, acquisition = simulate_slices(truth, direction, spacing)
    slices = np.moveaxis(thick.data, acquisition.axis, 0)
    slices[1::2] *= 1 + uneven
    return thick


def measured(
    found: NDArray, truth: Volume, units: tuple[float, float], data_range: float
) -> dict[str, float]:
    """PSNR and SSIM inside the brain, values in the range of its percentiles."""
    low, _ = units
    image, original = (
        torch.from_numpy(np.clip((v - low) / data_range, 0, 1).astype(np.float32))[None, None]
        for v in (found, truth.data)
    )
    brain = torch.from_numpy(truth.data > 0)[None, None]
    return {"psnr": psnr(image, original, brain), "ssim": ssim(image, original, brain)}


@dataclass(frozen=True)
class Settings:
    """What `upsample` is called with."""

    samples: int
    steps: int
    noise: float
    detail_noise: float


def methods(
    result: Upsampled,
    settings: Settings,
    vcm: DetailNet,
    cnn: DetailNet | None,
    wanted: Sequence[str] = (),
) -> dict[str, NDArray]:
    """Competitors on the fine grid, scaled; `vcm` is what the command writes by default. Empty: every one."""
    space = ResultSpace(result.scan)
    measured = DataConsistency(result.scan, noise=settings.noise)

    def detailed(begun: Image, net: DetailNet, mirrors: bool) -> Image:
        return add_detail(space, measured, begun, net, settings.detail_noise, mirrors)[0]

    made: dict[str, Callable[[], NDArray]] = {
        "linear": lambda: result.scan.as_it_came(1),
        "cubic": lambda: result.cubic,
        "linear, projected": lambda: measured.interpolated,
    }
    if cnn is not None:
        made["cnn"] = lambda: detailed(measured.interpolated, cnn, False)
        made["cnn, mirrors"] = lambda: detailed(measured.interpolated, cnn, True)
    made |= {
        "vcm sample, published way": lambda: result.unprojected[0],
        "vcm mean of samples, published way": lambda: result.unprojected.mean(0),
        "vcm sample": lambda: result.samples[0],
        "vcm expected": lambda: result.expected,
        "vcm, no mirrors": lambda: detailed(result.expected, vcm, False),
        "vcm": lambda: result.mean,
    }
    return {name: make() for name, make in made.items() if not wanted or name in wanted}


def tissue_volumes(
    image: NDArray, brain: NDArray, thick: ThickScan, segmenter: TissueSegmenter
) -> dict[str, float]:
    """Volume [mL] of each class, found where the scan was aligned, at 2 mm."""
    grid = model_grid(2.0)
    moved = [
        to_model_grid(Volume(v.astype(np.float32), thick.fine.affine), grid, thick.to_common, 1)
        for v in (image, brain)
    ]
    scaled, _ = to_unit_range(moved[0], moved[1] > 0.5)
    found = segmenter.classes(torch.from_numpy(scaled)[None, None])[0].numpy()
    return class_volumes(found, grid.voxel_volume)


@dataclass
class Tables:
    """Rows, written after every scan."""

    out: Path
    upsampling: list[dict[str, Any]] = field(default_factory=list)
    volumes: list[dict[str, Any]] = field(default_factory=list)
    calibration: list[dict[str, Any]] = field(default_factory=list)

    def write(self) -> None:
        for name in TABLES:
            rows = getattr(self, name)
            write_table(self.out / f"{name}.tsv", rows, list(rows[0]))


def measure(
    tables: Tables,
    truth: Volume,
    cut: Volume,
    key: dict[str, Any],
    settings: Settings,
    pipelines: tuple[VCMPipeline, VCMPipeline | None],
    segmenter: TissueSegmenter,
    wanted: Sequence[str] = (),
) -> None:
    """One scan by every method, or by those that are wanted."""
    started = time.monotonic()
    result = upsample(cut, pipelines[0], **vars(settings))
    thick = result.scan
    assert result.std is not None, "no detail network and no samples"
    seconds = time.monotonic() - started
    brain = truth.data > 0
    low, high = np.percentile(truth.data[brain], [0.5, 99.5])
    vcm, cnn = pipelines
    images = methods(result, settings, vcm.detail, None if cnn is None else cnn.detail, wanted)
    if not wanted and all(row["spacing"] != key["spacing"] for row in tables.upsampling):
        picture = tables.out / f"example_{key['spacing']:g}mm.png"
        draw_example(images, truth, thick, result.std, picture)
    for name, image in images.items():
        quality = measured(thick.in_units(image), truth, (low, high), high - low)
        row = {"method": name, **quality, "seconds": round(seconds, 1)}
        tables.upsampling.append(key | row)
    for name, image in {"truth": truth.data, **images}.items():
        found = tissue_volumes(image, brain, thick, segmenter)
        for tissue in CLASS_NAMES[1:]:
            row = {"method": name, "tissue": tissue, "volume": found[tissue]}
            tables.volumes.append(key | row)
    unit = (thick.units[1] - thick.units[0]) / (high - low)
    doubted = brain & (result.std > 0)  # some of the rim is brain in the truth, not in thick slices
    error = np.abs(thick.in_units(result.mean) - truth.data)[doubted] / (high - low)
    stated = result.std[doubted] * unit
    ranks = {"rank_correlation": spearmanr(stated[::23], error[::23]).statistic}
    if settings.samples > 1:
        spread = result.samples.std(0)[doubted] * unit
        ranks["rank_correlation_samples"] = spearmanr(spread[::23], error[::23]).statistic
    order = np.argsort(stated)
    for tenth, part in enumerate(np.array_split(order, 10), start=1):
        row = {
            "tenth": tenth,
            "stated": float(np.sqrt(np.square(stated[part]).mean())),
            "root_mean_square_error": float(np.sqrt(np.square(error[part]).mean())),
            "mean_absolute_error": float(error[part].mean()),
            "share_of_brain": round(float(doubted.sum() / brain.sum()), 4),
        }
        tables.calibration.append(key | row | {n: round(float(v), 4) for n, v in ranks.items()})


def draw_example(
    images: dict[str, NDArray], truth: Volume, thick: ThickScan, error: NDArray, path: Path
) -> None:
    """One subject: the slices, each method that is shown, the truth, stated and real error (x 5)."""
    shown: dict[str, NDArray] = {"thick slices": thick.interpolated(0)}
    shown |= {n: images[n] for n in ("cubic", "cnn", "vcm sample", "vcm") if n in images}
    low, high = thick.units
    shown["truth"] = (truth.data - low) / (high - low)
    shown["|vcm - truth| x 5"] = 5 * np.abs(images["vcm"] - shown["truth"])
    shown["stated error x 5"] = 5 * error
    compared(list(shown.values()), list(shown), thick.fine.affine, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bids", type=Path)
    parser.add_argument("--model", default="brain1mm")
    parser.add_argument(
        "--cnn", default="", help="the model folder of a training with expects=false"
    )
    parser.add_argument("--segmenter", default="segmenter2mm")
    parser.add_argument("--out", type=Path, default=Path("runs/upsampling"))
    parser.add_argument("--thick", type=Path, default=Path("runs/thick"), help="the cut scans")
    parser.add_argument("--split", default="test", help="choose settings on train")
    parser.add_argument("--spacings", type=float, nargs="+", default=[4.0, 8.0])
    parser.add_argument("--limit", type=int)
    parser.add_argument(
        "--methods", nargs="+", default=[], help="names of the table; these alone, and no page"
    )
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--detail-noise", type=float, default=0.5)
    parser.add_argument("--uneven", type=float, default=0.0, help="gain of odd over even slices")
    parser.add_argument("--part", type=int, nargs=2, default=(1, 1), metavar=("K", "N"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    scans = find_scans(given.bids, split=given.split)[: given.limit]
    part, parts = given.part
    scans = [s for n, s in enumerate(scans) if n * parts // len(scans) == part - 1]
    settings = Settings(given.samples, given.steps, given.noise, given.detail_noise)
    pipeline = load_pipeline(given.model)
    cnn = load_pipeline(given.cnn) if given.cnn else None
    segmenter = load_segmenter(given.segmenter)
    tables = Tables(given.out)
    for spacing in given.spacings:
        for scan in scans:
            truth = truth_at(scan.image, 1.0, spacing)
            path = given.thick / f"{scan.subject}_acq-{spacing:g}mm_T1w.nii.gz"
            write_volume(thickened(truth, spacing, given.uneven), path)
            cut = read_volume(path)
            key = {"subject": scan.subject, "spacing": spacing}
            measure(tables, truth, cut, key, settings, (pipeline, cnn), segmenter, given.methods)
            tables.write()
            print(scan.subject, spacing, flush=True)
    if not given.methods:
        print(write_page(given.out).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
