"""The HTML page of an evaluation: every summary with its interval, every subject, and one subject to look at.

Knows the summary and the tables as they are stored; computes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vcm.imaging.vocabulary import CLASS_NAMES
from vcm.imaging.volume import Grid, Volume
from vcm.report.layers import Layer
from vcm.report.page import Page, Section, Table, picture_of, table_of
from vcm.report.plots import Plot, intervals
from vcm.report.viewer import Viewer

Summary = Mapping[str, Any]
#: What each measure is, above its table.
_TEXTS = {
    "adherence": "Dice of the segmenter against the condition: real scan (ceiling), controlled sample, uncontrolled sample (floor).",
    "intensity": "Inside the condition's class: mean over subjects of the mean intensity.",
    "paired": "Inside the label map, against the subject's own scan: PSNR [dB] and SSIM.",
    "realism": "KID on the segmenter's features against all training scans; real test scans are the floor.",
    "spectrum": "Power by spatial frequency [1/mm] over that of the subject's own scan: below 1 is blur, above 1 noise.",
    "two_sample": "Area under the ROC curve of a network that has to tell volumes from real test scans: 0.5, it cannot.",
    "privacy": "RMSE over the whole volume to the nearest training scan, and its ratio to the median one.",
    "diversity": "RMSE over the whole volume between two seeds of one subject; real: between two subjects.",
    "covariates": "Ventricles [mL] in uncontrolled samples at two ages.",
}  # fmt: skip


def evaluation_page(
    summary: Summary,
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
    volumes: Mapping[str, NDArray[np.float32]],
    classes: NDArray[np.uint8],
    subject: str,
    grid: Grid,
    out: Path,
) -> Page:
    """What `vcm evaluate` shows.

    Args:
        summary: As summary.json has it.
        tables: Rows of single subjects, by the name of their table.
        volumes: (X, Y, Z) of one subject by arm, 0..1.
        classes: Its condition (X, Y, Z).
        subject: Its name.
        grid: Of the volumes.
        out: Folder that holds the pictures.
    """
    made = summary["configuration"]
    layers = [
        Layer(f"{subject}, {arm}", Volume(image, grid.affine)) for arm, image in volumes.items()
    ]
    names = dict(enumerate(CLASS_NAMES))
    condition = Layer("condition", Volume(classes, grid.affine), "labels", names, shown=True)
    sections = [
        Section("Pictures", pictures=[
            *picture_of(out / "mosaic.png", "Controlled samples beside the real scans."),
            *picture_of(out / "outlined.png", "One subject by every arm, with the outlines of its condition."),
        ]),
        *(
            _section(name, summary[name], tables.get(name, ()))
            for name in _TEXTS
            if summary.get(name)
        ),
    ]  # fmt: skip
    if tables.get("subjects"):
        sections.append(Section("Subjects", tables=[table_of(tables["subjects"])]))
    return Page(
        f"Evaluation of {Path(made['model']).name}",
        lead=f"{summary['subjects']} subjects of split {made['split']}, {summary['train_scans']} training scans. Numbers are mean and standard deviation over subjects, or a value with its 95 % interval.",
        facts={
            "sampling": f"{made['scheduler']}, {made['steps']} steps",
            "seed": str(made["seed"]),
            "split": str(made["split"]),
        },
        viewer=Viewer(layers, [condition]),
        sections=sections,
        provenance={
            k: summary[k]
            for k in ("configuration", "model_sha256", "segmenter_sha256", "conditions_sha256", "versions")
            if k in summary
        },
    )  # fmt: skip


def _section(name: str, summary: Summary, rows: Sequence[Mapping[str, Any]]) -> Section:
    tables = [_summary_table(summary)]
    if rows:
        tables.append(table_of(rows, "Each subject" if "subject" in rows[0] else "All rows"))
    plots: list[Plot] = []
    if name == "adherence":
        arms = {a: {c: _spread(v[a]) for c, v in summary.items() if v[a]["mean"] is not None} for a in ("real", "controlled", "uncontrolled")}  # fmt: skip
        plots.append(intervals(arms, "Dice", "Mean and standard deviation over subjects."))
    if name == "spectrum":
        arms = {a: {band: _estimate(v) for band, v in bands.items() if v["value"] is not None} for a, bands in summary.items()}  # fmt: skip
        plots.append(intervals(arms, "power over that of the own scan", "With 95 % intervals."))
    return Section(name.replace("_", "-").capitalize(), _TEXTS[name], plots=plots, tables=tables)


def _summary_table(summary: Summary) -> Table:
    """A row per entry; nested numbers become columns named by their path."""
    rows: list[dict[str, Any]] = []
    for name, value in summary.items():
        row: dict[str, Any] = {"": name}
        _flatten(value, "", row)
        rows.append(row)
    return table_of(rows)


def _flatten(value: Any, path: str, row: dict[str, Any]) -> None:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _flatten(inner, f"{path} {name}".strip().replace("_", " "), row)
    elif isinstance(value, list):
        row[path] = ", ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in value)
    else:
        row[path] = value


def _spread(v: Summary) -> tuple[float, float, float]:
    sd = v["sd"] or 0.0
    return v["mean"], v["mean"] - sd, v["mean"] + sd


def _estimate(v: Summary) -> tuple[float, float, float]:
    low = v["value"] if v["low"] is None else v["low"]
    high = v["value"] if v["high"] is None else v["high"]
    return v["value"], low, high
