"""What `vcm synthesize` costs from a cold start, beside `vcm --help`.

    python benchmarks/synthesize.py [--steps 50] [--repeats 3]

Each run is a process of its own: wall time and peak resident memory of the whole command, the
import of torch, the registration and the files included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time

_MEASURE = """
import json, resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps({"code": code, "peak_kib": peak}))
"""


def measure(arguments: list[str]) -> tuple[float, float]:
    """(wall seconds, peak GB) of one `vcm` command in a new process."""
    command = [sys.executable, "-m", "vcm", *arguments]
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, *command], capture_output=True, text=True, check=True
    )
    seconds = time.monotonic() - started
    found = json.loads(done.stdout)
    if found["code"]:
        sys.exit(f"vcm {' '.join(arguments)} ended with {found['code']}: {done.stderr}")
    return seconds, found["peak_kib"] * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as out:
        rows = {
            "vcm --help": ["--help"],
            f"vcm synthesize example, {given.steps} steps": [
                "synthesize", "example", "--out", out, "--steps", str(given.steps),
            ],
        }  # fmt: skip
        for name, arguments in rows.items():
            runs = [measure(arguments) for _ in range(given.repeats)]
            seconds = ", ".join(f"{s:.2f}" for s, _ in runs)
            print(f"{name}: {seconds} s, peak {max(p for _, p in runs):.2f} GB")


if __name__ == "__main__":
    main()
