"""Peak memory of `vcm prepare` for 10, 40 and 160 scans: it must not grow with their number.

    python benchmarks/prepare_memory.py [--register]

Scans are the MNI152 brain at 2 mm, moved by whole millimetres; the set is at 2 mm, with 2 processes. Without
--register scans are taken to lie in the common space, which leaves out most of the time and none of what
could grow with their number. Prints a row for each number of scans: seconds, and the largest resident memory
[MB] of the command and of a worker.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from vcm.imaging.registration import common_template
from vcm.imaging.volume import Volume, write_volume

COUNTS = (10, 40, 160)


def write_scans(folder: Path, count: int) -> None:
    """A BIDS folder of that many brains, each at a place of its own."""
    template = common_template()
    values = np.where(template.data > 0.2, 200 * template.data, 0).astype(np.float32)
    for n in range(count):
        affine = template.affine.copy()
        affine[:3, 3] += (n % 5, n // 5 % 5, n // 25)
        name = f"sub-{n:03d}"
        noisy = np.where(values > 0, values + n / 100, 0).astype(np.float32)
        write_volume(Volume(noisy, affine), folder / name / "anat" / f"{name}_T1w.nii.gz")


def measure(source: Path, out: Path, register: bool) -> tuple[float, float, float]:
    """(seconds, MB of the command, MB of its largest worker) of one run in a process of its own."""
    code = (
        "import resource, sys; from pathlib import Path; from vcm.preparation.prepare import prepare;"
        "import numpy, vcm.imaging.brain;"
        + ("" if register else "vcm.imaging.brain.align_rigid = lambda image: numpy.eye(4);")
        + "prepare(Path(sys.argv[1]), Path(sys.argv[2]), workers=2);"
        "print(*(resource.getrusage(who).ru_maxrss / 1024"
        " for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))"
    )
    start = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-c", code, str(source), str(out)],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    command, worker = map(float, ran.stdout.split()[-2:])
    return time.perf_counter() - start, command, worker


def main() -> None:
    """Print the table."""
    print("scans\tseconds\tcommand [MB]\tworker [MB]")
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as folder:
            write_scans(Path(folder, "source"), count)
            source, out = Path(folder, "source"), Path(folder, "out")
            seconds, command, worker = measure(source, out, "--register" in sys.argv)
        print(f"{count}\t{seconds:.0f}\t{command:.0f}\t{worker:.0f}", flush=True)


if __name__ == "__main__":
    main()
