"""Files written whole or not at all, tables, checksums, and what is recorded beside a result.

Knows paths and bytes; nothing of scans or networks.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vcm import __version__
from vcm.errors import VCMError


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a tab-separated table with a header line."""
    if not path.is_file():
        raise VCMError(f"{path} does not exist: give a folder that holds {path.name}.")
    with path.open(newline="", encoding="utf-8-sig") as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


def write_table(path: Path, rows: Iterable[Mapping[str, object]], columns: list[str]) -> None:
    """Write rows tab-separated in one move; None becomes n/a."""
    temporary = path.with_name(f".part-{path.name}")
    with temporary.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({c: "n/a" if row.get(c) is None else row[c] for c in columns})
    temporary.replace(path)


def write_json(path: Path, content: object) -> None:
    """Write JSON in one move."""
    temporary = path.with_name(f".part-{path.name}")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file or folder under a temporary name, to the disk, and only then give it its name.

    A folder that is replaced lies in .old-NAME for a moment, where `RunFolder.open` finds it.
    """
    part, old = path.with_name(f".part-{path.name}"), path.with_name(f".old-{path.name}")
    remove(part)
    write(part)
    for file in (x for x in (part, *part.rglob("*")) if x.is_file()):
        with file.open("rb+") as opened:
            _to_disk(opened.fileno())
    if path.is_dir():
        path.rename(old)
    part.replace(path)
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        _to_disk(folder)
        os.close(folder)
    remove(old)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _to_disk(descriptor: int) -> None:
    os.fsync(descriptor)


def fingerprint(folder: Path) -> dict[str, str]:
    """SHA-256 of every tensor file of a model, by its path in the folder."""
    files = sorted(folder.rglob("*.safetensors"))
    return {p.relative_to(folder).as_posix(): sha256(p) for p in files}


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


#: Packages whose version can change a result.
_PACKAGES = ("torch", "diffusers", "monai", "numpy", "scipy", "nibabel", "SimpleITK", "nilearn")


def versions() -> dict[str, str]:
    """Versions of vcm, Python and the packages that compute."""
    found = {"vcm": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def synthetic_mark() -> dict[str, Any]:
    """Says in the sidecar what the file is."""
    return {
        "Synthetic": True,
        "Warning": "Made by a generative model; not a scan of a person and not for diagnosis.",
    }
