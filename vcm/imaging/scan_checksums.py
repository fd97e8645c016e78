"""Checksums of the scans that a training run learns from: files, prepared folders, a pool.

Knows scans; what is compared with what is in vcm.learning.origin.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from vcm.errors import VCMError
from vcm.files import sha256
from vcm.imaging.prepared_set import Subject
from vcm.imaging.scan_pool import ScanPool
from vcm.imaging.source import Scan

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
            f"{path} cannot be read ({error.strerror}): run the same vcm prepare again."
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
    files = ((s.subject, [s.image, s.labels] if maps and s.labels else [s.image]) for s in scans)
    return by_name((name, " ".join(map(file_checksum, own))) for name, own in files)


def scan_checksums(subjects: Iterable[Subject], maps: bool = True) -> dict[str, str]:
    """Checksum of each prepared scan, by its name.

    Args:
        subjects: That are trained on.
        maps: Whether the label map, where there is one, is learned from too.

    Raises:
        VCMError: A file is not there.
    """
    return by_name((s.subject, _scan_checksum(s, maps)) for s in subjects)


def pool_checksums(pool: ScanPool) -> dict[str, str]:
    """Checksum of the voxels of each scan of a pool and of its label map, by its name."""
    made = zip(pool.names, pool.images, pool.classes, strict=True)
    return by_name(
        (name, hashlib.sha256(image.numpy().tobytes() + classes.numpy().tobytes()).hexdigest())
        for name, image, classes in made
    )


def _scan_checksum(subject: Subject, maps: bool) -> str:
    files = [subject.image_file]
    if maps and subject.has_classes:
        files.append(subject.classes_file)
    return " ".join(map(file_checksum, files))
