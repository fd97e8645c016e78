"""Compare methods on tasks with few shots: every run stored, nothing averaged before.

A run is one task, method, number of shots and draw. It lies in runs/TASK/METHOD/N/SEED with
the answers to every test case, and is complete when its run.json is there; a study that was stopped
goes on with the runs that lack it. Knows no interval: page.py and samples.py read what lies here.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vcm import __version__
from vcm.cost import peak_memory, reset_peak
from vcm.errors import VCMError
from vcm.fewshot.cases.label_maps import warn_of_absent_classes
from vcm.fewshot.cases.optional_sequences import cases_with, warn_of_unlearned
from vcm.fewshot.cases.shots import draw_shots, folds_of, strata_of
from vcm.fewshot.cases.task_file import TaskFile, read_task
from vcm.fewshot.cases.tasks import Task
from vcm.fewshot.comparison.metrics import segmentation_scores
from vcm.fewshot.configuration import FewShotStudy, NetworkTraining
from vcm.fewshot.fitting import fit, synthetic_pool
from vcm.fewshot.methods.catalogue import SYNTHETIC, Method, known_method
from vcm.fewshot.methods.model import Answer, FittedModel
from vcm.fewshot.methods.parents import (
    UNTRAINED,
    Parent,
    describe_parents,
    load_parent,
    open_parents,
)
from vcm.fewshot.methods.pool import Pool, refuse_repeats, refuse_seen, refuse_seen_by_parents
from vcm.fewshot.preflight import check_study, methods_of
from vcm.files import check_output, write_json, write_table
from vcm.progress import track

#: Name of the test set of a cross-validation.
OUT_OF_FOLD = "out of fold"


@dataclass(frozen=True)
class TaskOfStudy:
    """One task with its data: pools to draw shots from, and test cases."""

    name: str
    task: Task
    train: Pool
    tests: dict[str, Pool]
    folds: int
    synthetic: Pool | None = None

    def rounds(self, seed: int) -> Iterator[tuple[Pool, dict[str, Pool]]]:
        """(pool, tests): one, or one per fold of a cross-validation."""
        if not self.folds:
            yield self.train, self.tests
            return
        # Sessions of one subject share a fold: else a model would have seen whom it is tested on.
        subjects = list(dict.fromkeys(c.subject for c in self.train.cases))
        first = {c.subject: i for i, c in reversed(list(enumerate(self.train.cases)))}
        strata = strata_of(self.task.kind, [self.train.labels[first[s]] for s in subjects])
        folds = dict(zip(subjects, folds_of(strata, self.folds, seed), strict=True))
        fold_of = [folds[c.subject] for c in self.train.cases]
        for fold in range(self.folds):
            inside = [i for i, f in enumerate(fold_of) if f == fold]
            outside = [i for i, f in enumerate(fold_of) if f != fold]
            yield self.train.subset(outside), {OUT_OF_FOLD: self.train.subset(inside)}


def run_study(config: FewShotStudy) -> Path:
    """Run what is missing and write results.tsv. Returns the folder.

    Raises:
        VCMError: the configuration or the data cannot be used, or the folder holds another study.
    """
    out = Path(config.out)
    tasks = open_tasks(config)
    # Before a network is trained whose answers could not be measured, or that could not be in a later draw.
    for pool in (p for task in tasks for p in _cases_read(task, config)):
        pool.refuse_unusable_maps()
    for task in tasks:
        task.train.warn_of_labels_without_a_class()
        learned = cases_with(task.task, task.train.cases)
        for name, test in task.tests.items():
            test.warn_of_labels_without_a_class(name)
            whose = f"the test '{name}' of {task.name}"
            warn_of_unlearned(task.task, test.cases, learned, len(task.train.cases), whose)
        task.train.warn_of_skulls(methods_of(config, task.task))
        for pool in _cases_read(task, config):
            pool.refuse_unfound_brains()
    _claim(out, config, tasks)
    tasks = [with_synthetic(task, config) for task in tasks]
    todo = [
        (task, method, shots, seed)
        for task in tasks
        for shots in config.shots
        for seed in range(config.seeds)
        for method in methods_of(config, task.task)
        if not (_run_folder(out, task.name, method.name, shots, seed) / "run.json").is_file()
    ]
    # The training of a network shows a bar of its own, and two bars would not share a screen.
    trains = any(method.start for _, method, _, _ in todo)
    for task, method, shots, seed in todo if trains else track(todo, "Runs"):
        run_once(out, task, method, shots, seed, config)
    write_results(out)
    return out


def open_tasks(config: FewShotStudy) -> list[TaskOfStudy]:
    """Read the tasks and find their cases, before anything is computed or written. Raises VCMError."""
    files = check_study(config)
    parents = open_parents([m for file in files for m in methods_of(config, file.task)], config)
    found = []
    for file in files:
        found.append(_open_task(file, Path(config.out) / "features", parents))
        largest = max(config.shots)
        rounds = (found[-1].rounds(seed) for seed in range(config.seeds))
        available = min(len(pool.cases) for each in rounds for pool, _ in each)
        if largest > available:
            raise VCMError(
                f"The task {file.task.name} has {available} labelled cases to draw from, fewer than "
                f"the {largest} shots asked: lower shots, or add cases."
            )
    return found


def _cases_read(task: TaskOfStudy, config: FewShotStudy) -> list[Pool]:
    """The cases of a task that the study reads: its tests, and of the others those that some draw of shots holds."""
    if task.folds:
        return [task.train]
    labels = list(task.train.labels)
    strata = strata_of(task.task.kind, labels)
    drawn: set[int] = set()
    for shots in config.shots:
        for seed in range(config.seeds):
            drawn.update(draw_shots(labels, strata, shots, seed))
    return [task.train.subset(sorted(drawn)), *task.tests.values()]


def with_synthetic(task: TaskOfStudy, config: FewShotStudy) -> TaskOfStudy:
    """The task with synthetic brains, made now, where a method adds them to its shots."""
    if not any(m.synthetic for m in methods_of(config, task.task)):
        return task
    pool = synthetic_pool(task.train, config, Path(config.out) / "synthetic")
    return replace(task, synthetic=pool)


def run_once(
    out: Path,
    task: TaskOfStudy,
    method: Method,
    shots: int,
    seed: int,
    config: FewShotStudy,
) -> None:
    """Fit one method to one draw of the shots, answer all test cases, and store the answers."""
    folder = _run_folder(out, task.name, method.name, shots, seed)
    folder.mkdir(parents=True, exist_ok=True)
    reset_peak(torch.device("cpu"))
    wall, cpu = time.perf_counter(), time.process_time()
    rows: list[dict[str, Any]] = []
    drawn: list[list[str]] = []
    for number, (pool, tests) in enumerate(task.rounds(seed)):
        labels = list(pool.labels)
        places = draw_shots(labels, strata_of(task.task.kind, labels), shots, seed)
        few = pool.subset(places)
        drawn.append([c.name for c in few.cases])
        model = fit(method, few, config, folder / f"training{number}", seed, task.synthetic)
        for test, cases in tests.items():
            rows += [{"test": test, **row} for row in answer_cases(model, cases)]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    write_table(folder / "answers.tsv", rows, columns)
    write_json(
        folder / "run.json",
        {
            "task": task.name, "kind": task.task.kind, "method": method.name,
            "parents": describe_parents(method, config), "shots": shots, "seed": seed, "drawn": drawn,
            "cpu_seconds": round(time.process_time() - cpu, 2),
            "wall_seconds": round(time.perf_counter() - wall, 2),
            "peak_bytes": peak_memory(torch.device("cpu")), "vcm": __version__,
        },
    )  # fmt: skip


def answer_cases(model: FittedModel, cases: Pool) -> list[dict[str, Any]]:
    """One row per test case: truth and answer, or Dice and NSD of a segmentation."""
    if model.task.kind == "segmentation":
        held: list[NDArray[np.uint8]] = []
        rows = [_segmented(model, cases, place, held) for place in range(len(cases.cases))]
        warn_of_absent_classes(model.task, held, "of the test cases")
        return rows
    rows = []
    for case, truth, answer in zip(cases.cases, cases.labels, _answers(model, cases), strict=True):
        row: dict[str, Any] = {"case": case.name, "truth": f"{truth:.10g}"}
        if answer.value is not None:
            row["answer"] = f"{answer.value:.6f}"
        else:
            assert answer.probabilities is not None
            row["answer"] = f"{answer.probabilities[1]:.17g}"
        rows.append(row)
    return rows


def _answers(model: FittedModel, cases: Pool) -> list[Answer]:
    """Answers of a model of numbers or classes, through cached features where its network is frozen."""
    if not model.feature:
        return [model.prior() for _ in cases.cases]
    if model.settings.get("tuned") is None:
        return [model.answer_features(x) for x in cases.features(model.feature)]
    return [model.answer(*cases.scans(place)) for place in range(len(cases.cases))]


def _segmented(
    model: FittedModel, cases: Pool, place: int, held: list[NDArray[np.uint8]]
) -> dict[str, Any]:
    """Dice and NSD of one case; the labels it truly has are added to `held`."""
    scans, mask = cases.scans(place)
    truth, grid = cases.true_labels(place)
    held.append(np.unique(truth))
    answer = model.answer(scans, mask)
    assert answer.labels is not None
    labels = range(1, len(model.task.classes) + 1)
    scores = segmentation_scores(answer.labels, truth, grid.spacing, labels)
    row: dict[str, Any] = {"case": cases.cases[place].name}
    row |= {name: f"{value:.6f}" for name, value in scores.items()}
    for label, name in zip(labels, model.task.classes, strict=True):
        one = segmentation_scores(answer.labels, truth, grid.spacing, [label])
        row |= {f"{measure} {name}": f"{value:.6f}" for measure, value in one.items()}
    return row


def write_results(out: Path) -> None:
    """results.tsv: one row per run and test set, with its metrics, from what lies in runs/."""
    from vcm.fewshot.comparison.samples import measured_runs

    rows = measured_runs(out)
    if rows:
        write_table(out / "results.tsv", rows, list(dict.fromkeys(k for r in rows for k in r)))


def _open_task(file: TaskFile, cache: Path, parents: Mapping[str, Parent]) -> TaskOfStudy:
    task = file.task
    if not file.tests and not file.folds:
        raise VCMError(f"The task {task.name} has neither tests nor folds: add one of the two.")
    if task.kind == "classification" and len(task.classes) != 2:
        raise VCMError(
            f"The task {task.name} has {len(task.classes)} classes, but a study compares AUROC of two: join "
            "classes, or make a task of each against the rest."
        )
    train = Pool.open(file.train, task, file.target, cache, parents)
    tests = {
        name: Pool.open(source, task, file.target, cache, parents)
        for name, source in file.tests.items()
    }
    for name, test in tests.items():
        if task.kind == "classification" and len(np.unique(test.labels)) < 2:
            raise VCMError(
                f"All {len(test.cases)} cases of the test '{name}' of {task.name} are of the class "
                f"{task.classes[int(test.labels[0])]}, but AUROC compares two: add cases of the other."
            )
        refuse_seen(train, test)
        refuse_seen_by_parents(test)
    if file.folds:
        refuse_repeats(train)
        refuse_seen_by_parents(train)
    return TaskOfStudy(task.name, task, train, tests, file.folds)


def _claim(out: Path, config: FewShotStudy, tasks: Sequence[TaskOfStudy]) -> None:
    """Keep the configuration beside the runs; refuse a folder of runs of another one, or of other data."""
    made = asdict(config)
    # More shots, seeds, methods and another reference are further runs of the same study.
    fixed = {key: made[key] for key in asdict(NetworkTraining()) if key != "workers"}
    fixed["tasks"] = [asdict(read_task(path)) for path in config.tasks]
    digest = hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()
    kept = out / "study.json"
    joined = _joined(config) | {f"scans or labels of {t.name}": _data_of(t) for t in tasks}
    # Those that travel with the package may change with it.
    parents = {name: p.checksum for t in tasks for name, p in t.train.parents.items()}
    joined |= {f"network of {name}": c for name, c in parents.items() if name not in joined}
    if kept.is_file():
        before = json.loads(kept.read_text("utf-8"))
        old = before.get("joined", {})
        changed = [k for k in joined if k in old and old[k] != joined[k]]
        if before["digest"] != digest:
            changed = ["tasks or another training"]
        if changed:
            raise VCMError(
                f"{out} holds a study with other {', '.join(changed)}: "
                "choose another folder with out=, or remove it."
            )
        joined = old | joined
    check_output(out)
    out.mkdir(parents=True, exist_ok=True)
    methods = {task.name: [m.name for m in methods_of(config, task.task)] for task in tasks}
    write_json(kept, {"digest": digest, "joined": joined, "methods": methods, "study": made})
    # From here on what is computed of a scan is kept, for the methods and draws to come.
    for task in tasks:
        task.train.cache.mkdir(exist_ok=True)


def _data_of(task: TaskOfStudy) -> dict[str, str]:
    """Changes with the content of any scan, label or mask of a task."""
    pools = {"train": task.train, **{f"test {name}": pool for name, pool in task.tests.items()}}
    return {name: pool.fingerprint() for name, pool in pools.items()}


def _joined(config: FewShotStudy) -> dict[str, Any]:
    """What a method may bring into a study later on, but not change: encoders, weight of synthetic brains."""
    found: dict[str, Any] = {
        name: load_parent(getattr(config, name)).checksum
        for name in ("mae", "hybrid")
        if getattr(config, name)
    }
    # The same network as an encoder with random weights: another one than without the encoder.
    untrained = [
        m for m in map(known_method, config.methods) if m and UNTRAINED in (*m.features, m.start)
    ]
    if untrained:
        found[UNTRAINED] = open_parents(untrained, config)[UNTRAINED].checksum
    if any(name.endswith(SYNTHETIC) for name in config.methods):
        found["synthetic_weight"] = config.synthetic_weight
    return found


def _run_folder(out: Path, task: str, method: str, shots: int, seed: int) -> Path:
    return out / "runs" / task / method / str(shots) / str(seed)
