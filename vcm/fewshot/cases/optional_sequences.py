"""Sequences that a case may lack, and whether a model has learned to do without them, or with them.

Knows tasks and which scans cases have; opens none.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

from vcm.errors import VCMWarning, first_names
from vcm.fewshot.cases.layouts import Case
from vcm.fewshot.cases.tasks import Task


def cases_with(task: Task, cases: Sequence[Case]) -> dict[str, int]:
    """Optional slot -> how many of the cases have a scan for it."""
    return {slot: sum(has(task, case, slot) for case in cases) for slot in task.optional}


def has(task: Task, case: Case, slot: str) -> bool:
    """Whether a case has a scan for a slot of a task."""
    options = next((options for options in task.inputs if options[0] == slot), ())
    return any(sequence in case.images for sequence in options)


def warn_of_unlearned(
    task: Task, cases: Sequence[Case], learned: Mapping[str, int], shots: int, of: str
) -> None:
    """A VCMWarning names cases without an optional scan that all shots have, and with one that none has.

    What was never absent is read as a black image where it is, and the answer is that of another case.

    Args:
        task: What is asked.
        cases: That are to be answered.
        learned: Optional slot -> how many shots have a scan for it.
        shots: How many there are.
        of: Whose cases these are, for the sentence.
    """
    for slot, count in learned.items():
        if 0 < count < shots:
            continue
        others = [c.name for c in cases if has(task, c, slot) != bool(count)]
        if others:
            verb, known = ("lack", "all") if count else ("have", "none")
            warnings.warn(
                f"{len(others)} of {len(cases)} cases of {of} {verb} {slot}, {first_names(others)}, and {known} of the "
                f"{shots} shots {'have' if count else 'has'} it: nothing was learned of such cases, so do not rely on their "
                f"answers. Fit with shots that have {slot} and shots that lack it, or without it.",
                VCMWarning,
                stacklevel=3,
            )
