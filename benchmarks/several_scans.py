"""What further thick scans of one head add: axial alone, then with a coronal, then with a sagittal one.

    python benchmarks/several_scans.py BIDS --spacing 4 --out runs/several

Brain-extracted scans of the split are cut as in upsampling.py. several.tsv: subject, method, PSNR [dB]
and SSIM inside the brain. `cubic` interpolates the axial scan, `cubic of three` averages three interpolations.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from upsampling import measured, thickened, truth_at

from vcm.files import write_table
from vcm.imaging.source import find_scans
from vcm.imaging.volume import read_volume, write_volume
from vcm.metrics import bootstrap_interval
from vcm.upsampling.scans.border import interpolate_to_border
from vcm.upsampling.upsample import upsample
from vcm.weights.load import load_pipeline

DIRECTIONS = ("axial", "coronal", "sagittal")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bids", type=Path)
    parser.add_argument("--model", default="brain1mm")
    parser.add_argument("--out", type=Path, default=Path("runs/several"))
    parser.add_argument("--split", default="test")
    parser.add_argument("--spacing", type=float, default=4.0)
    parser.add_argument("--limit", type=int)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    pipeline = load_pipeline(given.model)
    rows: list[dict[str, object]] = []
    for scan in find_scans(given.bids, split=given.split)[: given.limit]:
        truth = truth_at(scan.image, 1.0, given.spacing)
        scans = [
            read_volume(
                write_volume(
                    thickened(truth, given.spacing, direction=direction),
                    given.out / f"{scan.subject}_acq-{direction}_T1w.nii.gz",
                )
            )
            for direction in DIRECTIONS
        ]
        results = [upsample(scans[:n], pipeline, samples=0) for n in (1, 2, 3)]
        fine = results[0].scan.fine
        cubics = [interpolate_to_border(s.data, s.grid, fine, order=3) for s in scans]
        images = {"cubic": cubics[0], "cubic of three": np.mean(cubics, axis=0)}
        for count, result in enumerate(results, start=1):
            name = f"vcm of {', '.join(DIRECTIONS[:count])}"
            images[name] = result.scan.in_units(result.mean)
        low, high = np.percentile(truth.data[truth.data > 0], [0.5, 99.5])
        for name, image in images.items():
            quality = measured(image, truth, (low, high), high - low)
            rows.append({"subject": scan.subject, "method": name, **quality})
        write_table(given.out / "several.tsv", rows, list(rows[0]))
        print(scan.subject, flush=True)
    best = _of(rows, name)
    for name in dict.fromkeys(str(row["method"]) for row in rows):
        values = _of(rows, name)
        low, high = bootstrap_interval(lambda v: v.mean(), best - values, seed=0)
        print(f"{name}: {values.mean():.2f} dB; all three minus it {low:+.2f} to {high:+.2f} dB")


def _of(rows: list[dict[str, object]], name: str) -> np.ndarray:
    return np.array([float(str(row["psnr"])) for row in rows if row["method"] == name])


if __name__ == "__main__":
    main()
