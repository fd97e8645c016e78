"""Which method is best over several tasks: the ranking of the FOMO challenge, with intervals.

Knows values of metrics and answers to test cases; nothing of how they were made. A method's rank in
a task is the mean of its ranks over the task's metrics, ties sharing the lowest; its overall rank is
the weighted mean over tasks. These rules give the overall ranks of the challenge's 2025 table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VCMError
from vcm.fewshot.comparison.metrics import METRICS, Metric
from vcm.fewshot.comparison.resampling import (
    Floats,
    Interval,
    Sample,
    draw_cases,
    holm,
    permutation_p,
)

#: Weight of each task in the challenge of 2026; that of 2025 weighs its three tasks equally.
FOMO26_WEIGHTS = {
    "task1": 0.10, "task2": 0.25, "task3": 0.10, "task4": 0.25, "task5": 0.10, "task6": 0.10,
    "task7": 0.10,
}  # fmt: skip
#: Methods whose adjusted p is below this differ.
LEVEL = 0.05

#: task -> metric -> method -> value; a method that is absent from a task has no value there.
Values = Mapping[str, Mapping[str, Mapping[str, float]]]
#: task -> metric -> method -> its answers.
Samples = Mapping[str, Mapping[str, Mapping[str, Sample]]]
Absent = Literal["after last", "last"]


def ranks_of(values: NDArray, higher_is_better: bool) -> Floats:
    """1 for the best along the last axis, ties sharing the lowest rank; NaN stays NaN."""
    signed = values if higher_is_better else -values
    better = signed[..., None, :] > signed[..., :, None]
    return np.where(np.isnan(values), np.nan, 1.0 + better.sum(-1))


def task_ranks(metrics: Mapping[str, NDArray], absent: Absent) -> Floats:
    """Mean over metrics of the ranks of (..., methods) values.

    A method with no value has the rank of the number of methods, or one more ("after last").
    """
    each = [ranks_of(v, _metric(name).higher_is_better) for name, v in metrics.items()]
    mean = np.mean(each, axis=0)
    worst = mean.shape[-1] + (1 if absent == "after last" else 0)
    return np.where(np.isnan(mean), float(worst), mean)


@dataclass(frozen=True)
class Ranking:
    """Methods, best first: rank in each task, overall rank, and what chance leaves of it.

    intervals and first (share of resamplings in which a method has the best overall rank) are empty
    where no answers to single cases were given.
    """

    methods: tuple[str, ...]
    tasks: dict[str, dict[str, float]]
    overall: dict[str, float]
    intervals: dict[str, Interval] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)


def rank(
    values: Values, weights: Mapping[str, float] | None = None, absent: Absent = "last"
) -> Ranking:
    """Rank methods by the values of metrics.

    Args:
        values: task -> metric -> method -> value.
        weights: of the tasks, any scale; equal if none are given.
        absent: the rank of a method in a task that it lacks: the number of methods ("last", the
            challenge of 2026) or one more ("after last", that of 2025).

    Raises:
        VCMError: a task has no weight, a metric is unknown, or there are no methods.
    """
    methods = _methods(values)
    shares = _shares(values, weights)
    tasks = {
        task: task_ranks({name: _row(v, methods) for name, v in metrics.items()}, absent)
        for task, metrics in values.items()
    }
    overall = sum((shares[task] * ranks for task, ranks in tasks.items()), np.zeros(len(methods)))
    order = [methods[i] for i in np.argsort(overall, kind="stable")]
    return Ranking(
        tuple(order),
        {t: dict(zip(methods, map(float, ranks), strict=True)) for t, ranks in tasks.items()},
        dict(zip(methods, map(float, overall), strict=True)),
    )


def rank_samples(
    samples: Samples,
    weights: Mapping[str, float] | None = None,
    absent: Absent = "last",
    repeats: int = 10_000,
    seed: int = 0,
) -> Ranking:
    """As `rank`, from answers to single cases, with a bootstrap over the cases of every task.

    All methods of a task meet the same resampled cases; classes keep their numbers of cases.
    """
    values = {
        task: {name: {m: s.value() for m, s in each.items()} for name, each in metrics.items()}
        for task, metrics in samples.items()
    }
    point = rank(values, weights, absent)
    methods, shares = _methods(values), _shares(values, weights)
    overall = np.zeros((repeats, len(methods)))
    for number, (task, metrics) in enumerate(samples.items()):
        counts = _counts_of(task, metrics, repeats, seed + number)
        table = {
            name: np.stack(
                [
                    each[m].resampled(counts) if m in each else np.full(repeats, np.nan)
                    for m in methods
                ],
                axis=-1,
            )
            for name, each in metrics.items()
        }
        overall += shares[task] * task_ranks(table, absent)
    low, high = np.percentile(overall, [2.5, 97.5], axis=0)
    best = overall <= overall.min(1, keepdims=True) + 1e-12
    first = (best / best.sum(1, keepdims=True)).mean(0)
    return Ranking(
        point.methods,
        point.tasks,
        point.overall,
        {m: (float(low[i]), float(high[i])) for i, m in enumerate(methods)},
        {m: float(first[i]) for i, m in enumerate(methods)},
    )


@dataclass(frozen=True)
class Comparison:
    """Two methods by one metric: difference one - two, and its p, adjusted within the task (Holm)."""

    metric: str
    one: str
    two: str
    difference: float
    p: float
    adjusted: float


def compare(
    metrics: Mapping[str, Mapping[str, Sample]], repeats: int = 10_000, seed: int = 0
) -> list[Comparison]:
    """Every pair of methods of one task by each of its metrics, by permutation."""
    found = {}
    for name, each in metrics.items():
        for one, two in combinations(each, 2):
            p = permutation_p(each[one], each[two], repeats, seed)
            found[f"{name}\t{one}\t{two}"] = p
    adjusted = holm(found)
    comparisons = []
    for key, p in found.items():
        name, one, two = key.split("\t")
        difference = metrics[name][one].value() - metrics[name][two].value()
        comparisons.append(Comparison(name, one, two, difference, p, adjusted[key]))
    return comparisons


def tiers(ordered: Sequence[str], comparisons: Sequence[Comparison]) -> list[list[str]]:
    """Groups of methods, best first: each holds those that no metric tells from its first one."""
    different = {
        frozenset((c.one, c.two)) for c in comparisons if c.adjusted < LEVEL and c.one != c.two
    }
    groups: list[list[str]] = []
    for method in ordered:
        if groups and frozenset((groups[-1][0], method)) not in different:
            groups[-1].append(method)
        else:
            groups.append([method])
    return groups


def _counts_of(
    task: str, metrics: Mapping[str, Mapping[str, Sample]], repeats: int, seed: int
) -> Floats:
    every = [s for each in metrics.values() for s in each.values()]
    truth = every[0].truth
    if any(len(s.truth) != len(truth) for s in every):
        raise VCMError(
            f"Methods of {task} answered different numbers of cases: rank them on the same test set."
        )
    within = any(name in ("auroc", "f1") for name in metrics)
    return draw_cases(truth, repeats, seed, within)


def _methods(values: Values) -> list[str]:
    found = dict.fromkeys(
        m for metrics in values.values() for each in metrics.values() for m in each
    )
    if not found:
        raise VCMError("There is no method to rank: give results of at least one.")
    return list(found)


def _shares(values: Values, weights: Mapping[str, float] | None) -> dict[str, float]:
    if weights is None:
        return {task: 1 / len(values) for task in values}
    missing = [task for task in values if task not in weights]
    if missing:
        raise VCMError(
            f"The task {missing[0]} has no weight (weights are given for {', '.join(weights)}): add "
            "one, or weigh all tasks equally."
        )
    total = sum(weights[task] for task in values)
    return {task: weights[task] / total for task in values}


def _row(values: Mapping[str, float], methods: Sequence[str]) -> Floats:
    return np.array([values.get(m, np.nan) for m in methods], dtype=float)


def _metric(name: str) -> Metric:
    if name not in METRICS:
        raise VCMError(f"The metric '{name}' is unknown: choose one of {', '.join(METRICS)}.")
    return METRICS[name]
