"""What a challenge demands of a container: its arguments, and the file that it must write.

Knows interfaces, kept as data in contracts.yaml; nothing of models.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vcm.errors import VCMError
from vcm.fewshot.cases.tasks import Task, task_from

_TABLE = Path(__file__).with_name("contracts.yaml")
#: Seconds that one case may take, by the rules of the challenge.
TIME_LIMIT = 120.0


@dataclass(frozen=True)
class Contract:
    """One interface.

    arguments    sequence -> command line argument
    suffix       of the file to write: .txt, .nii.gz or .npy
    low, high    bounds of the number in a .txt, where there are any
    labels       largest label of a map
    empty        whether a map may hold background alone
    """

    name: str
    title: str
    task: Task
    arguments: dict[str, str]
    suffix: str
    low: float | None = None
    high: float | None = None
    labels: int = 0
    empty: bool = True

    def as_dict(self) -> dict[str, Any]:
        """For JSON, as `predict` reads it in a container."""
        return {
            "name": self.name,
            "task": self.task.as_dict(),
            "arguments": self.arguments,
            "suffix": self.suffix,
            "low": self.low,
            "high": self.high,
            "labels": self.labels,
            "empty": self.empty,
        }


def contract_names() -> list[str]:
    """Names of all contracts."""
    return list(_read())


def load_contract(name: str) -> Contract:
    """A contract by name, for instance fomo26:task1. Raises VCMError for an unknown one."""
    table = _read()
    if name not in table:
        raise VCMError(f"The contract '{name}' is unknown: choose one of {', '.join(table)}.")
    entry = table[name]
    output = dict(entry["output"])
    return Contract(
        name, entry["title"], task_from(entry["task"], name), dict(entry["arguments"]),
        output.pop("suffix"), **output,
    )  # fmt: skip


def _read() -> dict[str, Any]:
    table: dict[str, Any] = yaml.safe_load(_TABLE.read_text(encoding="utf-8"))
    return table
