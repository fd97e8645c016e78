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
from vcm.fewshot.cases.tasks import TASK_KEYS, Task, task_from

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
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
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
        valid = (*TASK_KEYS, *_DATA_KEYS)
        if key not in valid:
            raise VCMError(
                f"'{key}' is not a key of the task in {file.name}: {nearest(key, valid)}"
            )
    for key in ("kind", "inputs", "label", "train"):
        if key not in entry:
            raise VCMError(f"{file.name} does not say its {key}: add it.")
    if entry.get("tests") and entry.get("folds"):
        raise VCMError(f"{file.name} has tests and folds: keep one of the two.")
    task = task_from({k: v for k, v in entry.items() if k in TASK_KEYS}, file.stem)
    groups = _groups(entry.get("groups"), file)
    if groups and tuple(groups) != task.classes:
        raise VCMError(
            f"groups of {file.name} are {', '.join(groups)}, its classes {', '.join(task.classes)}: "
            "name the same in the same order."
        )
    named, folds = entry.get("tests") or {}, entry.get("folds") or 0
    if not isinstance(named, Mapping):
        raise VCMError(
            f"tests of {file.name} is {named}: give each a name, as in tests: {{here: {{data: FOLDER}}}}."
        )
    if not isinstance(folds, int):
        raise VCMError(f"folds of {file.name} is {folds}: give a whole number, for instance 5.")
    tests = {str(n): _source(s, file) for n, s in named.items()}
    train = _source(entry["train"], file)
    if task.kind == "segmentation" and entry["label"] in {s.mask for s in (train, *tests.values())}:
        raise VCMError(
            f"The mask of {file.name} is {entry['label']}, which is its label too and would show the network the answer: "
            "name the map of the brain, or mask: found."
        )
    wrong = [name for name in tests if set(name) & set("/\\") or not name.strip()]
    if wrong:
        raise VCMError(f"A test of {file.name} is called '{wrong[0]}': leave out slashes.")
    return TaskFile(task, Target(str(entry["label"]), groups), train, tests, folds)


def _groups(entry: Any, file: Path) -> dict[str, list[int]]:
    """Class -> labels of the map; a label alone needs no brackets."""
    if not isinstance(entry or {}, Mapping):
        raise VCMError(
            f"groups of {file.name} is {entry}: give labels for each class, as in groups: {{core: [1, 4]}}."
        )
    found = {str(k): v if isinstance(v, list) else [v] for k, v in (entry or {}).items()}
    owner: dict[int, str] = {}
    for name, labels in found.items():
        if not labels:
            raise VCMError(
                f"The group {name} of {file.name} holds no label: give those of the map."
            )
        for label in labels:
            if not isinstance(label, int) or isinstance(label, bool) or label < 1:
                raise VCMError(
                    f"The group {name} of {file.name} holds {label}: give labels of the map from 1 on; 0 is background."
                )
            if owner.setdefault(label, name) != name:
                raise VCMError(
                    f"The label {label} stands in the groups {owner[label]} and {name} of {file.name}, but a voxel has "
                    "one class: give every label to one group, or make a task of each overlapping region."
                )
    return found


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
    split = entry.get("split")
    return Source(str(data), None if split is None else str(split), str(entry.get("mask") or ""))
