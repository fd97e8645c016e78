"""The page of a prepared set: its scans side by side, what is known of each, and what was left out and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from vcm.imaging.prepared_set import COLUMNS
from vcm.imaging.source import Finding
from vcm.imaging.vocabulary import CLASS_NAMES
from vcm.imaging.volume import read_label_map, read_volume
from vcm.preparation.record import PreparedScan
from vcm.report.layers import Layer
from vcm.report.page import Page, Section, Table, picture_of, table_of
from vcm.report.viewer import Viewer

#: Scans in the viewer.
SHOWN = 4


def preparation_page(
    scans: Sequence[PreparedScan],
    rejected: Sequence[Finding],
    notes: Sequence[Finding],
    split: str,
    out: Path,
) -> Page:
    """What `vcm prepare` shows.

    Args:
        scans: Records of the scans that can be trained on.
        rejected: Scans that cannot be used, with the reason.
        notes: What was understood with a reservation.
        split: Where the split comes from.
        out: Folder of the set.
    """
    counts = Counter(scan.split for scan in scans)
    rows = [{name: getattr(scan, name) for name in COLUMNS} for scan in scans]
    sections = [
        Section("Picture", "Each scan on the model's grid, skull-stripped and aligned: look for heads that are turned, cut or empty.", pictures=picture_of(out / "qc.png", "The first scans of the set.")),
        Section("Scans", tables=[table_of(rows)]),
    ]  # fmt: skip
    for title, found in (("Rejected", rejected), ("Notes", notes)):
        if found:
            table = Table(("scan", "what"), [(f.subject, f.what) for f in found])
            sections.append(Section(title, tables=[table]))
    facts = {name: str(counts[name]) for name in ("train", "validation", "test") if counts[name]}
    return Page(
        f"Prepared scans: {out.name}",
        lead=f"{len(scans)} scans can be trained on, {len(rejected)} were rejected.",
        facts={**facts, "split": f"by {split}"},
        viewer=_viewer(scans, out),
        sections=sections,
        provenance=json.loads((out / "dataset.json").read_text(encoding="utf-8"))
        | {"scans": {scan.participant_id: asdict(scan)["made_from"] for scan in scans}},
    )


def _viewer(scans: Sequence[PreparedScan], out: Path) -> Viewer:
    """The first scans, and the label map of the very first, as they share a grid but not a brain."""
    shown = [scan.participant_id for scan in scans[:SHOWN]]
    images = [Layer(name, read_volume(out / name / f"{name}_T1w.nii.gz")) for name in shown]
    labelled = out / shown[0] / f"{shown[0]}_dseg.nii.gz"
    if not labelled.is_file():
        return Viewer(images)
    names = dict(enumerate(CLASS_NAMES))
    overlay = Layer(f"label map of {shown[0]}", read_label_map(labelled), "labels", names)
    return Viewer(images, [overlay])
