"""The files of one training run, each there whole or not at all, whenever the process is killed.

    config.yaml       as resolved; comments say what was changed after the start, and when
    origin.json       checksums of the networks and scans that it learns from
    checkpoint.pt     the state to resume from
    log.csv           losses            } no row past the checkpoint outlives a resumption
    validation.csv    measures          }
    checkpoints/      step-N: averaged weights, as save_pretrained writes them, the last few
    progress.log      lines for people: rate, remaining time, memory
    best/             the same at the best validation, with best.json: its step and measures
    .lock             held while a process trains here

Knows names and orders of writing; nothing of processes or how a network learns.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from vcm.errors import VCMError
from vcm.files import check_output, remove, replaced, write_json, write_whole
from vcm.learning.origin import Origin, origin_changes, read_origin
from vcm.learning.schedule import TrainingSchedule

CHECKPOINT = "checkpoint.pt"
CONFIG = "config.yaml"
ORIGIN = "origin.json"
TABLES = ("log.csv", "validation.csv")
#: Lines of progress of every process that trained here, for people; nothing reads it.
PROGRESS = "progress.log"
_SNAPSHOT = re.compile(r"step-(\d+)")


class RunFolder:
    """Folder of one training run, opened by the main process only.

    Args:
        path: The folder.
        keep: Snapshots that stay.
    """

    def __init__(self, path: Path, keep: int) -> None:
        self.path, self.keep = path, keep
        self.best, self.snapshots = path / "best", path / "checkpoints"

    @contextmanager
    def opened(
        self, config: TrainingSchedule, needed: int = 0, origin: Origin | None = None
    ) -> Iterator[tuple[dict[str, Any] | None, list[str]]]:
        """The folder, for one process alone: the state to resume from, if any, and what was changed.

        Leaves the folder as it was when that state was written, and configuration and origin in it.

        Args:
            config: Of the run.
            needed: Room that its files take [bytes].
            origin: What the run learns from; None: nothing of it is recorded or compared.

        Raises:
            VCMError: Where it holds a run of another configuration or origin, or another process trains
                there, or the disk is full.
        """
        check_output(self.path, needed)
        self.path.mkdir(parents=True, exist_ok=True)
        with self._alone():
            yield self._open(config, origin)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise VCMError(
                f"Another process trains in {self.path}: wait for it, or choose another out=FOLDER."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _open(
        self, config: TrainingSchedule, origin: Origin | None
    ) -> tuple[dict[str, Any] | None, list[str]]:
        state: dict[str, Any] | None = None
        changes: list[str] = []
        self._refuse_other_files(config)
        if (self.path / CHECKPOINT).is_file():
            state = self._read_state()
            changes = self._changes(config) + self._changes_of_origin(config, origin)
        step = state["step"] if state else 0
        self._write_config(config, [f"# from step {step}: {change}" for change in changes])
        if origin is not None:
            write_json(self.path / ORIGIN, asdict(origin))
        self._tidy(step)
        return state, changes

    def _read_state(self) -> dict[str, Any]:
        try:
            state = torch.load(self.path / CHECKPOINT, map_location="cpu", weights_only=True)
            return {"step": state["step"], **state}
        except Exception as error:  # whatever a damaged archive makes of the reader
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise VCMError(
                f"{self.path / CHECKPOINT} cannot be read ({reason}): it is damaged or of another program; "
                "copy it again, or begin another run with another out=FOLDER."
            ) from error

    def _refuse_other_files(self, config: TrainingSchedule) -> None:
        """Refuse a folder whose files of our names are not of a training run: they would be overwritten."""
        there = [n for n in (CONFIG, ORIGIN, *TABLES, CHECKPOINT) if (self.path / n).exists()]
        if not there:
            return
        try:
            kept = OmegaConf.to_container(OmegaConf.load(self.path / CONFIG))
        except (OSError, ValueError, OmegaConfBaseException, YAMLError):
            kept = None
        own = {field.name for field in fields(config)}
        # A run of an older version may lack a key; a file of a user's holds a few.
        if not isinstance(kept, dict) or len(own & kept.keys()) < len(own) / 2:
            raise VCMError(
                f"{self.path} holds {', '.join(there)}, which no training run wrote: choose another "
                "out=FOLDER, so that nothing of yours is overwritten."
            )

    def save_state(self, state: dict[str, Any]) -> None:
        """Replace checkpoint.pt."""
        write_whole(self.path / CHECKPOINT, lambda part: torch.save(state, part))

    def append(self, table: str, row: Mapping[str, object]) -> None:
        """Add a row, whose first column is the step, to one of TABLES."""
        path = self.path / table
        new = not path.is_file()
        with path.open("a", newline="", encoding="utf-8") as lines:
            writer = csv.DictWriter(lines, list(row), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
            lines.flush()
            os.fsync(lines.fileno())

    def save_snapshot(self, net: Any, step: int) -> None:
        """Write checkpoints/step-N and remove the oldest beyond `keep`."""
        self.snapshots.mkdir(exist_ok=True)
        write_whole(self.snapshots / f"step-{step}", net.save_pretrained)
        for _, old in self._saved()[: -self.keep]:
            shutil.rmtree(old)

    def offer_best(self, net: Any, step: int, values: Mapping[str, float], criterion: str) -> None:
        """Write best/ if the value of that name is a number lower than that of the best so far."""
        record = self.best / "best.json"
        lowest = math.inf
        if record.is_file():
            lowest = json.loads(record.read_text("utf-8"))["values"][criterion]
        if not values[criterion] < lowest:
            return
        best = {"step": step, "criterion": criterion, "values": dict(values)}

        def write(part: Path) -> None:
            net.save_pretrained(part)
            (part / "best.json").write_text(json.dumps(best, indent=2) + "\n", encoding="utf-8")

        write_whole(self.best, write)

    def load_best(self, net: Any) -> dict[str, Any]:
        """The weights in best/ of a network of this type. Raises VCMError if there are none."""
        if not (self.best / "best.json").is_file():
            raise VCMError(
                f"weights is 'best', but no validation in {self.path} gave a number: set "
                "weights=last and run the same command again."
            )
        return dict(type(net).from_pretrained(self.best).state_dict())

    def _changes(self, config: TrainingSchedule) -> list[str]:
        """'key old -> new' of every key that differs. Raises VCMError if one of them may not."""
        if not (self.path / CONFIG).is_file():
            return []
        before = OmegaConf.to_container(OmegaConf.load(self.path / CONFIG))
        after = OmegaConf.to_container(OmegaConf.create(_yaml(config)))
        assert isinstance(before, dict) and isinstance(after, dict)
        changed = []
        for field in fields(config):
            # A run that was begun before there was such a key had what is now its default.
            default = field.default_factory() if callable(field.default_factory) else field.default
            old, new = before.get(field.name, default), after[field.name]
            if old == new or old is MISSING or field.name == "out":
                continue
            if field.name not in config.may_change:
                raise VCMError(
                    f"{field.name} was {old} when the run in {self.path} was begun and is {new} "
                    f"now: put it back to resume, or begin another run with another out=FOLDER."
                )
            changed.append(f"{field.name} {old} -> {new}")
        return changed

    def _changes_of_origin(self, config: TrainingSchedule, origin: Origin | None) -> list[str]:
        """See `origin_changes`; none of a run that was begun before its origin was recorded."""
        if origin is None:
            return []
        before = read_origin(self.path / ORIGIN)
        return [] if before is None else origin_changes(before, origin, config)

    def _write_config(self, config: TrainingSchedule, comments: list[str]) -> None:
        path = self.path / CONFIG
        earlier = []
        if path.is_file() and (self.path / CHECKPOINT).is_file():
            earlier = [x for x in path.read_text("utf-8").splitlines() if x.startswith("#")]
        text = "".join(f"{line}\n" for line in (*earlier, *comments)) + _yaml(config)
        write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))

    def _tidy(self, step: int) -> None:
        """Remove what a killed process left unfinished, and what it wrote past `step`.

        best/ stays past a checkpoint: the run comes to it again. With no checkpoint it is of
        another run.
        """
        for folder in (self.path, self.snapshots):
            for part in folder.glob(".part-*"):
                remove(part)
        for old in replaced(self.best):
            if self.best.is_dir():
                remove(old)
            else:
                old.rename(self.best)
        if step == 0 and (self.best / "best.json").is_file():
            remove(self.best)
        for saved, path in self._saved():
            if saved > step:
                remove(path)
        for table in TABLES:
            _cut(self.path / table, step)

    def _saved(self) -> list[tuple[int, Path]]:
        """(step, folder) of every snapshot, the oldest first; a user's copy of another name is none."""
        found = ((_SNAPSHOT.fullmatch(path.name), path) for path in self.snapshots.glob("step-*"))
        return sorted((int(name[1]), path) for name, path in found if name)


def _cut(table: Path, step: int) -> None:
    """Keep the rows up to `step`: later ones, and a row cut short, will be written again."""
    if not table.is_file():
        return
    lines = table.read_text("utf-8").splitlines(keepends=True)
    whole = [x for x in lines[1:] if x.endswith("\n") and x.strip()]
    kept = [x for x in whole if _step_of(x, table) <= step]
    if not kept:
        remove(table)
    elif kept != lines[1:]:
        text = "".join([lines[0], *kept])
        write_whole(table, lambda part: part.write_text(text, encoding="utf-8"))


def _step_of(row: str, table: Path) -> int:
    """The first column. Raises VCMError where it is no step: what another program stored is not guessed at."""
    try:
        return int(row.split(",", 1)[0])
    except ValueError as error:
        raise VCMError(
            f"{table} has a row that begins with no step ('{row.strip()[:40]}'), as where another program stored "
            "it: put the rows back as they were, or begin another run with another out=FOLDER."
        ) from error


def _yaml(config: TrainingSchedule) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(asdict(config)))
