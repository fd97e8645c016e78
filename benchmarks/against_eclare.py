"""`vcm upsample` beside ECLARE, which trains a network of its own on every scan.

    pip install eclare==1.0.1    # GPL-3, in an environment of its own: it is run as a program, never imported
    python benchmarks/against_eclare.py OPENMS_MNI --eclare ENVIRONMENT/bin/run-eclare --out runs/eclare

Brains of two patients in T1w, T2w and FLAIR (see any_contrast.py), cut into axial slices whose profile is Gaussian
with a full width at half maximum of the spacing, which both are told. ECLARE trains on --patches of its
default 1,000,000, with all else as it comes. Rows in OUT/eclare.tsv: scan, method, PSNR [dB] and SSIM inside the brain, share of
ECLARE's default training, CPU seconds (ECLARE's of the program, ours without the start of Python). Rows that are there already are not
made again. The program's output stays in OUT/logs.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
from pathlib import Path

import numpy as np
from any_contrast import COLUMNS, closeness, measure, whole_slices
from numpy.typing import NDArray

from vcm.files import read_table, write_table
from vcm.imaging.geometry import resample
from vcm.imaging.volume import Volume, read_volume, write_volume
from vcm.metrics import bootstrap_interval
from vcm.upsampling.detail.head_detail import load_detail
from vcm.upsampling.simulate import simulate_slices
from vcm.weights.load import load_pipeline

DEFAULT_PATCHES = 1_000_000
#: The first four are of both patients and of three contrasts.
SCANS = (
    ("sub-ljubljana07", "FLAIR"), ("sub-ljubljana07", "T2w"), ("sub-ljubljana19", "T1w"),
    ("sub-ljubljana19", "FLAIR"), ("sub-ljubljana19", "T2w"), ("sub-ljubljana07", "T1w"),
)  # fmt: skip


def run_eclare(
    program: Path, thick: Volume, like: Volume, patches: int, folder: Path
) -> tuple[NDArray[np.float32], float]:
    """What ECLARE makes of a scan, on the grid of another, and its CPU seconds.

    Raises:
        SystemExit: The program failed; its last words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scan = folder / "thick.nii.gz"
    write_volume(thick, scan)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Relative to the spacing: 1 is what the slices were cut with.
    command = [program, "--in-fpath", scan, "--out-dir", folder, "--n-patches", patches]
    command += ["--relative-slice-thickness", 1, "--gpu-id", -1]
    # Nothing of this environment is for that program.
    without = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)], env=without, capture_output=True, text=True, check=False
    )
    (folder / "log.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    made = sorted(p for p in folder.glob("*.nii*") if p != scan)
    if done.returncode or len(made) != 1:
        raise SystemExit(f"ECLARE ended with {done.returncode}:\n{done.stderr[-2000:]}")
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return resample(read_volume(made[0]), like.grid, order=3).astype(np.float32), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bids", type=Path)
    parser.add_argument("--eclare", type=Path, required=True, help="the program run-eclare")
    parser.add_argument("--patches", type=int, default=25_600)
    parser.add_argument("--spacing", type=float, default=4.0)
    parser.add_argument("--detail", default="weights/heads1mm")
    parser.add_argument("--scans", type=int, default=len(SCANS), help="the first few alone")
    parser.add_argument("--out", type=Path, default=Path("runs/eclare"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    table = given.out / "eclare.tsv"
    columns = [*COLUMNS[:5], "psnr", "ssim", "training_share", "seconds"]
    rows = [dict(row) for row in read_table(table)] if table.is_file() else []
    pipeline, detail = load_pipeline("brain1mm"), load_detail(Path(given.detail))
    for subject, contrast in SCANS[: given.scans]:
        if any((row["subject"], row["contrast"]) == (subject, contrast) for row in rows):
            continue
        anat = given.bids / subject / "anat"
        scan = read_volume(anat / f"{subject}_{contrast}.nii.gz")
        mask = read_volume(anat / f"{subject}_label-lesion_mask.nii.gz")
        truth, lesions = (whole_slices(v, given.spacing) for v in (scan, mask))
        key = {
            "subject": subject,
            "contrast": contrast,
            "direction": "axial",
            "spacing": given.spacing,
        }
        rows += list(measure(truth, lesions.data > 0, key, pipeline, detail))
        thick, _ = simulate_slices(truth, "axial", given.spacing)
        folder = given.out / "logs" / f"{subject}_{contrast}"
        image, seconds = run_eclare(given.eclare, thick, truth, given.patches, folder)
        row = {k: round(v, 4) for k, v in closeness(image, truth.data).items()}
        share = given.patches / DEFAULT_PATCHES
        row |= {"training_share": share, "seconds": round(seconds, 1)}
        rows.append(key | {"method": "eclare"} | row)
        write_table(table, rows, columns)
        gains = (f"{r['method']} {float(r['psnr']):.2f} dB" for r in rows[-3:])
        print(subject, contrast, *gains, flush=True)
    for measured in ("psnr", "ssim"):
        ours, theirs = (
            np.array([float(r[measured]) for r in rows if r["method"] == method])
            for method in ("vcm", "eclare")
        )
        low, high = bootstrap_interval(lambda g: float(g.mean()), ours - theirs)
        print(
            f"vcm minus eclare, {measured}: {(ours - theirs).mean():+.3f} [{low:+.3f}, {high:+.3f}]"
        )


if __name__ == "__main__":
    main()
