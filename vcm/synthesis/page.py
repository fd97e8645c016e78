"""The page of a synthesis: the volumes over the label map that they obey, on that map's own voxels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vcm.imaging.conditions import class_volumes
from vcm.imaging.vocabulary import CLASS_NAMES, read_classes
from vcm.imaging.volume import Volume, read_volume
from vcm.report.layers import Layer
from vcm.report.page import Page, Section, Table, picture_of
from vcm.report.viewer import Viewer
from vcm.synthesis.configuration import Synthesis

#: Volumes in the viewer; of more seeds the first.
SHOWN = 4


def synthesis_page(
    config: Synthesis,
    name: str,
    written: Sequence[Path],
    picture: Path,
    record: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> Page:
    """What `vcm synthesize` shows of its results.

    Args:
        config: What the user chose.
        name: First part of the files' names.
        written: The volumes, in the order of the seeds.
        picture: The PNG.
        record: As the sidecars have it.
        inputs: What the model was told, in words.
    """
    seeds = config.seeds[:SHOWN]
    made = [read_volume(path) for path in written[:SHOWN]]
    images = [Layer(f"seed {seed}", volume) for seed, volume in zip(seeds, made, strict=True)]
    if config.partial:
        images.append(Layer("given image", read_volume(config.partial)))
    overlays, tables = [], []
    if config.condition:
        classes, _ = read_classes(config.condition, config.labels)
        names = dict(enumerate(CLASS_NAMES))
        overlays.append(Layer("label map", classes, "labels", names, shown=True))
        tables.append(_by_class(classes, made, seeds))
    facts = {
        "seeds": ", ".join(map(str, config.seeds[:8])) + (" ..." if len(config.seeds) > 8 else ""),
        "model": str(config.model),
        "sampling": f"{record['Scheduler']['class']}, {record['Steps']} steps",
        "label map": "none" if not config.condition else f"labels {record['Labels']}",
    }
    sections = [
        Section("Picture", pictures=picture_of(picture, "Three planes of each volume; beside them with the outlines of the label map, where there is one.")),
        Section("Numbers", tables=tables),
        Section("What the model was told", tables=[Table(("input", "value and source"), list(inputs.items()))]),
    ]  # fmt: skip
    return Page(
        f"{name}: synthetic T1-weighted brain" + ("s" if len(written) > 1 else ""),
        name,
        f"{len(written)} volume(s) written by vcm synthesize; the first {len(made)} are shown.",
        record["Warning"],
        facts,
        Viewer(images, overlays),
        [
            section
            for section in sections
            if section.pictures or any(t.rows for t in section.tables)
        ],
        {**record, "Seeds": list(config.seeds)},
    )


def _by_class(classes: Volume, made: Sequence[Volume], seeds: Sequence[int]) -> Table:
    """Volume of each class, and the intensity that each synthetic volume has inside it."""
    volumes = class_volumes(classes.data, classes.grid.voxel_volume)
    rows: list[list[object]] = []
    for number, (name, millilitres) in enumerate(volumes.items(), start=1):
        inside = classes.data == number
        means = [float(v.data[inside].mean()) if inside.any() else np.nan for v in made]
        rows.append([name, millilitres, *means])
    heads = ["class", "label map [mL]", *(f"mean intensity, seed {s}" for s in seeds)]
    text = "Volume of each class in the label map, and mean intensity (0 to 1) inside it."
    return Table(heads, rows, text=text)
