"""What `vcm fewshot finetune` is asked, checked before anything heavy is loaded."""

from __future__ import annotations

from pathlib import Path

from vcm.errors import VCMError
from vcm.fewshot.configuration import FineTuning
from vcm.fewshot.methods import Method, find_method, for_task
from vcm.fewshot.task_file import TaskFile, read_task
from vcm.files import check_output


def what_is_asked(config: FineTuning) -> tuple[TaskFile, Method]:
    """The task, and the method as it reads that task.

    Raises:
        VCMError: There is no such task or method, or a model is in the folder `out` already.
    """
    out = Path(config.out)
    if (out / "model").exists():
        raise VCMError(f"{out} holds a fitted model: choose another folder as out.")
    if not config.task:
        raise VCMError("No task is given: give the YAML file of a task (see docs/fewshot.md).")
    check_output(out)
    given = read_task(config.task)
    return given, for_task(find_method(config.method, given.task.kind), given.task)
