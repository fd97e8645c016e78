"""Answer a folder of cases with a fitted model, and measure answers against the truth.

Knows files of cases and answers; nothing of fitting. Metrics have the edge cases of the challenge: a
case without an answer counts as the worst.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from vcm.errors import VCMError, VCMWarning, first_names
from vcm.fewshot.cases.brain_masks import kept_brain_mask, refuse_unfound
from vcm.fewshot.cases.identity import identity
from vcm.fewshot.cases.label_maps import (
    grouped,
    warn_of_absent_classes,
    warn_of_unnamed_labels,
)
from vcm.fewshot.cases.layouts import (
    Case,
    Target,
    find_cases,
    label_class,
    label_number,
    with_labels,
)
from vcm.fewshot.cases.optional_sequences import warn_of_unlearned
from vcm.fewshot.cases.tasks import SEQUENCES, task_from
from vcm.fewshot.comparison.metrics import (
    WORST_CORRELATION,
    WORST_MAE,
    correlation,
    macro_f1,
    mean_absolute_error,
    ovr_auroc,
    segmentation_scores,
)  # fmt: skip
from vcm.fewshot.comparison.resampling import Interval, Sample, over_cases
from vcm.fewshot.container.predict import read_scans, slots_of, write_answer
from vcm.fewshot.methods.model import Answer, FittedModel
from vcm.files import check_output, read_table, write_json, write_table
from vcm.imaging.volume import Volume, distinct, read_label_map, refuse_other_voxels
from vcm.progress import track

SUFFIX = {
    "classification": ".txt",
    "regression": ".txt",
    "segmentation": ".nii.gz",
    "embedding": ".npy",
}


@dataclass(frozen=True)
class Answered:
    """How many cases were answered, and those answered without looking, with the reason."""

    cases: int
    fallbacks: dict[str, str]


def predict_cases(model_folder: Path, source: str, out: Path, split: str | None = None) -> Answered:
    """One file per case, and answers.tsv; `out` must not hold answers yet.

    An embedding is of the same sequence of every case, the first of SEQUENCES that all have, which stderr tells; a
    VCMWarning says where they have none in common.

    Raises:
        VCMError: there are no cases, one is a shot of the model, or a file is there that an answer would replace. Or
            a case cannot be answered: the others are then.
    """
    if (out / "answers.tsv").exists():
        raise VCMError(f"{out} holds answers already: give another folder.")
    model = FittedModel.load(model_folder)
    cases = find_cases(source, split)
    suffix = SUFFIX[model.task.kind]
    there = [name for case in cases if (out / (name := f"{case.name}{suffix}")).exists()]
    if there:
        raise VCMError(
            f"{out} holds {first_names(there)} already, which an answer would replace: give another folder."
        )
    _refuse_shots(model, cases)
    chosen = _sequences_embedded(cases) if model.task.inputs == (("input",),) else {}
    _refuse_unfound_brains(model, cases, source, chosen)
    learned, shots = model.record.get("optional", {}), model.record.get("shots", ())
    warn_of_unlearned(model.task, cases, learned, len(shots), source)
    check_output(out)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    fallbacks, refused = {}, {}
    for case in track(cases, "Answering"):
        paths = _paths(model, case, chosen)
        scans, complaints = read_scans(paths)
        slots, missing = slots_of(model, scans)
        complaints += [f"There is no {name}." for name in missing]
        try:
            mask = _mask(model, case, paths, slots)
            answer = model.answer(slots, mask) if slots else model.prior()
        except VCMError as error:
            refused[case.name] = str(error)
            continue
        if complaints:
            fallbacks[case.name] = complaints[0]
        rows.append(_row(case.name, answer, model, bool(not slots)))
        if model.task.kind == "classification" and len(model.task.classes) != 2:
            continue
        write_answer(answer, out / f"{case.name}{suffix}", {"suffix": suffix}, scans, paths)
    why = "; ".join(f"{name}: {reason}" for name, reason in list(refused.items())[:3])
    if not rows:
        raise VCMError(f"No case of {source} can be answered: {why}")
    write_table(out / "answers.tsv", rows, list(dict.fromkeys(k for r in rows for k in r)))
    card = {"task": model.task.as_dict(), "method": model.method, "record": model.record}
    write_json(out / "answers.json", card)
    if refused:
        raise VCMError(
            f"{len(refused)} of {len(cases)} cases have no answer in {out}, where the others are: {why}"
        )
    return Answered(len(cases), fallbacks)


@dataclass(frozen=True)
class Measured:
    """Metrics of answers: value and 95 % interval over the cases; how many had no answer."""

    values: dict[str, float]
    intervals: dict[str, Interval]
    cases: int
    missing: int


def evaluate_answers(
    answers: Path, source: str, split: str | None = None, label: str | None = None
) -> Measured:
    """Measure what `predict_cases` wrote; cases.tsv beside the answers has a row per case.

    Args:
        answers: folder of predict_cases.
        source: cases with their truth.
        split: of the source.
        label: column or map; as the model was fitted if None.

    Raises:
        VCMError: the folder holds no answers, or embeddings, or no case has a label.
    """
    if not (answers / "answers.json").is_file():
        raise VCMError(f"{answers} holds no answers.json: give the folder of vcm fewshot predict.")
    card = json.loads((answers / "answers.json").read_text(encoding="utf-8"))
    task = task_from(card["task"])
    if task.kind == "embedding":
        raise VCMError(
            f"{answers} holds embeddings, which have no truth: read a class out of them with vcm fewshot probe."
        )
    record = card["record"]
    target = Target(label or record.get("label", "label"), record.get("groups", {}))
    cases = with_labels(find_cases(source, split), target, task)
    rows = {row["case"]: row for row in read_table(answers / "answers.tsv")}
    missing = sum(c.name not in rows for c in cases)
    if task.kind == "segmentation":
        held: list[NDArray[np.uint8]] = []
        labels: set[int] = set()
        measured = [_segmented(answers, c, target, len(task.classes), held, labels) for c in cases]
        warn_of_unnamed_labels(labels, target.groups, source)
        warn_of_absent_classes(task, held, "of the cases")
        write_table(answers / "cases.tsv", measured, ["case", "dice", "nsd"])
        found = {m: np.array([float(r[m]) for r in measured]) for m in ("dice", "nsd")}
        values = {m: float(v.mean()) for m, v in found.items()}
        samples = {m: Sample(m, np.zeros(len(v)), v[None]) for m, v in found.items()}
        return Measured(values, {m: over_cases(s) for m, s in samples.items()}, len(cases), missing)
    if task.kind == "regression":
        truth = np.array([label_number(c, target) for c in cases], dtype=float)
        given = np.array([float(rows.get(c.name, {}).get("answer", "nan")) for c in cases])
        table = [
            {"case": c.name, "truth": t, "answer": g}
            for c, t, g in zip(cases, truth, given, strict=True)
        ]
        write_table(answers / "cases.tsv", table, ["case", "truth", "answer"])
        values = {"mae": mean_absolute_error(truth, given), "r": correlation(truth, given)}
        if values["mae"] == WORST_MAE and values["r"] == WORST_CORRELATION:
            return Measured(values, {}, len(cases), missing)
        intervals = {m: over_cases(Sample(m, truth, given[None])) for m in values}
        return Measured(
            values | {"bias": float((given - truth).mean())}, intervals, len(cases), missing
        )
    return _classified(task.classes, cases, target, rows, task, missing, answers)


def _classified(
    classes: tuple[str, ...], cases: list[Case], target: Target, rows: dict[str, dict[str, str]],
    task: Any, missing: int, answers: Path,
) -> Measured:  # fmt: skip
    truth = np.array([label_class(c, target, task) for c in cases], dtype=int)
    scores = np.array(
        [[float(rows.get(c.name, {}).get(f"p {name}", "nan")) for name in classes] for c in cases]
    )
    table = [{"case": c.name, "truth": classes[t]} for c, t in zip(cases, truth, strict=True)]
    write_table(answers / "cases.tsv", table, ["case", "truth"])
    chosen = np.where(np.isfinite(scores).all(1), np.nan_to_num(scores).argmax(1), np.nan)
    values = {"auroc": ovr_auroc(truth, scores), "f1": macro_f1(truth, chosen)}
    if len(classes) != 2 or missing or not np.isfinite(values["auroc"]):
        return Measured(values, {}, len(cases), missing)
    sample = Sample("auroc", truth.astype(float), scores[None, :, 1])
    return Measured(values, {"auroc": over_cases(sample)}, len(cases), missing)


def _segmented(
    answers: Path, case: Case, target: Target, classes: int, held: list[NDArray[np.uint8]],
    labels: set[int],
) -> dict[str, Any]:  # fmt: skip
    """Dice and NSD of one case; 0 where there is no answer.

    The classes it truly has are added to `held`, and the labels of its file to `labels`.

    Raises:
        VCMError: The truth cannot be read, or does not lie on the voxels of the answer.
    """
    truth = read_label_map(case.maps[target.label], empty=True)
    mapped = grouped(truth, target.groups, classes)
    held.append(np.unique(mapped))
    labels.update(map(int, distinct(truth.data)))
    file = answers / f"{case.name}.nii.gz"
    if not file.is_file():
        return {"case": case.name, "dice": 0.0, "nsd": 0.0}
    image: Any = nib.load(file)
    found = np.asarray(image.dataobj)
    # An answer lies on the voxels of its scan, and may be empty.
    remedy = f"resample it onto the scan of {case.name} that was answered"
    refuse_other_voxels(truth, Volume(found, image.affine), remedy)
    scored = range(1, classes + 1)
    return {"case": case.name, **segmentation_scores(found, mapped, truth.grid.spacing, scored)}


def _sequences_embedded(cases: Sequence[Case]) -> dict[str, str]:
    """Case -> the sequence that its embedding is of: one that all have, else the first that it has."""
    common = [s for s in SEQUENCES if all(s in case.images for case in cases)]
    chosen = {c.name: (common or [s for s in SEQUENCES if s in c.images])[0] for c in cases}
    if common:
        print(f"Every embedding is of the sequence {common[0]}.", file=sys.stderr)
        return chosen
    counts = Counter(chosen.values())
    warnings.warn(
        f"No sequence is in all {len(cases)} cases, so embeddings are of {', '.join(f'{s} ({n})' for s, n in counts.items())}, "
        "and a probe reads the sequence out of them before anything else: give cases that share one, or a table of "
        "the scans to read.",
        VCMWarning,
        stacklevel=3,
    )
    return chosen


def _paths(model: FittedModel, case: Case, embedded: Mapping[str, str]) -> dict[str, Path]:
    """The scans that the model reads; an embedding reads the one sequence that `embedded` names."""
    if case.name in embedded:
        return {"input": case.images[embedded[case.name]]}
    wanted = [s for options in model.task.inputs for s in options]
    return {s: case.images[s] for s in wanted if s in case.images}


def _refuse_unfound_brains(
    model: FittedModel, cases: list[Case], source: str, embedded: Mapping[str, str]
) -> None:
    """Find the brain of every case, where the model was fitted with masks, before anything is answered.

    Raises:
        VCMError: Brains were not found; names the cases.
    """
    faults, token = {}, model.record.get("mask")
    for case in track(cases, "Finding brains") if token else ():
        try:
            if token in case.maps:
                read_label_map(case.maps[token])
                continue
            paths = _paths(model, case, embedded)
            slots, _ = slots_of(model, read_scans(paths)[0])
            _mask(model, case, paths, slots)
        except VCMError as error:
            faults[case.name] = str(error)
    refuse_unfound(faults, len(cases), source)


def _mask(
    model: FittedModel, case: Case, paths: Mapping[str, Path], slots: Mapping[str, Volume]
) -> Volume | None:
    """The brain mask of a case, where the model was fitted with one: its file, or what is found in its scans.

    Raises:
        VCMError: There is none, and no brain is found.
    """
    token = model.record.get("mask")
    if not token or not slots:
        return None
    if token in case.maps:
        return read_label_map(case.maps[token])
    return kept_brain_mask(slots, list(paths.values()))


def _row(case: str, answer: Answer, model: FittedModel, prior: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"case": case, "looked": "no" if prior else "yes"}
    if answer.value is not None:
        row["answer"] = f"{answer.value:.6f}"
    if answer.probabilities is not None:
        row |= {
            f"p {name}": f"{p:.17g}"
            for name, p in zip(model.task.classes, answer.probabilities, strict=True)
        }
    return row


def _refuse_shots(model: FittedModel, cases: list[Case]) -> None:
    seen = set(model.record.get("checksums", ()))
    for case in cases if seen else ():
        for path in case.images.values():
            try:
                known = identity(path)
            except VCMError:
                continue  # no shot could be read from it either
            if not seen.isdisjoint(known):
                raise VCMError(
                    f"{case.name} is one of the shots that the model was fitted on: leave it out, or its "
                    "answer says nothing."
                )
