"""What `vcm upsample` costs with its defaults and with `--samples 0`, each in a process of its own.

    python benchmarks/upsample_cost.py SCAN [SCAN ...]

For each scan of thick slices: CPU seconds, which say most on a machine with other work, wall seconds and the peak of
resident memory of the whole command, the imports included. OMP_NUM_THREADS=1 keeps it to one thread.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

from fresh_process import compare, peak_mib

WAYS = {"default": [], "--samples 0": ["--samples", "0"]}
UNITS = {"CPU": "s", "wall": "s", "peak": "MiB"}


def measure(scan: Path, options: list[str]) -> dict[str, float]:
    """Upsample in this process; nothing that it writes is kept."""
    begun = time.monotonic()
    from vcm.cli.main import run_command

    with tempfile.TemporaryDirectory() as out:
        code = run_command(["upsample", str(scan), "--out", out, "--quiet", *options])
    if code:
        raise SystemExit(code)
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime
    return {"CPU": cpu, "wall": time.monotonic() - begun, "peak": peak_mib()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scans", type=Path, nargs="+")
    parser.add_argument("--measure", choices=WAYS, help="Measure one way, in this process.")
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.scans[0], WAYS[given.measure])))
        return
    for scan in given.scans:
        print(scan.name)
        compare(__file__, list(WAYS), [str(scan)], UNITS)


if __name__ == "__main__":
    main()
