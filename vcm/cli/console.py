"""What a command says beside its results: progress and notes on stderr, nothing where it is to be quiet."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_quiet = False


def set_up(quiet: bool = False, verbose: bool = False) -> None:
    """Choose how much is said; progress bars are for a terminal only.

    Args:
        quiet: No progress, no notes.
        verbose: What libraries log, too.
    """
    import rich

    global _quiet
    _quiet = quiet
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
    from rich.progress import Progress

    with Progress(transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
