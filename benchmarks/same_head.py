"""How surely `vcm upsample --guide` tells a guide of the same head from that of another.

    python benchmarks/same_head.py OPENMS_MNI --heads PREPARED --out runs/same_head

OPENMS_MNI as in any_contrast.py. T1w, T2w and FLAIR are cut into slices in three directions, with noise or without,
and each is offered as guides: the other contrasts of the session; the T1w scan of the other patient; and the T1w
brains of --heads, any set that `vcm prepare` made. A row each in OUT/same_head.tsv: the
overlap of the brains, the share of the slices' local variance that the guide explains, the same of its mirror image.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from any_contrast import whole_slices
from guide import DIRECTIONS

from vcm.errors import VCMWarning
from vcm.files import write_table
from vcm.imaging.prepared_set import load_prepared
from vcm.imaging.volume import Volume, read_volume
from vcm.upsampling.scans.placed_guide import LEAST_OVERLAP, find_guide
from vcm.upsampling.scans.same_head import Likeness
from vcm.upsampling.scans.thick_scan import to_thick_scan
from vcm.upsampling.simulate import simulate_slices
from vcm.weights.load import load_pipeline

CONTRASTS = ("FLAIR", "T2w", "T1w")
#: Slice spacing [mm] and noise as a share of the brain's range.
SLICES = ((4.0, 0.0), (6.0, 0.05))


def rows_of(
    scan: Volume, guides: dict[str, Volume], key: dict[str, Any], model: Any
) -> Iterator[dict[str, Any]]:
    """One scan in one direction."""
    random = np.random.default_rng(0)
    thick, _ = simulate_slices(whole_slices(scan, key["spacing"]), key["direction"], key["spacing"])
    brain = thick.data > 0
    added = key["noise"] * np.ptp(thick.data) * random.standard_normal(thick.data.shape)
    data = np.where(brain, np.maximum(thick.data + added, 1e-3), 0).astype(np.float32)
    seen = to_thick_scan(replace(thick, data=data, source=scan.source), model, 1.0)
    for name, guide in guides.items():
        found = find_guide(guide, seen)
        yield key | {
            "guide": name, "overlap": round(found.overlap, 4), "agreement": round(found.likeness.agreement, 4),
            "mirrored": round(found.likeness.mirrored, 4),
        }  # fmt: skip


def summarise(rows: list[dict[str, Any]]) -> None:
    """The least ratio of the same head, the largest of others, and how many the rules get wrong."""
    for same in (True, False):
        own = [r for r in rows if r["guide"].startswith("own") == same]
        if not own:
            continue
        found, mirrored, overlap = (
            np.array([r[k] for r in own]) for k in ("agreement", "mirrored", "overlap")
        )
        ratios = found / mirrored
        alike = [Likeness(*pair).is_of_one_head for pair in zip(found, mirrored, strict=True)]
        taken = np.array(alike) & (overlap >= LEAST_OVERLAP)
        what = "the same head" if same else "another head"
        print(
            f"{what}: {len(own)} guides, agreement over that of the mirror image {ratios.min():.2f} to "
            f"{ratios.max():.2f}; {taken.sum()} accepted"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bids", type=Path)
    parser.add_argument("--heads", required=True, help="a folder of vcm prepare")
    parser.add_argument("--others", type=int, default=4, help="heads of --heads")
    parser.add_argument("--out", type=Path, default=Path("runs/same_head"))
    given = parser.parse_args()
    warnings.simplefilter("ignore", VCMWarning)
    given.out.mkdir(parents=True, exist_ok=True)
    model = load_pipeline("brain1mm").volume_grid
    heads = {
        s.subject: read_volume(s.image_file) for s in load_prepared(given.heads)[: given.others]
    }
    sessions = {
        anat.parent.name: {
            c: read_volume(anat / f"{anat.parent.name}_{c}.nii.gz") for c in CONTRASTS
        }
        for anat in sorted(given.bids.glob("sub-*/anat"))
    }
    rows: list[dict[str, Any]] = []
    for subject, scans in sessions.items():
        others = {s: v["T1w"] for s, v in sessions.items() if s != subject} | heads
        for contrast, scan in scans.items():
            own = {f"own {c}": v for c, v in scans.items() if c != contrast}
            for direction in DIRECTIONS:
                for spacing, noise in SLICES:
                    key = {
                        "subject": subject, "contrast": contrast, "direction": direction, "spacing": spacing,
                        "noise": noise,
                    }  # fmt: skip
                    for row in rows_of(scan, own | others, key, model):
                        rows.append(row)
                        print(*row.values(), flush=True)
                    write_table(given.out / "same_head.tsv", rows, list(rows[0]))
    summarise(rows)


if __name__ == "__main__":
    main()
