"""How close `vcm upsample` comes to scans whose slices were thickened, beside plain interpolation.

    python benchmarks/upsampling.py BIDS --model brain1mm --out runs/upsampling --spacings 4 8

Every brain-extracted scan of the split is brought to 1 mm on its own axes (the truth), cut into
thick axial slices, and upsampled the way the command does. One row per subject, spacing and method
goes to upsampling.tsv; means with 95 % bootstrap intervals, and paired differences to the best
interpolation, are printed and go to summary.md. PSNR [dB] and SSIM inside the brain, intensities over
the brain's range. `before` and `after`: VCM without and with the projection onto the slices.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from vcm.imaging.acquisition import grid_about
from vcm.imaging.dataset import find_scans, write_table
from vcm.imaging.degradation import simulate_thick
from vcm.imaging.geometry import resample
from vcm.imaging.volume import Volume, read_volume, write_volume
from vcm.metrics import bootstrap_interval, psnr, ssim
from vcm.tasks.upsample import Upsampling, load_upsampler, read_scans, upsample_scans


def truth_at(path: Path, spacing: float, thick: float) -> Volume:
    """The scan at `spacing` [mm] on its own axes; as many voxels across slices as these fill."""
    scan = read_volume(path)
    sizes = [
        round(n * s / spacing) for n, s in zip(scan.data.shape, scan.grid.spacing, strict=True)
    ]
    across = int(np.abs(scan.affine[2, :3] / scan.grid.spacing).argmax())
    per = round(thick / spacing)
    sizes[across] = sizes[across] // per * per
    grid = grid_about((sizes[0], sizes[1], sizes[2]), scan.grid, (spacing,) * 3)
    data = np.maximum(resample(scan, grid, order=3), 0)
    mask = resample(scan.with_data((scan.data > 0).astype(np.float32)), grid, order=1) > 0.5
    return Volume(np.where(mask, data, 0).astype(np.float32), grid.affine, source=path.name)


def thickened(truth: Volume, spacing: float) -> Volume:
    """Axial slices, brain-extracted: a voxel is brain where half of its slice is."""
    thick, _ = simulate_thick(truth, "axial", spacing)
    mask, _ = simulate_thick(truth.with_data((truth.data > 0).astype(np.float32)), "axial", spacing)
    return thick.with_data(np.where(mask.data > 0.5, np.maximum(thick.data, 1e-3), 0))


def measured(
    found: NDArray, truth: Volume, units: tuple[float, float], data_range: float
) -> dict[str, float]:
    """PSNR and SSIM inside the brain, values in the range of its percentiles."""
    low, _ = units
    images = [
        torch.from_numpy(np.clip((v - low) / data_range, 0, 1).astype(np.float32))[None, None]
        for v in (found, truth.data)
    ]
    brain = torch.from_numpy(truth.data > 0)[None, None]
    return {"psnr": psnr(*images, brain), "ssim": ssim(*images, brain)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bids", type=Path)
    parser.add_argument("--model", default="brain1mm")
    parser.add_argument("--out", type=Path, default=Path("runs/upsampling"))
    parser.add_argument("--split", default="test", help="choose settings on train")
    parser.add_argument("--spacings", type=float, nargs="+", default=[4.0, 8.0])
    parser.add_argument("--limit", type=int)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--noise", type=float, default=0.1)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    scans = [s for s in find_scans(given.bids) if s.split == given.split][: given.limit]
    config = Upsampling(
        scans=[Path("none")], model=given.model, samples=given.samples, steps=given.steps,
        noise=given.noise,
    )  # fmt: skip
    pipeline = load_upsampler(config)
    rows: list[dict[str, object]] = []
    for spacing in given.spacings:
        for scan in scans:
            truth = truth_at(scan.image, 1.0, spacing)
            path = given.out / "thick" / f"{scan.subject}_acq-{spacing:g}mm_T1w.nii.gz"
            write_volume(thickened(truth, spacing), path)
            config.scans = [path]
            started = time.monotonic()
            (thick,) = read_scans(config, pipeline)
            result = upsample_scans([thick], pipeline, config)
            seconds = time.monotonic() - started
            low, high = np.percentile(truth.data[truth.data > 0], [0.5, 99.5])
            methods = {
                "linear": thick.interpolated(1), "cubic": result.cubic,
                "projected": thick.degradation.project(
                    thick.interpolated(1), thick.volume.data, given.noise
                ),
                "vcm before, sample": result.before[0], "vcm before": result.before.mean(0),
                "vcm after, sample": result.samples[0], "vcm after": result.mean,
            }  # fmt: skip
            brain = truth.data > 0
            error = np.abs(thick.in_units(result.mean) - truth.data)[brain]
            rank = float(spearmanr(result.std[brain][::23], error[::23]).statistic)
            for name, image in methods.items():
                row = {"subject": scan.subject, "spacing": spacing, "method": name}
                row |= measured(thick.in_units(image), truth, (low, high), high - low)
                row |= {"seconds": round(seconds, 1), "rank_correlation": round(rank, 4)}
                rows.append(row)
            print(scan.subject, spacing, f"{seconds:.0f} s", flush=True)
            write_table(given.out / "upsampling.tsv", rows, list(rows[0]))
    page = summary(rows)
    (given.out / "summary.md").write_text(page, encoding="utf-8")
    print(page)


def summary(rows: list[dict[str, object]]) -> str:
    """A table per spacing: mean with interval, and paired difference to cubic interpolation."""
    lines = []
    for spacing in dict.fromkeys(row["spacing"] for row in rows):
        own = [row for row in rows if row["spacing"] == spacing]
        lines += [
            f"\n{spacing:g} mm slices, {len({r['subject'] for r in own})} subjects\n",
            "| method | PSNR [dB] | minus cubic | SSIM |", "|---|---|---|---|",
        ]  # fmt: skip
        cubic = np.array([float(str(r["psnr"])) for r in own if r["method"] == "cubic"])
        for name in dict.fromkeys(row["method"] for row in own):
            values = np.array([float(str(r["psnr"])) for r in own if r["method"] == name])
            alike = np.array([float(str(r["ssim"])) for r in own if r["method"] == name])
            low, high = bootstrap_interval(lambda v: v.mean(), values - cubic, seed=0)
            lines.append(
                f"| {name} | {values.mean():.2f} | {(values - cubic).mean():+.2f} [{low:+.2f}, "
                f"{high:+.2f}] | {alike.mean():.3f} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
