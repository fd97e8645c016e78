"""The page of a training run: losses and validation measures over the steps, from the files of its folder.

Knows the names of those files, see vcm.learning.run_folder; nothing of what was trained.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from vcm.files import versions
from vcm.report.folder import write_report
from vcm.report.page import Page, Picture, Section, Table, table_of
from vcm.report.plots import Plot, lines

#: The scans that the measures of a run that is complete are of.
Measured = Literal["test", "validation", "training"]
_MEASURED: dict[Measured, tuple[str, str]] = {
    "test": ("Test", "Means over the test scans, with the final weights."),
    "validation": (
        "Final weights",
        "Means over the validation scans, with the final weights. No test scan was looked at.",
    ),
    "training": ("Last step", "Losses of the last training step: no scans were held out."),
}


def write_training_report(
    folder: Path,
    title: str,
    measures: Mapping[str, float] | None = None,
    measured: Measured = "test",
) -> Path | None:
    """Write the page of a run that is complete; see `vcm.report.folder.write_report`.

    Args:
        folder: Of the run.
        title: What was trained.
        measures: By name.
        measured: On which scans.
    """
    return write_report(folder, lambda: _page(folder, title, measures or {}, measured))


def _page(folder: Path, title: str, measures: Mapping[str, float], measured: Measured) -> Page:
    log, validation = _rows(folder / "log.csv"), _rows(folder / "validation.csv")
    sections = []
    plots = [*_curves(log, "training"), *_curves(validation, "validation")]
    if plots:
        sections.append(Section("Curves", plots=plots))
    if measures:
        rows = list(measures.items())
        sections.append(
            Section(
                *_MEASURED[measured],
                tables=[Table(("measure", "value"), rows)],
            )
        )
    pictures = [Picture(p.read_bytes(), p.stem) for p in sorted(folder.glob("*.png"))]
    if pictures:
        sections.append(Section("Pictures", pictures=pictures))
    if validation:
        sections.append(Section("Validation", tables=[table_of(validation)]))
    facts = {"steps": log[-1]["step"]} if log else {}
    best = folder / "best" / "best.json"
    if best.is_file():
        found = json.loads(best.read_text("utf-8"))
        value = found["values"][found["criterion"]]
        facts["best validation"] = f"{found['criterion']} {value:.4g} at step {found['step']}"
    config = folder / "config.yaml"
    text = config.read_text("utf-8").splitlines() if config.is_file() else []
    provenance = {"Configuration": text, "Versions": versions()}
    return Page(
        title,
        lead=f"A training run; its files lie in {folder.name}.",
        facts=facts,
        sections=sections,
        provenance=provenance,
    )


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def _curves(rows: list[dict[str, str]], which: str) -> list[Plot]:
    """A plot per column of numbers that change."""
    found = []
    for name in rows[0] if rows else ():
        points = [(float(r["step"]), _number(r[name])) for r in rows]
        points = [(x, y) for x, y in points if y == y]
        if name not in ("step", "minutes") and len({y for _, y in points}) > 1:
            x, y = zip(*points, strict=True)
            found.append(lines({name: (x, y)}, ("step", name), f"{name}, {which}"))
    return found


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")
