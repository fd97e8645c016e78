"""What a scan of fine voxels is worth as the guide of a thick scan of another contrast.

    python benchmarks/guide.py OPENMS_MNI --out runs/guide

OPENMS_MNI as in any_contrast.py. T2w and FLAIR are cut into slices of 4 mm in three directions and upsampled with the
defaults, without samples: alone; guided by the T1w scan of the session (1 mm); guided by it turned by 5 degrees
and shifted by 4 mm, as a patient moves between two scans; by it in slices of 4 mm too, of another direction; and by
the other of T2w and FLAIR. `guide.tsv` has a row for each: PSNR [dB] and SSIM in the
brain, contrast of the lesions over the truth's, CPU seconds, and for guides how far the registration left voxels of
the brain from where they belong, root mean square [mm].
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from any_contrast import closeness, lesion_contrast, whole_slices
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from vcm.errors import VCMWarning
from vcm.files import write_table
from vcm.imaging.volume import Volume, read_volume
from vcm.metrics import bootstrap_interval
from vcm.upsampling.detail.head_detail import load_detail
from vcm.upsampling.simulate import simulate_slices
from vcm.upsampling.upsample import upsample
from vcm.weights.load import load_pipeline

CONTRASTS, DIRECTIONS, SPACING = ("T2w", "FLAIR"), ("axial", "coronal", "sagittal"), 4.0


def moved(scan: Volume) -> tuple[Volume, NDArray]:
    """The same head 5 degrees and 4 mm elsewhere, and the motion that brings it back."""
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_rotvec(np.radians(5) * np.array([0.6, 0.64, 0.48])).as_matrix()
    centre = scan.grid.centre
    motion[:3, 3] = centre - motion[:3, :3] @ centre + 4 * np.array([0.48, -0.6, 0.64])
    return replace(scan, affine=motion @ scan.affine), np.linalg.inv(motion)


def across(scan: Volume, direction: str) -> Volume:
    """The scan in slices of another direction, the next one."""
    other = DIRECTIONS[(DIRECTIONS.index(direction) + 1) % len(DIRECTIONS)]
    return replace(simulate_slices(scan, other, SPACING)[0], source=scan.source)


def distance(one: NDArray, other: NDArray, scan: Volume) -> float:
    """Root mean square over the brain of how far two motions put its voxels apart [mm]."""
    voxels = np.argwhere(scan.data > 0)[::101]
    places = np.c_[voxels, np.ones(len(voxels))] @ scan.affine.T
    apart = (places @ (one - other).T)[:, :3]
    return float(np.sqrt(np.square(apart).sum(1).mean()))


def measure(
    truth: Volume,
    t1w: Volume,
    other: tuple[str, Volume],
    lesions: NDArray,
    key: dict[str, Any],
    models: tuple[Any, Any],
) -> Iterator[dict[str, Any]]:
    """Rows of one scan in one direction."""
    pipeline, net = models
    thick, _ = simulate_slices(truth, key["direction"], SPACING)
    thick = replace(thick, source=truth.source)
    brain = truth.data > 0
    elsewhere, back = moved(t1w)
    guides: dict[str, tuple[Volume | None, NDArray]] = {
        "none": (None, np.eye(4)), "T1w": (t1w, np.eye(4)), "T1w, moved": (elsewhere, back),
        "T1w, thick": (across(t1w, key["direction"]), np.eye(4)), other[0]: (other[1], np.eye(4)),
    }  # fmt: skip
    for name, (guide, right) in guides.items():
        started = time.process_time()
        result = upsample(thick, pipeline, samples=0, detail=net, guide=guide)
        seconds = time.process_time() - started
        contrast = lesion_contrast(result.volume.data, lesions, brain)
        row = closeness(result.volume.data, truth.data)
        row |= {
            "lesion_contrast": contrast / lesion_contrast(truth.data, lesions, brain),
            "seconds": seconds,
        }
        off = distance(result.guide.to_scan, right, guide) if result.guide and guide else None
        numbers = {k: round(float(v), 4) for k, v in row.items()}
        yield key | {"guide": name} | numbers | {"off": "n/a" if off is None else round(off, 3)}


def summarise(rows: list[dict[str, Any]]) -> None:
    """Paired gains over the result alone, bootstrapped over scans and directions."""
    for contrast in CONTRASTS:
        own = [r for r in rows if r["contrast"] == contrast]
        alone = np.array([r["psnr"] for r in own if r["guide"] == "none"])
        for guide in dict.fromkeys(r["guide"] for r in own):
            mine = [r for r in own if r["guide"] == guide]
            gains = np.array([r["psnr"] for r in mine]) - alone
            low, high = bootstrap_interval(lambda g: float(g.mean()), gains)
            means = {k: np.mean([r[k] for r in mine]) for k in ("psnr", "ssim", "seconds")}
            told = ", ".join(f"{k} {v:.3f}" for k, v in means.items())
            lesions = sorted(r["lesion_contrast"] for r in mine)
            print(
                f"{contrast}, guide {guide}: {told}, gain {gains.mean():+.2f} [{low:.2f}, {high:.2f}] dB, lesions "
                f"{lesions[0]:.2f} to {lesions[-1]:.2f}, mean {np.mean(lesions):.2f}, n {len(mine)}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bids", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/guide"))
    given = parser.parse_args()
    warnings.simplefilter("ignore", VCMWarning)
    given.out.mkdir(parents=True, exist_ok=True)
    models = load_pipeline("brain1mm"), load_detail("heads1mm")
    rows: list[dict[str, Any]] = []
    for anat in sorted(given.bids.glob("sub-*/anat")):
        subject = anat.parent.name
        mask = read_volume(anat / f"{subject}_label-lesion_mask.nii.gz")
        lesions = whole_slices(mask, SPACING).data > 0
        t1w = whole_slices(read_volume(anat / f"{subject}_T1w.nii.gz"), SPACING)
        scans = {
            c: whole_slices(read_volume(anat / f"{subject}_{c}.nii.gz"), SPACING) for c in CONTRASTS
        }
        for contrast, other in (CONTRASTS, CONTRASTS[::-1]):
            for direction in DIRECTIONS:
                key = {"subject": subject, "contrast": contrast, "direction": direction}
                both = scans[contrast], t1w, (other, scans[other])
                for row in measure(*both, lesions, key, models):
                    rows.append(row)
                    print(*row.values(), flush=True)
                    write_table(given.out / "guide.tsv", rows, list(rows[0]))
    summarise(rows)


if __name__ == "__main__":
    main()
