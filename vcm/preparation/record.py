"""What is known of one prepared scan: its record, and whether it still holds.

A prepared scan is a folder of its image, its label map where it has one, and this record, which tells
by checksums what they were made from and what they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vcm import __version__
from vcm.files import sha256, write_json


@dataclass(frozen=True)
class PreparedScan:
    """Record of a prepared scan (`*_prepare.json`).

    Attributes:
        participant_id: Name of the scan, sub-01 or sub-01_ses-2.
        participant: The person, sub-01.
        split: train, validation or test.
        age: In years.
        sex: F or M.
        ventricular_volume: In mL; None where no label map tells it.
        brain_volume: In mL, likewise.
        to_common: (4, 4), world of the scan -> common space, RAS+ [mm].
        intensity_range: Values of the scan that became 0 and 1.
        made_from: Checksums of the scan and its label map, vocabulary, grid, segmenter.
        image: Name of the scan's file.
        label_map: Name of the file of its label map or mask; None where it has none.
        files: Checksum of each file, by its name.
        labelled_by: The segmenter that made the label map.
        brain_mask_from: What tells where the brain is: background, label map, or the network that found it.
        notes: What was understood with a reservation, in sentences.
        content: Checksum of the scan's voxels and their place, whatever its file; see `content_checksum`.
        vcm_version: Of the program that wrote it.
    """

    participant_id: str
    participant: str
    split: str
    age: float | None
    sex: str | None
    ventricular_volume: float | None
    brain_volume: float | None
    to_common: list[list[float]]
    intensity_range: list[float]
    made_from: dict[str, str]
    image: str
    label_map: str | None
    files: dict[str, str] = field(default_factory=dict)
    labelled_by: str = ""
    brain_mask_from: str = ""
    notes: list[str] = field(default_factory=list)
    content: str = ""
    vcm_version: str = __version__

    def write(self, folder: Path) -> None:
        """Write it into the folder of the scan, in one move."""
        write_json(record_file(folder, self.participant_id), asdict(self))


def record_file(folder: Path, name: str) -> Path:
    """Where the record lies in the folder of a scan."""
    return folder / f"{name}_prepare.json"


def read_record(folder: Path, name: str, made_from: Mapping[str, str]) -> PreparedScan | None:
    """The record of a scan, None where it is to be prepared (again).

    Args:
        folder: Of the prepared scan.
        name: Of the scan.
        made_from: What it would be made from now. The record holds only if that is the same, and every
            file is what it was when it was written.
    """
    try:
        found = PreparedScan(**json.loads(record_file(folder, name).read_text(encoding="utf-8")))
        whole = all(sha256(folder / file) == checksum for file, checksum in found.files.items())
    except (OSError, ValueError, TypeError):
        return None
    same = found.made_from == dict(made_from) and found.vcm_version == __version__
    return found if same and whole and found.files else None
