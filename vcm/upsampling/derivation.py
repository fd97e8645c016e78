"""`vcm upsample` for every scan of one contrast of a BIDS dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vcm.derivatives import Derivation
from vcm.embedded import model_folder, network_folder
from vcm.errors import VCMError
from vcm.files import fingerprint, read_json
from vcm.imaging.bids import stem
from vcm.imaging.participants import Participant
from vcm.imaging.sidecar import KEY
from vcm.upsampling.checks import refuse_output, refuse_whole_head
from vcm.upsampling.configuration import Upsampling
from vcm.upsampling.detail.head_detail import NONE
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
        VCMError: A mask, a guide or a scan of other voxels is given, which belong to single scans; a contrast
            that the scans have already; there is no such model; or see `refuse_whole_head` and `refuse_output`.
    """
    if config.to == suffix:
        raise VCMError(
            f"to is {config.to}, but the scans that are read are {suffix} already: choose others by --suffix, "
            "such as T2w or FLAIR.",
            argument="to",
        )
    for name in ("masks", "guide", "like"):
        if getattr(config, name):
            raise VCMError(
                f"{name} belongs to single scans, but a dataset is given: leave it out.",
                argument=name,
            )
    refuse_whole_head(config.whole_head, 1, config.detail != NONE, config.consistency)
    refuse_output(config.output, 1 if config.samples is None else config.samples, config.whole_head)

    reads = [
        n for n in ("age", "sex") if n in inputs_of(config.model) and getattr(config, n) is None
    ]

    def run(path: Path, work: Path, person: Participant) -> Mapping[str, object]:
        told = {name: getattr(person, name) for name in reads}
        files = upsample_files(replace(config, scans=[path], out=work, **told), command)
        return {"files": len(files)}

    settings = {k: v for k, v in asdict(config).items() if k not in _NOT_SETTINGS}
    settings |= {"suffix": suffix, "networks": _fingerprints(config)}
    keys: dict[str, dict[str, Any]] = {
        suffix: {"SkullStripped": False}, "mask": {"Type": "ROI"},
    }  # fmt: skip
    if config.to is not None:
        keys[config.to] = {"SkullStripped": True}  # a translation is that of the brain alone
    told = config.slice_thickness is None and config.profile != "auto"
    return Derivation(
        "Upsampled scans", suffix, run, settings, keys, reads=reads,
        beside=_told_beside if told else None,
    )  # fmt: skip


def _fingerprints(config: Upsampling) -> dict[str, dict[str, str]]:
    """Checksums of the networks that take part. Raises VCMError for a model that is not there."""
    found = {"model": fingerprint(model_folder(config.model))}
    if config.detail != NONE:
        found["detail"] = fingerprint(network_folder(config.detail))
    if config.to is not None:
        found["translator"] = fingerprint(network_folder(config.translator))
    return found


def _told_beside(scan: Path) -> object:
    """The thickness that the JSON file beside a scan tells, as it stands there; None: none."""
    return read_json(scan.with_name(f"{stem(scan)}.json")).get(KEY)
