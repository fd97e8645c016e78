"""How far long work is: a bar in a terminal, a line now and then in a log.

Knows rates, remaining time and memory; nothing of what is done. The lines go to the logger `vcm` at level INFO:
a program that wants them in a log sets that level, as `--verbose` does.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
#: Least time between two lines of a log [s].
LOG_EVERY = 30.0
#: Parts into which a bar is divided.
_PARTS = 1000
_log = logging.getLogger("vcm")
#: Whether a bar is on the screen: two would not share it, and the outer one stays.
_drawn = False


class Tell(Protocol):
    """Says how far work is."""

    def __call__(self, done: int, total: int, state: str = "", share: float | None = None) -> None:
        """Say it.

        Args:
            done: Steps that are done.
            total: Steps in all; 0: nobody knows.
            state: What else there is to say in a few words.
            share: Of the work that is done, 0..1, where it is not the share of the steps.
        """


@contextmanager
def progress(
    title: str, begun: int = 0, share: float = 0.0, file: Path | None = None
) -> Iterator[Tell]:
    """Progress for the time of the block.

    Args:
        title: What is done.
        begun: Steps that were done before: they say nothing of the rate.
        share: Of the work that was done before.
        file: Gets the lines of a log at its end, wherever else progress is shown.

    Yields:
        The function to call after every step.
    """
    pace = Pace(begun, share)
    with ExitStack() as held:
        outlets: list[Callable[[int, int, float, str], None]] = []
        if (screen := _screen()) is not None:
            outlets.append(held.enter_context(_bar(title, screen)))
        elif not _drawn:
            outlets.append(_lines(title, _log_line))
        if file is not None:
            stream = held.enter_context(file.open("a", encoding="utf-8"))
            outlets.append(_lines(title, lambda line: _write_line(stream, line)))

        def tell(done: int, total: int, state: str = "", share: float | None = None) -> None:
            part = (done / total if total else 0.0) if share is None else share
            words = ", ".join(w for w in (state, pace.in_words(done, part)) if w)
            for show in outlets:
                show(done, total, part, words)

        yield tell


def track(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
    """The items, with progress while they are worked on.

    Args:
        items: What is worked on.
        title: What is done.
        total: How many there are, of items that do not say.
    """
    count = total if total is not None else len(items) if isinstance(items, Sized) else 0
    with progress(title) as tell:
        for done, item in enumerate(items, start=1):
            yield item
            tell(done, count)


@contextmanager
def stages(first: str) -> Iterator[Callable[[str], None]]:
    """Progress of work whose steps are few and unlike each other, for the time of the block.

    Args:
        first: What is done at first.

    Yields:
        The function to call with what is done next.
    """
    screen = _screen()
    if screen is not None:
        with screen.status(first) as status:
            yield status.update
        return
    started = time.monotonic()

    def tell(stage: str) -> None:
        _log.info("%s (after %.0f s, %s)", stage, time.monotonic() - started, _memory())

    tell(first)
    yield tell


class Pace:
    """Rate, remaining time and most memory of work that begins now.

    Args:
        begun: Steps that were done before.
        share: Of the work that was done before.
    """

    def __init__(self, begun: int = 0, share: float = 0.0) -> None:
        self.begun, self.share = begun, share
        self.started = time.monotonic()

    def in_words(self, done: int, share: float) -> str:
        """Of the work at this moment; empty before a step is done.

        Args:
            done: Steps that are done, with those before.
            share: Of the work that is done, 0..1.
        """
        seconds = time.monotonic() - self.started
        if done <= self.begun or share <= self.share or seconds <= 0:
            return ""
        rate = (done - self.begun) / seconds
        shown = f"{rate:.2g}/s" if rate >= 1 else f"{1 / rate:.3g} s each"
        left = round(seconds * max(0.0, 1 - share) / (share - self.share))
        hours, rest = divmod(left, 3600)
        return f"{shown}, {hours}:{rest // 60:02d}:{rest % 60:02d} left, {_memory()}"


def _memory() -> str:
    """Most memory so far, of the process and of the GPU that it uses."""
    own = ""
    try:
        import resource
    except ImportError:  # Windows
        pass
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        own = f"{(peak if sys.platform == 'darwin' else 1024 * peak) / 1e9:.1f} GB"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return f"{own}, {torch.cuda.max_memory_allocated() / 1e9:.1f} GB of the GPU"
    return own


def _screen() -> Console | None:
    """Where a bar can be drawn; None: nowhere, or nobody wants it."""
    import rich

    if _drawn:
        return None

    console = rich.get_console()
    # Variables such as FORCE_COLOR make a terminal of a file for rich, where a bar is a nuisance.
    terminal = console.file.isatty() and console.is_terminal and not console.is_dumb_terminal
    return console if (terminal or console.is_jupyter) and not console.quiet else None


@contextmanager
def _bar(title: str, screen: Console) -> Iterator[Callable[[int, int, float, str], None]]:
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[steps]} {task.fields[words]}", markup=False),
    )
    global _drawn
    _drawn = True
    try:
        with Progress(*columns, console=screen, transient=True) as bar:
            task = bar.add_task(title, total=None, steps="", words="")

            def show(done: int, total: int, share: float, words: str) -> None:
                steps = _steps(done, total)
                bar.update(task, total=_PARTS, completed=_PARTS * share, steps=steps, words=words)

            yield show
    finally:
        _drawn = False


def _lines(title: str, write: Callable[[str], None]) -> Callable[[int, int, float, str], None]:
    """A line for the first step, for the last, and between them every LOG_EVERY seconds."""
    told: list[float] = []

    def show(done: int, total: int, share: float, words: str) -> None:
        now = time.monotonic()
        if told and now - told[-1] < LOG_EVERY and share < 1:
            return
        told[:] = [now]
        write(f"{title}: {_steps(done, total)}, {words}".removesuffix(", "))

    return show


def _steps(done: int, total: int) -> str:
    return f"{done}/{total}" if total else str(done)


def _log_line(line: str) -> None:
    _log.info("%s", line)


def _write_line(stream: TextIO, line: str) -> None:
    stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
    stream.flush()
