"""How well `vcm upsample --profile auto` finds the width of slices, and what a wrong width costs.

    python benchmarks/slice_profile.py estimate DS002748 OPENMS_MNI --out runs/slice_profile
    python benchmarks/slice_profile.py cost DS002748 --out runs/slice_profile
    python benchmarks/slice_profile.py calibrate DS002748 --limit 12

`estimate` cuts brain-extracted scans along three directions, the slices 0.6 to 1.4 times as wide as they are
apart, plainly and with noise and gains of 2 %, and writes slice_profile.tsv: one row per scan, direction,
spacing and width, with the width that is found and its uncertainty [spacing]. `cost` upsamples axial slices of
4 mm with the true width, with the spacing taken for it and with the width that is found; it writes cost.tsv,
PSNR [dB] and SSIM inside the brain.
`calibrate` prints the table ANISOTROPY of vcm/upsampling/scans/profile.py, of the split train.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from upsampling import measured, truth_at

from vcm.files import write_table
from vcm.imaging.acquisition import SLICE_NAMES, Acquisition, isotropic_grid
from vcm.imaging.extraction import find_brain
from vcm.imaging.source import find_scans
from vcm.imaging.volume import Volume, read_volume
from vcm.upsampling.detail.head_detail import load_detail
from vcm.upsampling.scans.profile import (
    CALIBRATED_SPACINGS,
    TRIED,
    NoEstimate,
    compare_directions,
    estimate_width,
)
from vcm.upsampling.simulate import simulate_slices
from vcm.upsampling.upsample import upsample
from vcm.weights.load import load_pipeline

FACTORS = (0.6, 0.8, 1.0, 1.2, 1.4)
#: Noise and unevenness, as `vcm simulate` has them.
FAULTS = (0.0, 0.02)
CONTRASTS = ("T1w", "T2w", "FLAIR")


def scans_of(given: argparse.Namespace) -> Iterator[tuple[str, str, Path]]:
    """Subject, contrast and path of each scan; a folder of several contrasts gives three of all subjects."""
    for folder in given.folders:
        found = [
            (path.parts[-3], contrast, path)
            for contrast in CONTRASTS
            for path in sorted(folder.glob(f"sub-*/anat/sub-*_{contrast}.nii.gz"))
            if "ce-gd" not in path.name
        ]
        if {contrast for _, contrast, _ in found} == {"T1w"}:
            found = [(s.subject, "T1w", s.image) for s in find_scans(folder, split=given.split)]
        yield from found[given.skip :][: given.limit]


def cut(
    volume: Volume, direction: str, spacing: float, factor: float, fault: float = 0.0
) -> tuple[Volume, Acquisition]:
    return simulate_slices(
        volume, direction, spacing, factor * spacing, noise=fault, uneven=fault, seed=1
    )


def estimate(given: argparse.Namespace) -> None:
    rows: list[dict[str, Any]] = []
    cuts = list(product(given.faults, SLICE_NAMES, given.spacings, FACTORS))
    for subject, contrast, path in scans_of(given):
        volume = read_volume(path)
        for fault, direction, spacing, factor in cuts:
            key = {
                "subject": subject, "contrast": contrast, "direction": direction,
                "spacing": spacing, "fault": fault, "width": factor,
            }  # fmt: skip
            rows.append(key | found(*cut(volume, direction, spacing, factor, fault)))
        write_table(given.out / "slice_profile.tsv", rows, list(rows[0]))
        print(subject, contrast, flush=True)
    summarize(rows)


def found(thick: Volume, acquisition: Acquisition) -> dict[str, Any]:
    """Width and its uncertainty [spacing]; n/a where there is none."""
    fine = isotropic_grid(thick.grid, acquisition, 1.0)
    try:
        width = estimate_width(thick, find_brain(thick).mask, acquisition, fine)
    except NoEstimate:
        return {"found": "n/a", "std": "n/a"}
    spacing = acquisition.spacing
    return {"found": round(width.fwhm / spacing, 4), "std": round(width.std / spacing, 4)}


def summarize(rows: list[dict[str, Any]]) -> None:
    """Of each contrast, fault and width: error, and how often it is within two stated deviations."""
    for contrast in CONTRASTS:
        for fault in FAULTS:
            for factor in FACTORS:
                of = [
                    r for r in rows
                    if (r["contrast"], r["fault"], r["width"]) == (contrast, fault, factor)
                ]  # fmt: skip
                known = [r for r in of if r["found"] != "n/a"]
                if not known:
                    continue
                width, std = (np.array([float(r[k]) for r in known]) for k in ("found", "std"))
                off = width - factor
                print(
                    f"{contrast}\tfaults {fault:.0%}\twidth {factor:g}: found {width.mean():.2f} ± "
                    f"{width.std(ddof=1):.2f}, root mean square error {np.sqrt((off**2).mean()):.3f}, "
                    f"worst {off[np.abs(off).argmax()]:+.2f}, stated {std.mean():.3f}, within two of "
                    f"these {(np.abs(off) < 2 * std).mean():.0%}, none found in {len(of) - len(known)} of {len(of)}"
                )


def cost(given: argparse.Namespace) -> None:
    pipeline, detail = load_pipeline("brain1mm"), load_detail("heads1mm")
    rows: list[dict[str, Any]] = []
    spacing = 4.0
    for subject, contrast, path in scans_of(given):
        truth = truth_at(path, 1.0, spacing)
        low, high = np.percentile(truth.data[truth.data > 0], [0.5, 99.5])
        for factor in (0.6, 1.0, 1.4):
            thick, acquisition = cut(truth, "axial", spacing, factor)
            thick = replace(thick, source=path.name)  # whose name tells the contrast
            told = found(thick, acquisition)["found"]
            widths = {"true": factor, "spacing": 1.0, "auto": 1.0 if told == "n/a" else told}
            made: dict[float, dict[str, float]] = {}
            for assumed, width in widths.items():
                if width not in made:
                    result = upsample(
                        thick, pipeline, detail=detail, samples=0, slice_thickness=width * spacing
                    )
                    image = result.scan.in_units(result.mean)
                    made[width] = measured(image, truth, (low, high), float(high - low))
                row = {"subject": subject, "contrast": contrast, "width": factor}
                row |= {"assumed": assumed, "as": width}
                rows.append(row | {k: round(v, 4) for k, v in made[width].items()})
                print(rows[-1], flush=True)
            write_table(given.out / "cost.tsv", rows, list(rows[0]))


def calibrate(given: argparse.Namespace) -> None:
    given.split = "train"
    for direction in SLICE_NAMES[::-1]:
        means, spreads = [], []
        for spacing in CALIBRATED_SPACINGS:
            each = [apart(read_volume(path), direction, spacing) for *_, path in scans_of(given)]
            means.append(round(float(np.mean(each)), 3))
            spreads.append(round(float(np.std(each, ddof=1)), 3))
        print(f'"{direction}": {tuple(means)},  # between brains {spreads}', flush=True)


def apart(volume: Volume, direction: str, spacing: float) -> float:
    """T at the true width, the mean over three widths."""
    at = []
    for factor in (0.6, 1.0, 1.4):
        thick, acquisition = cut(volume, direction, spacing, factor)
        fine = isotropic_grid(thick.grid, acquisition, 1.0)
        found, _ = compare_directions(thick, find_brain(thick).mask, acquisition, fine)
        at.append(np.interp(np.log(factor), np.log(TRIED), found))
    return float(np.mean(at))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["estimate", "cost", "calibrate"])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--split", default="test", help="choose settings on train")
    parser.add_argument("--skip", type=int, default=0, help="scans of each folder")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--spacings", type=float, nargs="+", default=[4.0, 6.0])
    parser.add_argument("--faults", type=float, nargs="+", default=list(FAULTS))
    parser.add_argument("--out", type=Path, default=Path("runs/slice_profile"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    {"estimate": estimate, "cost": cost, "calibrate": calibrate}[given.what](given)


if __name__ == "__main__":
    main()
