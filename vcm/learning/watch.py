"""Whether a training run goes well: its losses checked, its curves drawn.

Knows losses, limits and accelerate's trackers; nothing of networks, steps or files.
"""

from __future__ import annotations

import math
import os
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from statistics import median
from types import TracebackType
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from vcm.errors import VCMError

#: Losses that a new one is compared with, and how many must be seen first.
WINDOW = 200


class LossWatch:
    """Finds a loss that has left the range of those before it.

    Args:
        explosion: A loss above this many times the median of the last WINDOW is too large; > 1,
            infinity: no loss is.
        seen: Losses of the run so far, the latest last.
    """

    def __init__(self, explosion: float, seen: Iterable[float] = ()) -> None:
        self.explosion = explosion
        self.seen = deque(seen, maxlen=WINDOW)

    def check(self, loss: float) -> str | None:
        """What is wrong with the loss, in words; None: nothing."""
        if not math.isfinite(loss):
            return f"The loss is {loss}"
        usual = median(self.seen) if len(self.seen) == WINDOW else math.inf
        # Losses that fall to 0 or below have no scale to compare with.
        if usual > 0 and loss > self.explosion * usual:
            return (
                f"The loss is {loss:.4g}, {loss / usual:.0f} times the median of the last {WINDOW} "
                f"(explosion allows {self.explosion:g})"
            )
        return None

    def remember(self, loss: float) -> None:
        """Compare later losses with this one too."""
        self.seen.append(loss)


def find_tracker(name: str) -> str | None:
    """The name of an accelerate tracker, if it can be used.

    Args:
        name: none, or a tracker that accelerate has: tensorboard, wandb, mlflow ...

    Returns:
        None for none, and, with a note on stderr, for a tracker that is not installed.

    Raises:
        VCMError: For a name that accelerate does not have.
    """
    if name == "none":
        return None
    valid = [str(n) for n in LOGGER_TYPE_TO_CLASS]
    if name not in valid:
        near = get_close_matches(name, ["none", *valid], 1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose none or {', '.join(valid)}."
        raise VCMError(f"tracker is '{name}', which accelerate does not have: {hint}")
    if name in [str(n) for n in get_available_trackers()]:
        return name
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(
            f"The tracker {name} is not installed, so only log.csv is written: pip install {name}",
            file=sys.stderr,
        )
    return None


class Tracker:
    """Curves of one run, drawn by the main process; complete when the block ends, however it ends.

    Args:
        accelerator: With the tracker that it logs with, if any.
        configuration: Of the run, kept beside the curves.
        step: Where the run resumes; curves past it are of a process that was killed.
    """

    def __init__(
        self, accelerator: Accelerator, configuration: Mapping[str, Any], step: int
    ) -> None:
        self.accelerator, self.configuration, self.step = accelerator, configuration, step

    def add(self, values: Mapping[str, float], step: int) -> None:
        """One point of each of several curves."""
        self.accelerator.log(dict(values), step=step)

    def __enter__(self) -> Tracker:
        plain = (bool, int, float, str)
        self.accelerator.init_trackers(
            "vcm",
            {k: v if isinstance(v, plain) else str(v) for k, v in self.configuration.items()},
            {"tensorboard": {"purge_step": self.step + 1}},
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Accelerator.end_training would also disconnect the processes.
        if self.accelerator.is_main_process:
            for tracker in self.accelerator.trackers:
                tracker.finish()
