"""Check a BIDS-like folder before anything is prepared or trained: every problem in one table.

Nothing is repaired. A problem is a row: whose, what, and what to do about it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

from vcm.errors import VCMError
from vcm.files import read_table
from vcm.imaging import conditions
from vcm.imaging.conditions import read_classes
from vcm.imaging.dataset import SPLITS, Scan, find_scans
from vcm.imaging.volume import read_volume


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one subject, or with the folder."""

    subject: str
    what: str


def check_folder(folder: Path, labels: str = "auto") -> list[Problem]:
    """All problems of a folder; an empty list for none. Raises VCMError where it is no BIDS folder.

    Missing pairs, differing grids, unknown labels, unreadable and constant images, subjects named
    twice or not at all, splits that no training knows, and the same scan in two splits.
    """
    scans = find_scans(folder)
    problems = _table_problems(folder, scans)
    with_labels = sum(scan.labels is not None for scan in scans)
    seen: dict[str, Scan] = {}
    for scan in track(scans, "Checking"):
        if scan.labels is None and with_labels:
            problems.append(
                Problem(scan.subject, f"has no *_dseg.nii.gz, as {with_labels} others have")
            )
        problems += _scan_problems(scan, labels)
        digest = hashlib.sha256(scan.image.read_bytes()).hexdigest()
        first = seen.setdefault(digest, scan)
        if first is not scan:
            across = "" if first.split == scan.split else f", across {first.split} and {scan.split}"
            problems.append(Problem(scan.subject, f"is the same scan as {first.subject}{across}"))
    return problems


def _table_problems(folder: Path, scans: list[Scan]) -> list[Problem]:
    names = [row["participant_id"] for row in read_table(folder / "participants.tsv")]
    found = {scan.subject for scan in scans}
    problems = [
        Problem(name, f"has {count} rows in participants.tsv: keep one")
        for name, count in Counter(names).items()
        if count > 1
    ]
    problems += [
        Problem(name, "has a row but no *_T1w.nii.gz") for name in dict.fromkeys(names)
        if name not in found
    ]  # fmt: skip
    problems += [
        Problem(path.name, "has a folder but no row in participants.tsv, so it is not used")
        for path in sorted(folder.glob("sub-*"))
        if path.is_dir() and path.name not in names
    ]
    problems += [
        Problem(scan.subject, f"is of the split '{scan.split}': choose {', '.join(SPLITS)}")
        for scan in scans
        if scan.split not in SPLITS
    ]
    return problems


def _scan_problems(scan: Scan, labels: str) -> list[Problem]:
    try:
        image = read_volume(scan.image)
        if scan.labels is not None:
            classes = read_classes(scan.labels, labels, image)
            empty = [
                name
                for name, volume in conditions.class_volumes(
                    classes.data, classes.grid.voxel_volume
                ).items()
                if volume == 0
            ]
            if empty:
                return [Problem(scan.subject, f"has no voxel of {', '.join(empty)}")]
    except VCMError as error:
        return [Problem(scan.subject, str(error))]
    return []
