"""Run each way of a benchmark in a process of its own, one after the other, and print them in columns.

So ratios compare runs of the same minute on the same machine, and each peak of memory is that way's
own: on Linux a child inherits its parent's, so the caller must not import torch before it measures.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Sequence


def peak_mib() -> float:
    """Peak resident set of this process so far [MiB]."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def compare(
    script: str, ways: Sequence[str], options: Sequence[str], units: dict[str, str]
) -> None:
    """Print what `script --measure WAY options` says, a JSON object with the keys of `units`, and its
    ratio to that of the first way."""
    print(f"{'':20} " + " ".join(f"{f'{name} [{unit}]':>20}" for name, unit in units.items()))
    first: dict[str, float] = {}
    for way in ways:
        command = [sys.executable, script, "--measure", way, *options]
        result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(result.stdout.splitlines()[-1])
        first = first or found
        cells = (f"{found[name]:8.1f} ({found[name] / first[name]:.2f} x)" for name in units)
        print(f"{way:20} " + " ".join(f"{cell:>20}" for cell in cells), flush=True)
