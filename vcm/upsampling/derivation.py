"""`vcm upsample` for every T1w scan of a BIDS dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from vcm.derivatives import Derivation
from vcm.errors import VCMError
from vcm.upsampling.configuration import Upsampling
from vcm.upsampling.upsample import upsample_files

#: Keys that change no result, or are another for each file.
_NOT_SETTINGS = ("scans", "masks", "out", "device", "overwrite")


def upsampling_derivation(config: Upsampling, command: Sequence[str] = ()) -> Derivation:
    """What is made of each scan.

    Args:
        config: What the user chose; `scans` is the folder.
        command: What the sidecars give as the command.

    Raises:
        VCMError: Masks are given, which belong to single scans.
    """
    if config.masks:
        raise VCMError("Masks belong to single scans, but a dataset is given: leave them out.")

    def run(path: Path, work: Path) -> Mapping[str, object]:
        files = upsample_files(replace(config, scans=[path], out=work), command)
        return {"files": len(files)}

    settings = {k: v for k, v in asdict(config).items() if k not in _NOT_SETTINGS}
    keys = {"T1w": {"SkullStripped": False}, "mask": {"Type": "ROI"}}
    return Derivation("Upsampled scans", "T1w", run, settings, keys)
