"""How long `vcm --help` and each `vcm COMMAND --help` take, each in a process of its own.

    python benchmarks/help.py [--repeats 5]

Printed are the least wall time, and the processor time of that run, which other work on the machine
does not lengthen.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

from vcm.cli.main import COMMANDS


def measure(words: list[str]) -> tuple[float, float]:
    """(wall, processor) seconds of one `vcm ... --help`."""

    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before, started = spent(), time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "vcm", *words, "--help"], stdout=subprocess.DEVNULL, check=True
    )
    return time.monotonic() - started, spent() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    for words in ([], *(list(c.words) for c in COMMANDS)):
        wall, processor = min(measure(words) for _ in range(given.repeats))
        print(f"{' '.join(['vcm', *words, '--help']):34} {wall:.2f} s, processor {processor:.2f} s")


if __name__ == "__main__":
    main()
