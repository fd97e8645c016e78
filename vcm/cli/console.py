"""What a command says beside its results: progress and notes on stderr, nothing where it is to be quiet.

A terminal gets the bars of vcm.progress. A log, which is no terminal, gets nothing, or with --verbose a line now
and then, so that a batch system shows whether a job moves on.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_quiet = False


def set_up(quiet: bool = False, verbose: bool = False) -> None:
    """Choose how much is said; progress bars are for a terminal only.

    Args:
        quiet: No progress, no notes.
        verbose: What libraries log, too, and lines of progress where there is no terminal.
    """
    import rich

    global _quiet
    _quiet = quiet
    rich.reconfigure(stderr=True, quiet=quiet)
    if verbose and not quiet:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", force=True)


def notes() -> Console:
    """Where a command writes what is no result."""
    from rich.console import Console

    # As it is written: rich would take [final] in the name of a folder for a style, and :x: for a picture.
    return Console(
        stderr=True, quiet=_quiet, markup=False, emoji=False, highlight=False, soft_wrap=True
    )
