"""Compare methods on tasks with few shots: every run stored, nothing averaged before.

A run is one task, method, number of shots and draw. It lies in runs/TASK/METHOD/N/SEED with
the answers to every test case, and is complete when its run.json is there; a study that was stopped
goes on with the runs that lack it. Knows no interval: page.py and samples.py read what lies here.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from vcm import __version__
from vcm.cost import peak_memory, reset_peak
from vcm.errors import VCMError
from vcm.fewshot.closed_form import fit_constant, fit_line, refuse_one_label
from vcm.fewshot.features import WITH_SEGMENTER
from vcm.fewshot.layouts import Target
from vcm.fewshot.methods import METHODS, Method, find_method
from vcm.fewshot.metrics import segmentation_scores
from vcm.fewshot.model import FittedModel
from vcm.fewshot.network import FewShotUNet
from vcm.fewshot.pool import Pool, Source, refuse_seen
from vcm.fewshot.segmentation import SegmentationTraining, fit_segmentation
from vcm.fewshot.shots import draw_shots, folds_of, strata_of
from vcm.fewshot.tasks import Task, task_from
from vcm.files import write_json, write_table

#: Name of the test set of a cross-validation.
OUT_OF_FOLD = "out of fold"


@dataclass
class FewShotStudy:
    """Configuration of `vcm fewshot study`.

    tasks      name -> {task, label, groups, train: {data, split, mask}, and either
               tests: {NAME: {data, split, mask}} or folds: K}
    methods    names; those that cannot do a task are left out there
    shots      numbers of labelled cases
    seeds      draws of the shots, 0 to seeds - 1; at least 5 give an interval worth reading
    reference  the method that the others are compared with
    training   keys of the training of networks
    """

    tasks: dict[str, Any] = field(default_factory=dict)
    methods: list[str] = field(default_factory=lambda: ["mean", "voxels", "volumes"])
    shots: list[int] = field(default_factory=lambda: [20])
    seeds: int = 10
    reference: str = "mean"
    training: dict[str, Any] = field(default_factory=dict)
    out: str = "studies/new"


@dataclass(frozen=True)
class TaskOfStudy:
    """One task with its data: pools to draw shots from, and test cases."""

    name: str
    task: Task
    train: Pool
    tests: dict[str, Pool]
    folds: int

    def rounds(self, seed: int) -> Iterator[tuple[Pool, dict[str, Pool]]]:
        """(pool, tests): one, or one per fold of a cross-validation."""
        if not self.folds:
            yield self.train, self.tests
            return
        fold_of = folds_of(strata_of(self.task.kind, list(self.train.labels)), self.folds, seed)
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
    _claim(out, config)
    training = _training(config)
    todo = [
        (task, method, shots, seed)
        for task in tasks
        for shots in config.shots
        for seed in range(config.seeds)
        for method in methods_of(config, task.task.kind)
        if not (_run_folder(out, task.name, method.name, shots, seed) / "run.json").is_file()
    ]
    # The training of a network shows a bar of its own, and two bars would not share a screen.
    hidden = not todo or any(method.start for _, method, _, _ in todo)
    for task, method, shots, seed in track(todo, "Runs", disable=hidden):
        run_once(out, task, method, shots, seed, training)
    write_results(out)
    return out


def open_tasks(config: FewShotStudy) -> list[TaskOfStudy]:
    """Read the tasks and find their cases, before anything is computed or written. Raises VCMError."""
    if not config.tasks:
        raise VCMError("The study has no tasks: add tasks: {NAME: {task, label, train, tests}}.")
    if config.seeds < 1 or not config.shots:
        raise VCMError("The study has no draws: set seeds to 1 or more and shots to a list.")
    if config.reference not in config.methods:
        raise VCMError(
            f"The reference '{config.reference}' is not among the methods "
            f"({', '.join(config.methods)}): add it, or choose another."
        )
    segmenter = _segmenter() if _need_segmenter(config) else None
    found = []
    for name, entry in config.tasks.items():
        found.append(_open_task(name, entry, Path(config.out) / "features", segmenter))
        largest = max(config.shots)
        available = min(len(pool.cases) for pool, _ in found[-1].rounds(0))
        if largest > available:
            raise VCMError(
                f"The task {name} has {available} labelled cases to draw from, fewer than the "
                f"{largest} shots asked: lower shots, or add cases."
            )
    return found


def methods_of(config: FewShotStudy, kind: str) -> list[Method]:
    """The methods of the study that can do such a task; the unknown are refused."""
    for name in config.methods:
        if name not in METHODS:
            find_method(name, kind)
    known = [METHODS[name] for name in config.methods if kind in METHODS[name].kinds]
    if not known:
        raise VCMError(f"None of the methods {', '.join(config.methods)} can do a {kind}.")
    return known


def run_once(
    out: Path,
    task: TaskOfStudy,
    method: Method,
    shots: int,
    seed: int,
    training: SegmentationTraining,
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
        model = fit(method, few, training, folder / f"training{number}", seed)
        for test, cases in tests.items():
            rows += [{"test": test, **row} for row in answer_cases(model, cases)]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    write_table(folder / "answers.tsv", rows, columns)
    write_json(
        folder / "run.json",
        {
            "task": task.name, "kind": task.task.kind, "method": method.name,
            "parents": method.parents, "shots": shots, "seed": seed, "drawn": drawn,
            "cpu_seconds": round(time.process_time() - cpu, 2),
            "wall_seconds": round(time.perf_counter() - wall, 2),
            "peak_bytes": peak_memory(torch.device("cpu")), "vcm": __version__,
        },
    )  # fmt: skip


def fit(
    method: Method, shots: Pool, training: SegmentationTraining, work: Path, seed: int
) -> FittedModel:
    """Fit a method to its shots. `work` holds the training of a network, and is removed after."""
    task = shots.task
    refuse_one_label(task, shots.labels)
    if method.name == "mean":
        return fit_constant(task, shots.labels)
    if method.feature:
        model = fit_line(
            method.name, task, method.feature, shots.features(method.feature), shots.labels
        )
        if method.feature in WITH_SEGMENTER and shots.segmenter is not None:
            weights = shots.segmenter.state_dict()
            model.arrays |= {f"segmenter.{n}": v for n, v in weights.items()}
        return model
    return fit_segmentation(method, shots, training, work, seed)


def answer_cases(model: FittedModel, cases: Pool) -> list[dict[str, Any]]:
    """One row per test case: truth and answer, or Dice and NSD of a segmentation."""
    if model.task.kind == "segmentation":
        return [_segmented(model, cases, place) for place in range(len(cases.cases))]
    found = cases.features(model.feature) if model.feature else [None] * len(cases.cases)
    rows = []
    for case, truth, x in zip(cases.cases, cases.labels, found, strict=True):
        answer = model.prior() if x is None else model.answer_features(x)
        row: dict[str, Any] = {"case": case.name, "truth": f"{truth:.10g}"}
        if answer.value is not None:
            row["answer"] = f"{answer.value:.6f}"
        else:
            assert answer.probabilities is not None
            row["answer"] = f"{answer.probabilities[1]:.9f}"
        rows.append(row)
    return rows


def _segmented(model: FittedModel, cases: Pool, place: int) -> dict[str, Any]:
    scans, mask = cases.scans(place)
    truth, grid = cases.true_labels(place)
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
    from vcm.fewshot.samples import measured_runs

    rows = measured_runs(out)
    if rows:
        write_table(out / "results.tsv", rows, list(dict.fromkeys(k for r in rows for k in r)))


def _open_task(name: str, entry: Any, cache: Path, segmenter: FewShotUNet | None) -> TaskOfStudy:
    for key in entry:
        if key not in ("task", "label", "groups", "train", "tests", "folds"):
            raise VCMError(f"'{key}' is not a key of the task {name} of a study: see its docs.")
    for key in ("task", "label", "train"):
        if key not in entry:
            raise VCMError(f"The task {name} of the study has no {key}: add it.")
    if bool(entry.get("tests")) == bool(entry.get("folds")):
        raise VCMError(f"The task {name} needs either tests or folds: give one of the two.")
    task = task_from({"name": name, **entry["task"]}, name)
    if task.kind == "embedding":
        raise VCMError(f"The task {name} is an embedding, which has no labels: give another kind.")
    if task.kind == "classification" and len(task.classes) != 2:
        raise VCMError(
            f"The task {name} has {len(task.classes)} classes, but a study compares AUROC of two: join "
            "classes, or make a task of each against the rest."
        )
    target = Target(str(entry["label"]), dict(entry.get("groups") or {}))
    train = Pool.open(_source(entry["train"]), task, target, cache, segmenter)
    tests = {
        test: Pool.open(_source(source), task, target, cache, segmenter)
        for test, source in (entry.get("tests") or {}).items()
    }
    for test in tests.values():
        refuse_seen(train, test)
    return TaskOfStudy(name, task, train, tests, int(entry.get("folds") or 0))


def _source(entry: Any) -> Source:
    for key in entry:
        if key not in ("data", "split", "mask"):
            raise VCMError(
                f"'{key}' is not a key of a source of cases: valid are data, split, mask."
            )
    if "data" not in entry:
        raise VCMError("A source of cases has no data: give a folder or a table.")
    return Source(str(entry["data"]), entry.get("split"), str(entry.get("mask") or ""))


def _claim(out: Path, config: FewShotStudy) -> None:
    """Keep the configuration beside the runs; refuse a folder of runs of another one."""
    made = asdict(config)
    # More shots, seeds, methods and another reference are further runs of the same study.
    fixed = {"tasks": made["tasks"], "training": made["training"]}
    digest = hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()
    kept = out / "study.json"
    if kept.is_file() and json.loads(kept.read_text("utf-8"))["digest"] != digest:
        raise VCMError(
            f"{out} holds a study with other tasks or another training: choose another folder with out=, "
            "or remove it."
        )
    out.mkdir(parents=True, exist_ok=True)
    write_json(kept, {"digest": digest, "study": made})


def _training(config: FewShotStudy) -> SegmentationTraining:
    valid = SegmentationTraining.__dataclass_fields__
    for key in config.training:
        if key not in valid:
            raise VCMError(f"'{key}' is not a key of training: valid are {', '.join(valid)}.")
    return SegmentationTraining(**config.training)


def _need_segmenter(config: FewShotStudy) -> bool:
    kinds = [str((entry.get("task") or {}).get("kind")) for entry in config.tasks.values()]
    return any(
        method.feature in WITH_SEGMENTER
        for kind in kinds
        if kind in ("classification", "regression")
        for method in methods_of(config, kind)
    )


def _segmenter() -> FewShotUNet:
    from vcm.fewshot.segmentation import load_start

    return load_start("segmenter2mm")


def _run_folder(out: Path, task: str, method: str, shots: int, seed: int) -> Path:
    return out / "runs" / task / method / str(shots) / str(seed)
