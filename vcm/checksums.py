"""Checksums of the files of a saved model: written when it is saved, compared when it is loaded.

A weight that was damaged on the way would generate brains all the same, so it is looked for. Knows
files and folders; nothing of what is in them.
"""

from __future__ import annotations

import json
from pathlib import Path

from vcm.errors import VCMError
from vcm.files import sha256, write_json

#: Lies in the model's folder: path in the folder -> SHA-256.
CHECKSUMS = "checksums.json"
#: The files that loading reads. A model card may be edited.
_INDEX = "model_index.json"
_READ = (_INDEX, "config.json", "scheduler_config.json", "segmenter.json")


def checksums_of(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a model that loading reads, by its path in the folder."""
    files = sorted(p for p in folder.rglob("*") if p.suffix == ".safetensors" or p.name in _READ)
    return {p.relative_to(folder).as_posix(): sha256(p) for p in files}


def record_checksums(folder: Path) -> None:
    """Write the checksums of a model that was just saved into its folder."""
    write_json(folder / CHECKSUMS, checksums_of(folder))


def verify_network(folder: Path) -> None:
    """Compare the files of one network with its checksums, and with those of the model that it is a part of.

    Args:
        folder: Of the network; a part lies in the folder of its model.

    Raises:
        VCMError: As `verify_checksums`.
    """
    verify_checksums(folder)
    model = folder.resolve().parent
    if (model / _INDEX).is_file():
        verify_checksums(model, f"{folder.resolve().name}/")


def verify_checksums(folder: Path, below: str = "") -> dict[str, str]:
    """Compare a model's files with its checksums.

    Args:
        folder: Of the model.
        below: Beginning of the paths in it that are looked at; '': all.

    Returns:
        SHA-256 by path in the folder; empty for a folder that was saved without checksums.

    Raises:
        VCMError: A file is missing, or is not what it was when the model was saved.
    """
    record = folder / CHECKSUMS
    if not record.is_file():
        return {}
    try:
        found = json.loads(record.read_text("utf-8")).items()
        recorded = {str(p): str(s) for p, s in found if str(p).startswith(below)}
    except (ValueError, AttributeError) as error:
        raise VCMError(f"{record} cannot be read ({error}): copy the model again.") from error
    for name, checksum in recorded.items():
        path = folder / name
        if not path.is_file():
            raise VCMError(f"{path} is missing: copy the model again.")
        if sha256(path) != checksum:
            raise VCMError(
                f"{path} is not what it was when the model was saved (SHA-256 {sha256(path)[:12]}, "
                f"recorded {checksum[:12]}): copy the model again, or, if you changed it on purpose, "
                f"delete {record.name} beside it."
            )
    return recorded
