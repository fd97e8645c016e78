"""When a training has gone astray: a loss that is no number, or far above those before it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from statistics import median

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
