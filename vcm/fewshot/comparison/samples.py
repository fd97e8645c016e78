"""Read the runs of a study: answers to samples, samples to values with their intervals.

Knows the files of a study; nothing of how the answers were made.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vcm.errors import VCMError, first_names
from vcm.fewshot.comparison.metrics import METRICS_OF, WORST_MAE
from vcm.fewshot.comparison.resampling import Interval, Sample, over_both, over_cases, over_draws
from vcm.files import read_table


@dataclass(frozen=True)
class Run:
    """One run of a study, as stored: its record, and its answers by test set."""

    record: dict[str, Any]
    answers: dict[str, list[dict[str, str]]]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics of its kind of task."""
        return METRICS_OF[self.record["kind"]]


@dataclass(frozen=True)
class Estimate:
    """A value, or a difference, with what chance leaves of it: 95 % intervals.

    cases: over the test cases; draws: over the draws of the shots; both: over the two together.
    """

    value: float
    cases: Interval
    draws: Interval
    both: Interval


def read_runs(out: Path) -> list[Run]:
    """All complete runs of a study, by task, method, shots and seed. Raises VCMError for none."""
    files = sorted((out / "runs").glob("*/*/*/*/run.json"))
    if not files:
        raise VCMError(f"{out} holds no complete run: give the folder of vcm fewshot study.")
    runs = []
    for file in files:
        answers: dict[str, list[dict[str, str]]] = {}
        for row in read_table(file.with_name("answers.tsv")):
            answers.setdefault(row["test"], []).append(row)
        for rows in answers.values():
            rows.sort(key=lambda row: row["case"])
        runs.append(Run(json.loads(file.read_text(encoding="utf-8")), answers))
    return sorted(runs, key=lambda r: (r.record["task"], r.record["shots"], r.record["seed"]))


def refuse_unfinished(out: Path, runs: Sequence[Run], shots: int) -> None:
    """Raise VCMError where runs with that number of shots are missing, which a study that was stopped has not made.

    A method without them would be ranked as one that cannot do the task, and a task without any not at all.
    """
    record = json.loads((out / "study.json").read_text(encoding="utf-8"))
    study = record["study"]
    made = {tuple(run.record[k] for k in ("task", "method", "shots", "seed")) for run in runs}
    missing = [
        f"{task}, {method}, draw {seed}"
        for task, methods in record.get("methods", {}).items()
        for method in methods
        for seed in range(study["seeds"] if shots in study["shots"] else 0)
        if (task, method, shots, seed) not in made
    ]
    if missing:
        raise VCMError(
            f"The study in {out} is unfinished: of {shots} shots there is no run of {first_names(missing)}. Run the "
            "same command again, or rank another number of shots."
        )


def sample_of(runs: list[Run], test: str, metric: str) -> Sample:
    """The answers of the runs of one method, a row per draw, to one test set.

    Raises:
        VCMError: the runs answered different cases.
    """
    tables = [run.answers[test] for run in runs]
    cases = [[row["case"] for row in table] for table in tables]
    if any(c != cases[0] for c in cases):
        raise VCMError(
            f"The runs of {runs[0].record['method']} on {test} answered different cases: run the study "
            "again in another folder."
        )
    if metric in ("dice", "nsd"):
        answers = np.array([[float(row[metric]) for row in table] for table in tables])
        return Sample(metric, np.zeros(answers.shape[1]), answers)
    truth = np.array([float(row["truth"]) for row in tables[0]])
    answers = np.array([[float(row["answer"]) for row in table] for table in tables])
    return Sample(metric, truth, answers)


def estimate(sample: Sample, other: Sample | None = None) -> Estimate:
    """Value, or difference to `other` on the same draws and cases, with its intervals."""
    value = sample.value() - (0 if other is None else other.value())
    return Estimate(
        value, over_cases(sample, other), over_draws(sample, other), over_both(sample, other)
    )


def bias(sample: Sample) -> float:
    """Mean of answer - truth of a regression, over cases and draws."""
    return float((sample.answers - sample.truth).mean())


def groups(runs: list[Run]) -> dict[tuple[str, str, int], dict[str, list[Run]]]:
    """(task, test, shots) -> method -> its runs, one per draw that every method has."""
    found: dict[tuple[str, str, int], dict[str, list[Run]]] = {}
    for run in runs:
        for test in run.answers:
            key = (run.record["task"], test, run.record["shots"])
            found.setdefault(key, {}).setdefault(run.record["method"], []).append(run)
    for key, methods in found.items():
        common = set.intersection(*({r.record["seed"] for r in rs} for rs in methods.values()))
        found[key] = {m: [r for r in rs if r.record["seed"] in common] for m, rs in methods.items()}
    return {key: methods for key, methods in found.items() if all(methods.values())}


def measured_runs(out: Path) -> list[dict[str, Any]]:
    """One row per run and test set: what it was, its metrics with intervals over cases, its cost."""
    rows = []
    for run in read_runs(out):
        kept = ("task", "method", "parents", "shots", "seed")
        for test, table in run.answers.items():
            row: dict[str, Any] = {k: run.record[k] for k in kept}
            row |= {"test": test, "n_test": len(table)}
            for metric in run.metrics:
                sample = sample_of([run], test, metric)
                low, high = over_cases(sample, repeats=1000)
                row |= {metric: f"{sample.value():.4f}", f"{metric}_low": f"{low:.4f}"}
                row |= {f"{metric}_high": f"{high:.4f}"}
                if metric == "mae" and sample.value() < WORST_MAE:
                    row["bias"] = f"{bias(sample):.4f}"
            for name in ("cpu_seconds", "wall_seconds", "peak_bytes", "vcm"):
                row[name] = run.record[name]
            rows.append(row)
    return rows
