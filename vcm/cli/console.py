"""What a command says beside its results: progress and notes on stderr, nothing where it is to be quiet.

A terminal gets a bar with rate, remaining time and memory. A log, which is no terminal, gets nothing, or with
--verbose a line now and then, so that a batch system shows whether a job moves on.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_quiet = False
_verbose = False
#: Least time between two lines of progress in a log [s].
LOG_EVERY = 30.0


def set_up(quiet: bool = False, verbose: bool = False) -> None:
    """Choose how much is said; progress bars are for a terminal only.

    Args:
        quiet: No progress, no notes.
        verbose: What libraries log, too, and lines of progress where there is no terminal.
    """
    import rich

    global _quiet, _verbose
    _quiet, _verbose = quiet, verbose
    rich.reconfigure(stderr=True, quiet=quiet or not sys.stderr.isatty())
    if verbose:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", force=True)


def notes() -> Console:
    """Where a command writes what is no result."""
    from rich.console import Console

    return Console(stderr=True, quiet=_quiet)


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for the time of the block; gives a function that is told the steps done, and how many there are."""
    if not sys.stderr.isatty():
        yield _Log(title).tell
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}"),
    )
    started = time.monotonic()
    with Progress(*columns, console=notes(), transient=True) as bar:
        task = bar.add_task(title, total=None, pace="")

        def tell(done: int, total: int) -> None:
            pace = pace_in_words(done, total, time.monotonic() - started)
            bar.update(task, completed=done, total=total, pace=pace)

        yield tell


class _Log:
    """A line of progress now and then, if --verbose asks for it."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.started = self.told = time.monotonic()

    def tell(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not _verbose or _quiet or (now - self.told < LOG_EVERY and done < total):
            return
        self.told = now
        pace = pace_in_words(done, total, now - self.started)
        print(f"{self.title}: {done}/{total}, {pace}", file=sys.stderr, flush=True)


def pace_in_words(done: int, total: int, seconds: float) -> str:
    """Rate, remaining time and the most memory so far.

    Args:
        done: Steps that are done.
        total: Steps in all.
        seconds: Since the first began.
    """
    if not done or seconds <= 0:
        return ""
    rate = done / seconds
    shown = f"{rate:.2g}/s" if rate >= 1 else f"{1 / rate:.3g} s each"
    left = round((total - done) / rate)
    hours, rest = divmod(left, 3600)
    clock = f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
    return f"{shown}, {clock} left, {_memory() / 1e9:.1f} GB"


def _memory() -> float:
    """Most memory of this process so far [bytes]; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else 1024 * peak)
