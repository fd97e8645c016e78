"""Which contrast is found of a scan whose name does not tell it: the thresholds of `vcm.imaging.contrast`.

    python benchmarks/contrast.py openms_mni --prepared PREPARED [PREPARED ...] --limit 25 --out runs/contrast

The scans of each subject of a BIDS folder, as they come and cut into slices of 4 mm in three directions and of 6 mm;
and the first training scans, T1w, of each folder that `vcm prepare` wrote. `contrast.tsv` has a row for each: the
true contrast by its name, the one found without it, and what was measured: how far white is above deep grey matter
(template), and above cortex (tissues of the scan).
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from any_contrast import whole_slices

from vcm.errors import VCMWarning
from vcm.files import write_table
from vcm.imaging.bids import stem
from vcm.imaging.brain import align_brain
from vcm.imaging.contrast import contrast_of_name
from vcm.imaging.extraction import find_brain
from vcm.imaging.geometry import model_grid
from vcm.imaging.prepared_set import load_prepared
from vcm.imaging.volume import Volume, read_volume
from vcm.upsampling.simulate import simulate_slices
from vcm.weights.contrast import find_contrast

CUTS = (("axial", 4.0), ("coronal", 4.0), ("sagittal", 4.0), ("axial", 6.0))
GRID = model_grid()


def row_of(scan: Volume, name: str, slices: str = "none") -> dict[str, Any]:
    """What is found of a scan without its name."""
    image = align_brain(scan, find_brain(scan).mask, GRID, any_contrast=True).image
    found = find_contrast(image, GRID)
    return {
        "scan": name, "slices": slices, "true": contrast_of_name(scan.source), "found": found.name,
        "in_doubt": found.is_in_doubt, "separation": round(found.separation, 3),
        "above_cortex": round(found.above_cortex or 0.0, 3),
    }  # fmt: skip


def rows_of_bids(folder: Path) -> Iterator[dict[str, Any]]:
    """Every scan of every subject, as it comes and in thick slices."""
    for path in sorted(folder.glob("sub-*/anat/*.nii.gz")):
        if contrast_of_name(path.name) is None:
            continue
        scan = read_volume(path)
        yield row_of(scan, stem(path))
        for direction, spacing in CUTS:
            thick, _ = simulate_slices(whole_slices(scan, spacing), direction, spacing)
            shown = replace(thick, source=scan.source)
            yield row_of(shown, stem(path), f"{direction} {spacing:g} mm")


def rows_of_prepared(folder: str, limit: int) -> Iterator[dict[str, Any]]:
    """T1w scans of the training split."""
    for subject in load_prepared(folder, split="train")[:limit]:
        scan = replace(read_volume(subject.image_file), source=f"{subject.subject}_T1w.nii.gz")
        yield row_of(scan, subject.subject)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bids", type=Path)
    parser.add_argument("--prepared", nargs="*", default=[])
    parser.add_argument("--limit", type=int, default=25)
    parser.add_argument("--out", type=Path, default=Path("runs/contrast"))
    given = parser.parse_args()
    warnings.simplefilter("ignore", VCMWarning)
    given.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for found in (
        rows_of_bids(given.bids),
        *(rows_of_prepared(folder, given.limit) for folder in given.prepared),
    ):
        for row in found:
            rows.append(row)
            print(*row.values(), flush=True)
            write_table(given.out / "contrast.tsv", rows, list(rows[0]))


if __name__ == "__main__":
    main()
