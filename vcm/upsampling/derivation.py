"""`vcm upsample` for every scan of one contrast of a BIDS dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vcm.derivatives import Derivation
from vcm.errors import VCMError
from vcm.imaging.participants import Participant
from vcm.upsampling.configuration import Upsampling
from vcm.upsampling.upsample import upsample_files
from vcm.weights.grid import inputs_of

#: Keys that change no result, or are another for each file.
_NOT_SETTINGS = ("scans", "masks", "out", "device", "overwrite")


def upsampling_derivation(
    config: Upsampling, suffix: str = "T1w", command: Sequence[str] = ()
) -> Derivation:
    """What is made of each scan.

    Args:
        config: What the user chose; `scans` is the folder. An age or a sex in it holds for all.
        suffix: Of the scans: T1w, T2w, FLAIR.
        command: What the sidecars give as the command.

    Raises:
        VCMError: Masks are given, which belong to single scans, or a contrast that T1w scans have.
    """
    if config.to == suffix:
        raise VCMError(
            f"to is {config.to}, but the scans that are read are {suffix} already: choose others by --suffix, "
            "such as T2w or FLAIR.",
            argument="to",
        )
    for name in ("masks", "guide"):
        if getattr(config, name):
            raise VCMError(
                f"{name} belongs to single scans, but a dataset is given: leave it out.",
                argument=name,
            )

    reads = [
        n for n in ("age", "sex") if n in inputs_of(config.model) and getattr(config, n) is None
    ]

    def run(path: Path, work: Path, person: Participant) -> Mapping[str, object]:
        told = {name: getattr(person, name) for name in reads}
        files = upsample_files(replace(config, scans=[path], out=work, **told), command)
        return {"files": len(files)}

    settings = {k: v for k, v in asdict(config).items() if k not in _NOT_SETTINGS}
    settings["suffix"] = suffix
    keys: dict[str, dict[str, Any]] = {
        suffix: {"SkullStripped": False}, "mask": {"Type": "ROI"},
    }  # fmt: skip
    if config.to is not None:
        keys[config.to] = {"SkullStripped": True}  # a translation is that of the brain alone
    return Derivation("Upsampled scans", suffix, run, settings, keys, reads=reads)
