"""What a piece of work takes: seconds and bytes, on the CPU or a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Cost:
    """What one piece of work took: time [s], largest memory of the process meanwhile [bytes]."""

    seconds: float
    memory: float


def measure(device: torch.device, work: Callable[[], object]) -> Cost:
    """What `work` takes on a device."""
    with measuring(device) as lap:
        work()
        return lap()


@contextmanager
def measuring(device: torch.device) -> Iterator[Callable[[], Cost]]:
    """Gives a function that tells the cost since it was last asked."""
    reset_peak(device)
    started = [time.perf_counter()]

    def lap() -> Cost:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        now = time.perf_counter()
        cost = Cost(now - started[0], peak_memory(device))
        reset_peak(device)
        started[0] = time.perf_counter()
        return cost

    yield lap


def peak_memory(device: torch.device) -> float:
    """Most memory [bytes]: of the GPU in use, else of this process since the last reset."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * float(line.split()[1])
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else 1024 * peak)


def reset_peak(device: torch.device) -> None:
    """Where the system can: on Linux and on a GPU. Elsewhere peaks only grow, and are upper bounds."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return
