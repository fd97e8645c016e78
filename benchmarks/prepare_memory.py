"""Peak memory of `vcm prepare` by the number of scans, and what 500 would take: it must not grow with them.

    python benchmarks/prepare_memory.py --counts 10 40 80
    python benchmarks/prepare_memory.py --counts 4 8 16 --spacing 1

Scans are the MNI152 brain at the spacing of the set, moved by whole millimetres; 2 processes, whose scans are
those of the set shared between them. Without --register scans are taken to lie in the common space, which leaves
out most of the time and none of what could grow with their number. Prints a row for each number of scans:
seconds, and the largest resident memory [MB] of the command and of a worker; then, by least squares over the
rows, the growth per scan and what 500 scans would take, with 95 % intervals. A scan that stayed in memory would
show as 3 MB per scan at 2 mm, and 23 MB at 1 mm. The picture shows 48 scans, so that a command of fewer draws less.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.stats import linregress, t

from vcm.imaging.geometry import IDENTITY, model_grid, resample
from vcm.imaging.registration import common_template
from vcm.imaging.volume import Grid, Volume, write_volume

#: That the figures are extrapolated to.
MANY = 500


def write_scans(folder: Path, count: int, spacing: float) -> None:
    """A BIDS folder of that many brains, each at a place of its own."""
    grid = model_grid(spacing)
    template = resample(common_template(), grid, IDENTITY)
    values = np.where(template > 0.2, 200 * template, 0)
    random = np.random.default_rng(0)
    for n in range(count):
        affine = grid.affine.copy()
        affine[:3, 3] += (n % 5, n // 5 % 5, n // 25)
        name = f"sub-{n:03d}"
        noisy = np.where(values > 0, values + random.normal(0, 2, values.shape), 0)
        brain = Volume(np.rint(noisy.clip(0)).astype(np.uint8), Grid(grid.shape, affine).affine)
        write_volume(brain, folder / name / "anat" / f"{name}_T1w.nii.gz")


def measure(source: Path, out: Path, spacing: float, register: bool) -> tuple[float, float, float]:
    """(seconds, MB of the command, MB of its largest worker) of one run in a process of its own."""
    code = (
        "import resource, sys; from pathlib import Path; from vcm.preparation.prepare import prepare;"
        "import numpy, vcm.imaging.brain; from vcm.imaging.geometry import model_grid;"
        + ("" if register else "vcm.imaging.brain.align_rigid = lambda image: numpy.eye(4);")
        + "prepare(Path(sys.argv[1]), Path(sys.argv[2]), workers=2, grid=model_grid(float(sys.argv[3])));"
        "print(*(resource.getrusage(who).ru_maxrss / 1024"
        " for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))"
    )
    start = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(source), str(out), str(spacing)],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    command, worker = map(float, ran.stdout.split()[-2:])
    return time.perf_counter() - start, command, worker


def growth(counts: list[int], megabytes: list[float]) -> str:
    """Growth per scan, and what MANY scans would take, with 95 % intervals of a straight line."""
    fit = linregress(counts, megabytes)
    if len(counts) < 3:
        return f"{1000 * fit.slope:+.0f} kB per scan, of two numbers of scans"
    free, x = len(counts) - 2, np.array(counts, float)
    residual = np.array(megabytes) - fit.intercept - fit.slope * x
    spread = np.sqrt((residual**2).sum() / free)
    at_many = fit.intercept + fit.slope * MANY
    of_line = np.sqrt(1 / len(x) + (MANY - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum())
    width = t.ppf(0.975, free)
    return (
        f"{1000 * fit.slope:+.0f} kB per scan (± {1000 * width * fit.stderr:.0f}); {MANY} scans: "
        f"{at_many:.0f} MB (± {width * spread * of_line:.0f})"
    )


def main() -> None:
    """Print the table and the two lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 40, 80])
    parser.add_argument("--spacing", type=float, default=2.0, help="of the scans and the set [mm]")
    parser.add_argument("--register", action="store_true")
    given = parser.parse_args()
    print("scans\tseconds\tcommand [MB]\tworker [MB]")
    of_command, of_worker = [], []
    for count in given.counts:
        with tempfile.TemporaryDirectory() as folder:
            source, out = Path(folder, "source"), Path(folder, "out")
            write_scans(source, count, given.spacing)
            seconds, command, worker = measure(source, out, given.spacing, given.register)
        of_command.append(command)
        of_worker.append(worker)
        print(f"{count}\t{seconds:.0f}\t{command:.0f}\t{worker:.0f}", flush=True)
    if len(given.counts) > 1:
        print(f"command: {growth(given.counts, of_command)}")
        print(f"worker: {growth(given.counts, of_worker)}")


if __name__ == "__main__":
    main()
