"""Read the YAML file of a task: what is asked, and where its labelled cases are.

    kind: regression             # or classification, segmentation
    inputs: [t1]                 # or several; {one_of: [t2s, swi]} where one of them will do
    classes: [F, M]              # of a classification; names of the labels 1, 2, ... of a segmentation
    label: age                   # column of participants.tsv, or token of the map: dseg, mask, seg
    train: {data: FOLDER, split: train, mask: dseg}
    tests: {NAME: {data: FOLDER, split: test}}     # or folds: 5, a cross-validation of the training cases

Knows YAML and folders; a folder is found from the place of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from vcm.config import nearest
from vcm.errors import VCMError
from vcm.fewshot.cases.layouts import Source, Target
from vcm.fewshot.cases.tasks import Task, task_from

_TASK_KEYS = ("name", "kind", "inputs", "classes", "optional", "spacing")
_DATA_KEYS = ("label", "groups", "train", "tests", "folds")


@dataclass(frozen=True)
class TaskFile:
    """A task with its data: where the label is, what shots are drawn from, what tests it."""

    task: Task
    target: Target
    train: Source
    tests: dict[str, Source]
    folds: int


def read_task(path: str | Path) -> TaskFile:
    """Read a task file.

    Raises:
        VCMError: it does not exist, is no YAML, or a key is unknown or missing.
    """
    file = Path(path)
    if not file.is_file():
        raise VCMError(
            f"{file} does not exist: give the YAML file of a task (see docs/fewshot.md)."
        )
    try:
        found = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    except (OmegaConfBaseException, YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise VCMError(f"{file.name} cannot be read ({reason}): correct the YAML.") from error
    if not isinstance(found, dict):
        raise VCMError(
            f"{file.name} is no task: write kind, inputs, label and train, one per line."
        )
    return task_file_from({str(k): v for k, v in found.items()}, file)


def task_file_from(entry: Mapping[str, Any], file: Path) -> TaskFile:
    """A task file from its content; `file` names the task and is where folders are found from."""
    for key in entry:
        valid = (*_TASK_KEYS, *_DATA_KEYS)
        if key not in valid:
            raise VCMError(
                f"'{key}' is not a key of the task in {file.name}: {nearest(key, valid)}"
            )
    for key in ("kind", "inputs", "label", "train"):
        if key not in entry:
            raise VCMError(f"{file.name} does not say its {key}: add it.")
    if entry.get("tests") and entry.get("folds"):
        raise VCMError(f"{file.name} has tests and folds: keep one of the two.")
    task = task_from({k: v for k, v in entry.items() if k in _TASK_KEYS}, file.stem)
    groups = {str(k): list(v) for k, v in (entry.get("groups") or {}).items()}
    if groups and tuple(groups) != task.classes:
        raise VCMError(
            f"groups of {file.name} are {', '.join(groups)}, its classes {', '.join(task.classes)}: "
            "name the same in the same order."
        )
    tests = {str(n): _source(s, file) for n, s in (entry.get("tests") or {}).items()}
    return TaskFile(
        task, Target(str(entry["label"]), groups), _source(entry["train"], file), tests,
        int(entry.get("folds") or 0),
    )  # fmt: skip


def _source(entry: Any, file: Path) -> Source:
    if not isinstance(entry, Mapping):
        entry = {"data": entry}
    for key in entry:
        if key not in ("data", "split", "mask"):
            raise VCMError(
                f"'{key}' is not a key of cases in {file.name}: valid are data, split, mask."
            )
    if not entry.get("data"):
        raise VCMError(f"Cases in {file.name} have no data: give a folder or a table.")
    data = file.parent / str(entry["data"])
    return Source(str(data), entry.get("split"), str(entry.get("mask") or ""))
