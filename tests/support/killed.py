"""A job in a process of its own that SIGKILL ends just before one of the moments at which it touches a folder.

Moments are each file opened for writing there, and each file or folder made, renamed or removed, so that a test
can take any of them by number, the same in every run.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fork_server import fork_server

from vcm.files import sha256

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"}
#: Seconds until a job counts as stuck.
PATIENCE = 600
#: Shares of the moments of a whole run: the first and the last, and 20 of a seed.
SHARES = [0.0, 1.0, *(round(float(u), 3) for u in np.random.default_rng(0).random(20))]
MOMENTS = [pytest.param(u, marks=pytest.mark.slow) for u in SHARES]


def run(job: Callable[..., object], *arguments: Any, folder: Path, moment: int = -1) -> int:
    """Run `job(*arguments)` until the moment of that number, from 0; -1: to its end.

    Args:
        job: Of a module that a process can import.
        arguments: Its own.
        folder: Whose moments count.
        moment: Which of them.

    Returns:
        How many moments there were, of a run to its end; else -1.
    """
    context = fork_server()
    ends, begins = context.Pipe(False)
    process = context.Process(target=_child, args=(job, arguments, str(folder), moment, begins))
    process.start()
    begins.close()
    process.join(PATIENCE)
    process.kill()
    if moment >= 0:
        assert process.exitcode == -signal.SIGKILL, process.exitcode
        return -1
    assert process.exitcode == 0, process.exitcode
    return int(ends.recv())


def at(share: float, moments: int) -> int:
    """Number of the moment at that share of a whole run."""
    return min(int(share * moments), moments - 1)


@dataclass(frozen=True)
class Whole:
    """A run to its end of a job that takes a folder of inputs and one of results.

    Attributes:
        job: Of a module that a process can import.
        given: Folder of its inputs.
        out: Folder of its results.
        files: What it left there, as `content` has it.
        moments: How many there were.
    """

    job: Callable[[Path, Path], object]
    given: Path
    out: Path
    files: dict[str, str]
    moments: int

    @classmethod
    def of(cls, job: Callable[[Path, Path], object], given: Path) -> Whole:
        """Run the job, with the folder of results beside its inputs."""
        out = given / "out"
        moments = run(job, given, out, folder=out)
        return cls(job, given, out, content(out), moments)

    def kill(self, share: float) -> None:
        """Run it anew until a share of its moments; what is there then is whole."""
        shutil.rmtree(self.out)
        run(self.job, self.given, self.out, folder=self.out, moment=at(share, self.moments))
        assert seen(self.out).items() <= self.files.items()

    def again(self) -> None:
        """Run it over what is there."""
        run(self.job, self.given, self.out, folder=self.out)


def _child(job: Any, arguments: Any, folder: str, moment: int, counted: Any) -> None:
    calls = itertools.count()

    def watch(event: str, details: Any) -> None:
        if event not in EVENTS or not isinstance(details[0], str | Path):
            return
        if event == "open" and not (isinstance(details[2], int) and details[2] & WRITES):
            return
        if str(details[0]).startswith(folder) and next(calls) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    job(*arguments)
    counted.send(next(calls))


def content(folder: Path) -> dict[str, str]:
    """Checksum of every file by its name."""
    return {str(p.relative_to(folder)): sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def seen(folder: Path) -> dict[str, str]:
    """The same without what has a temporary name."""
    return {name: checksum for name, checksum in content(folder).items() if "/." not in f"/{name}"}
