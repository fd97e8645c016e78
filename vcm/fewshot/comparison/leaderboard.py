"""Rank the methods of a study over its tasks, with intervals, permutation tests and tiers.

Knows stored runs; the rules of ranking are in ranks.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vcm.errors import VCMError
from vcm.fewshot.comparison.ranks import (
    FOMO26_WEIGHTS,
    Comparison,
    Ranking,
    Samples,
    compare,
    rank_samples,
    tiers,
)  # fmt: skip
from vcm.fewshot.comparison.resampling import Sample
from vcm.fewshot.comparison.samples import groups, read_runs, refuse_unfinished, sample_of

WEIGHTS: Mapping[str, Mapping[str, float] | None] = {"equal": None, "fomo26": FOMO26_WEIGHTS}


@dataclass(frozen=True)
class Leaderboard:
    """Ranks of all methods; comparisons and tiers by task."""

    shots: int
    ranking: Ranking
    comparisons: dict[str, list[Comparison]]
    tiers: dict[str, list[list[str]]]


def rank_study(
    out: Path, shots: int | None = None, weights: str = "equal", repeats: int = 10_000
) -> Leaderboard:
    """Rank the methods of a study at one number of shots.

    Args:
        out: folder of the study.
        shots: number of shots; the largest of the study if None.
        weights: a name of WEIGHTS.
        repeats: bootstraps and permutations.

    Raises:
        VCMError: the study has no such number of shots, or lacks runs with it, or the weights are unknown.
    """
    if weights not in WEIGHTS:
        raise VCMError(f"The weights '{weights}' are unknown: choose one of {', '.join(WEIGHTS)}.")
    if repeats < 1:
        raise VCMError(f"repeats is {repeats}: choose 1 or more, such as 10000.")
    runs = read_runs(out)
    found = groups(runs)
    numbers = sorted({n for _, _, n in found})
    chosen = numbers[-1] if shots is None else shots
    if chosen not in numbers:
        raise VCMError(
            f"The study in {out} has no runs with {chosen} shots: it has "
            f"{', '.join(map(str, numbers))}."
        )
    refuse_unfinished(out, runs, chosen)
    samples: dict[str, dict[str, dict[str, Sample]]] = {}
    for (task, test, n), methods in found.items():
        if n == chosen:
            several = len({s for t, s, m in found if (t, m) == (task, n)}) > 1
            name = f"{task}: {test}" if several else task
            metrics = next(iter(methods.values()))[0].metrics
            samples[name] = {
                metric: {m: sample_of(runs, test, metric) for m, runs in methods.items()}
                for metric in metrics
            }
    return _leaderboard(chosen, samples, weights, repeats)


def _leaderboard(shots: int, samples: Samples, weights: str, repeats: int) -> Leaderboard:
    ranking = rank_samples(samples, WEIGHTS[weights], repeats=repeats)
    comparisons = {task: compare(metrics, repeats) for task, metrics in samples.items()}
    groups_of = {
        task: tiers(sorted(ranks, key=lambda m: ranks[m]), comparisons[task])
        for task, ranks in ranking.tasks.items()
    }
    return Leaderboard(shots, ranking, comparisons, groups_of)
