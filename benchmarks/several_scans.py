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
from vcm.imaging.volume import write_volume
from vcm.metrics import bootstrap_interval
from vcm.upsampling.thick_scan import interpolate_to_border
from vcm.upsampling.upsample import Upsampling, load_upsampler, read_scans, upsample_scans

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
    config = Upsampling(scans=[Path("none")], model=given.model, samples=0)
    pipeline = load_upsampler(config)
    rows: list[dict[str, object]] = []
    for scan in find_scans(given.bids, split=given.split)[: given.limit]:
        truth = truth_at(scan.image, 1.0, given.spacing)
        config.scans = [
            write_volume(
                thickened(truth, given.spacing, direction=direction),
                given.out / f"{scan.subject}_acq-{direction}_T1w.nii.gz",
            )
            for direction in DIRECTIONS
        ]
        scans = read_scans(config, pipeline)
        first = scans[0]
        cubics = [
            s.in_units(interpolate_to_border(s.volume.data, s.volume.grid, first.fine, order=3))
            for s in scans
        ]
        images = {"cubic": cubics[0], "cubic of three": np.mean(cubics, axis=0)}
        for count in (1, 2, 3):
            name = f"vcm of {', '.join(DIRECTIONS[:count])}"
            images[name] = first.in_units(upsample_scans(scans[:count], pipeline, config).mean)
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
