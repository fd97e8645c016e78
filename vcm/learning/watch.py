"""When a training has gone astray: a loss that is no number, or far above those before it."""

from __future__ import annotations

import math
import os
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from difflib import get_close_matches
from statistics import median
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from vcm.errors import VCMError
from vcm.learning.schedule import TrainingSchedule

#: Losses that a new one is held against, and how many must be known first.
WINDOW = 200


class LossWatch:
    """Remembers the last losses. `explosion` times their median is too much; inf: nothing is."""

    def __init__(self, explosion: float, seen: Iterable[float] = ()) -> None:
        self.explosion = explosion
        self.seen = deque(seen, maxlen=WINDOW)

    def complaint(self, loss: float) -> str | None:
        """What is wrong with the loss, if anything."""
        if not math.isfinite(loss):
            return f"The loss is {loss}"
        usual = median(self.seen) if len(self.seen) == WINDOW else math.inf
        # Losses that fall to 0 or below have no scale to hold a new one against.
        if usual > 0 and loss > self.explosion * usual:
            return (
                f"The loss is {loss:.4g}, {loss / usual:.0f} times the median of the last {WINDOW} "
                f"(explosion allows {self.explosion:g})"
            )
        return None

    def remember(self, loss: float) -> None:
        """Hold the losses to come against this one too."""
        self.seen.append(loss)


def find_tracker(name: str) -> str | None:
    """Name of an accelerate tracker; None where it is 'none', or, with a note, not installed."""
    if name == "none":
        return None
    known = [str(n) for n in LOGGER_TYPE_TO_CLASS]
    if name not in known:
        near = get_close_matches(name, ["none", *known], 1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose none or {', '.join(known)}."
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
    """Curves of one run, of the main process; written when it ends, however it ends."""

    def __init__(self, accelerator: Accelerator, config: TrainingSchedule, step: int) -> None:
        self.accelerator = accelerator
        values = asdict(config).items()
        # tensorboard forgets what a run that was killed has drawn past its last checkpoint.
        accelerator.init_trackers(
            "vcm",
            {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in values},
            {"tensorboard": {"purge_step": step + 1}},
        )

    def add(self, values: Mapping[str, Any], step: int) -> None:
        """Points of several curves."""
        self.accelerator.log(dict(values), step=step)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *raised: object) -> None:
        # Accelerator.end_training would also disconnect the processes.
        if self.accelerator.is_main_process:
            for tracker in self.accelerator.trackers:
                tracker.finish()
