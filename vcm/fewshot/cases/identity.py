"""By what a scan is known: its file, and what that holds however it is named, compressed or turned.

A scan must not be both learned from and tested on, under whichever name.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from vcm.files import sha256, write_whole
from vcm.imaging.content_checksum import content_checksum
from vcm.imaging.volume import read_volume

#: Of the files that this process has read, by the checksum of the file.
_contents: dict[str, str] = {}


class Identity(NamedTuple):
    """SHA-256 of a file, and of the voxels that it holds with their place."""

    file: str
    content: str


def identity(path: Path, cache: Path | None = None) -> Identity:
    """By what a scan is known.

    Args:
        path: Of the scan.
        cache: Folder where what was computed is kept by the checksum of the file, as reading takes longer. One that
            is not there is not made: what is refused leaves nothing behind.

    Raises:
        VCMError: It cannot be read as a scan.
    """
    checksum = sha256(path)
    kept = cache / "contents" / f"{checksum}.txt" if cache and cache.is_dir() else None
    if kept and kept.is_file():
        return Identity(checksum, kept.read_text(encoding="ascii"))
    if checksum not in _contents:
        _contents[checksum] = content_checksum(read_volume(path))
    content = _contents[checksum]
    if kept:
        write_whole(kept, lambda part: part.write_text(content, encoding="ascii"))
    return Identity(checksum, content)
