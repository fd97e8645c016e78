"""How the scans of two sets differ before anything is learned: geometry, skull, brightness.

Knows scans; nothing of labels. Features learned from voxels can miss by decades on scans that were
prepared otherwise, so a study says what it sees before it trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vcm.errors import VCMError
from vcm.fewshot.cases.layouts import Case
from vcm.fewshot.cases.preparation import canonical, foreground, on_zero
from vcm.files import write_table
from vcm.imaging.volume import read_label_map, read_volume, refuse_other_voxels

#: A scan and its brain mask, if it has one.
Scan = tuple[Path, Path | None]
#: A scan of which this share is background was brain-extracted or masked.
MASKED_SHARE = 0.25
#: Scans read per set to tell how they look.
LOOKED_AT = 10


@dataclass(frozen=True)
class Appearance:
    """How one scan looks.

    Attributes:
        spacing: Right, anterior, superior [mm].
        axes: Axis codes.
        masked: Whether it is skull-stripped.
        foreground: Volume [mL].
        median: Of the foreground between its dark and bright end, 0..1.
    """

    spacing: tuple[float, float, float]
    axes: str
    masked: bool
    foreground: float
    median: float


def appearance(path: Path, mask: Path | None = None) -> Appearance:
    """Look at one scan, outside of its mask set to 0 if it has one. Raises VCMError if unreadable."""
    volume = read_volume(path)
    if mask is None:
        volume = on_zero(volume)
    else:
        keep = read_label_map(mask)
        refuse_other_voxels(keep, volume, "resample the mask onto the scan")
        volume = on_zero(volume, keep.data > 0)
        volume = volume.with_data(np.where(keep.data > 0, volume.data, 0))
    inside = foreground(volume.data)
    values = volume.data[inside]
    low, high = np.percentile(values, [0.5, 99.5])
    return Appearance(
        canonical(volume.grid).spacing,
        volume.grid.orientation,
        bool((volume.data <= 0).mean() > MASKED_SHARE),
        float(inside.sum()) * volume.grid.voxel_volume,
        float((np.median(values) - low) / max(high - low, 1e-6)),
    )


def write_index(cases: Sequence[Case], path: Path) -> tuple[int, list[str]]:
    """One row per scan; returns how many were read, and a sentence for each that was not."""
    rows: list[dict[str, Any]] = []
    rejected = []
    for case in cases:
        for sequence, file in case.images.items():
            row: dict[str, Any] = {"case": case.name, "sequence": sequence, "path": str(file)}
            try:
                seen = appearance(file)
            except VCMError as error:
                rejected.append(str(error))
                row["rejected"] = str(error)
            else:
                row |= {
                    "spacing": "x".join(f"{s:.3g}" for s in seen.spacing),
                    "axes": seen.axes,
                    "masked": "yes" if seen.masked else "no",
                    "foreground": f"{seen.foreground:.0f}",
                    "median": f"{seen.median:.3f}",
                }
            rows.append(row | {f"label {k}": v for k, v in case.values.items()})
    write_table(path, rows, list(dict.fromkeys(k for row in rows for k in row)))
    return len(rows) - len(rejected), rejected


def differences(train: Sequence[Scan], test: Sequence[Scan]) -> list[str]:
    """What sets the test scans apart from the training scans, a sentence each; often nothing.

    Looks at the first scans of each set that can be read.
    """
    seen = [_appearances(scans[:LOOKED_AT]) for scans in (train, test)]
    if not all(seen):
        return ["no scan of one of the two can be read"]
    found = []
    spacing = [np.median([a.spacing for a in each], axis=0) for each in seen]
    ratio = float(np.exp(np.abs(np.log(spacing[1] / spacing[0])).max()))
    if ratio > 1.3:
        shown = [" x ".join(f"{s:.3g}" for s in each) for each in spacing]
        found.append(f"voxels are {shown[0]} mm in training and {shown[1]} mm in the test")
    masked = [np.mean([a.masked for a in each]) for each in seen]
    if abs(masked[0] - masked[1]) > 0.5:
        words = ["brain-extracted" if m > 0.5 else "with their surroundings" for m in masked]
        found.append(f"scans are {words[0]} in training and {words[1]} in the test")
    volume = [float(np.median([a.foreground for a in each])) for each in seen]
    if max(volume) > 1.25 * min(volume):
        found.append(
            f"the foreground is {volume[0]:.0f} mL in training and {volume[1]:.0f} in the test"
        )
    medians = [np.array([a.median for a in each]) for each in seen]
    spread = float(np.sqrt(medians[0].var() + medians[1].var()) + 0.02)
    if abs(medians[0].mean() - medians[1].mean()) > 2 * spread:
        found.append(
            f"the median brightness is {medians[0].mean():.2f} in training and "
            f"{medians[1].mean():.2f} in the test"
        )
    return found


def _appearances(scans: Sequence[Scan]) -> list[Appearance]:
    found = []
    for path, mask in scans:
        with suppress(VCMError):
            found.append(appearance(path, mask))
    return found
