"""Checksums of the scans that a training run learns from: of the user, and of prepared folders.

Knows scans; refuses those that are learned from and measured on. What a run that resumes compares is in
vcm.learning.origin.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from vcm.errors import VCMError, VCMWarning, first_names
from vcm.files import sha256
from vcm.imaging.prepared_set import Subject
from vcm.imaging.source import MOST_NAMED, Scan

_checksums: dict[tuple[Path, int, int], str] = {}


def file_checksum(path: Path) -> str:
    """SHA-256 of a file, computed again where its time or its size has changed.

    Raises:
        VCMError: It is not there.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise VCMError(
            f"{path} cannot be read ({error.strerror}): put it back, or run the same vcm prepare again."
        ) from error
    key = (path.resolve(), state.st_mtime_ns, state.st_size)
    if key not in _checksums:
        _checksums[key] = sha256(path)
    return _checksums[key]


def by_name(checksums: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Checksums by name; where scans of several folders share a name, theirs one after the other.

    Args:
        checksums: Name and checksum of each scan.
    """
    found: dict[str, str] = {}
    for name, checksum in sorted(checksums):
        found[name] = f"{found[name]} {checksum}" if name in found else checksum
    return found


def source_checksums(scans: Iterable[Scan], maps: bool = True) -> dict[str, str]:
    """Checksum of each scan as the user has it, by its name.

    Args:
        scans: That are trained on.
        maps: Whether the label map, where there is one, is learned from too.

    Raises:
        VCMError: A file is not there.
    """
    return _of_files((s.subject, s.image, s.labels if maps else None) for s in scans)


def scan_checksums(subjects: Iterable[Subject], maps: bool = True) -> dict[str, str]:
    """Checksum of each prepared scan, by its name.

    Args:
        subjects: That are trained on.
        maps: Whether the label map, where there is one, is learned from too.

    Raises:
        VCMError: A file is not there.
    """
    return _of_files(
        (s.subject, s.image_file, s.classes_file if maps and s.has_classes else None)
        for s in subjects
    )


def check_apart(train: Sequence[Subject], measured: Sequence[Subject]) -> None:
    """Refuse scans to measure on that are trained on too; a VCMWarning names persons who may be in both.

    One folder of vcm prepare holds no scan twice and each person in one split; several together may.

    Args:
        train: Scans to train on.
        measured: Scans to validate or test with.

    Raises:
        VCMError: An image is in both.
    """
    images = {file_checksum(s.image_file): s for s in train}
    for scan in measured:
        same = images.get(file_checksum(scan.image_file))
        if same is not None:
            raise VCMError(
                f"{same.subject} in {same.folder.parent} is to be trained on and {scan.subject} in "
                f"{scan.folder.parent} to be measured on, but they hold the same image: keep one of them, "
                "or give both one split in participants.tsv of their source folders, then prepare again."
            )
    shared = sorted({s.participant for s in train} & {s.participant for s in measured})
    if shared:
        warnings.warn(
            f"Persons to measure on have the same names as persons to train on, in another folder "
            f"({len(shared)}): {first_names(shared, MOST_NAMED)}. Where they are the same persons, what is measured is too "
            "good: give each one split in participants.tsv of the source folders, then prepare again.",
            VCMWarning,
            stacklevel=2,
        )


def _of_files(scans: Iterable[tuple[str, Path, Path | None]]) -> dict[str, str]:
    """Checksums of image and label map, where one counts, by the name of the scan."""
    return by_name(
        (name, " ".join(file_checksum(path) for path in files if path)) for name, *files in scans
    )
