"""What `vcm fewshot finetune | study` are asked, checked before anything heavy is loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path

from vcm.errors import VCMError
from vcm.fewshot.cases.task_file import TaskFile, read_task
from vcm.fewshot.cases.tasks import Task, task_from
from vcm.fewshot.configuration import EXAMPLE, FewShotStudy, FineTuning, NetworkTraining
from vcm.fewshot.methods.catalogue import Method, find_method, for_task, known_method
from vcm.files import check_output

#: Edge of a patch of a label map's network [voxel].
LEAST_PATCH = 8
#: A word of a class that belongs to one side of the body.
_SIDE = re.compile(r"(?<![a-z])(left|right|lh|rh)(?![a-z])", re.IGNORECASE)
#: What the example asks.
EXAMPLE_TASK = task_from({"kind": "regression", "inputs": ["t1"]})


def check_training(training: NetworkTraining) -> None:
    """Raise VCMError for a budget of a network that makes no sense."""
    for name in ("steps", "batch_size", "members", "tune_steps"):
        if getattr(training, name) < 1:
            raise VCMError(f"{name} is {getattr(training, name)}: choose 1 or more.", argument=name)
    if training.patch < LEAST_PATCH:
        raise VCMError(
            f"patch is {training.patch}: choose {LEAST_PATCH} voxels or more, as the network halves it three times.",
            argument="patch",
        )
    for name in ("learning_rate", "tune_learning_rate"):
        if not 0 < getattr(training, name) < math.inf:
            raise VCMError(
                f"{name} is {getattr(training, name)}: choose a number above 0, such as 0.002.",
                argument=name,
            )


def refuse_mirrored_sides(task: Task, methods: Iterable[Method], training: NetworkTraining) -> None:
    """Raise VCMError where a network would be taught on mirror images what lies on one side of the body.

    Half of the patches would show the left structure on the right under its old name, so that the network learned to
    guess, and the mean over mirror images could not tell them apart.
    """
    sided = [name for name in task.classes if _SIDE.search(name)]
    trained = any(
        m.start
        and not m.synthetic
        and (task.kind == "segmentation" or m.start == "random" or training.tune == "all")
        for m in methods
    )
    if sided and trained and training.mirror:
        raise VCMError(
            f"The class '{sided[0]}' of {task.name} belongs to one side of the body, but left and right are exchanged in "
            "training: add mirror=false.",
            argument="mirror",
        )


def refuse_fitted(out: Path) -> None:
    """Raise VCMError where a folder holds a fitted model already."""
    if (out / "model").exists():
        raise VCMError(f"{out} holds a fitted model: choose another folder as out.")


def check_finetuning(config: FineTuning) -> tuple[TaskFile, Method]:
    """The task, and the method as it reads that task.

    Raises:
        VCMError: There is no such task or method, or a model is in the folder `out` already.
    """
    refuse_fitted(Path(config.out))
    check_training(config)
    if not config.task:
        raise VCMError("No task is given: give the YAML file of a task (see docs/fewshot.md).")
    check_output(Path(config.out))
    given = read_task(config.task)
    method = for_task(find_method(config.method, given.task.kind), given.task)
    refuse_mirrored_sides(given.task, [method], config)
    return given, method


def check_study(config: FewShotStudy) -> list[TaskFile]:
    """The tasks of a study, without that of the example.

    Raises:
        VCMError: There is no such task or method, or nothing to compare.
    """
    check_training(config)
    if not config.tasks:
        raise VCMError("The study has no tasks: give their YAML files (see docs/fewshot.md).")
    if config.seeds < 1 or not config.shots:
        raise VCMError("The study has no draws: set seeds to 1 or more and shots to a list.")
    if config.reference not in config.methods:
        raise VCMError(
            f"The reference '{config.reference}' is not among the methods "
            f"({', '.join(config.methods)}): add it, or choose another."
        )
    files = [read_task(path) for path in config.tasks if not is_example(path)]
    names = [file.task.name for file in files]
    if len(set(names)) < len(names):
        raise VCMError(f"Two tasks have one name ({', '.join(names)}): give each another name.")
    for task in [file.task for file in files] or [EXAMPLE_TASK]:
        refuse_mirrored_sides(task, methods_of(config, task), config)
    return files


def is_example(task: str) -> bool:
    """Whether a task is the one that needs no data; a file of that name is taken for what it is."""
    return task == EXAMPLE and not Path(task).is_file()


def methods_of(config: FewShotStudy, task: Task) -> list[Method]:
    """The methods of the study that can do a task, as they read it; the unknown are refused."""
    kind = task.kind
    given = {name: known_method(name) for name in config.methods}
    known = [for_task(m, task) for m in given.values() if m is not None and kind in m.kinds]
    for name, method in given.items():
        if method is None:
            find_method(name, kind)
    if not known:
        raise VCMError(
            f"None of the methods {', '.join(config.methods)} can do the kind {kind}: choose another."
        )
    return known
