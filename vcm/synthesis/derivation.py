"""`vcm synthesize` for every label map of a BIDS dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from vcm.derivatives import Derivation
from vcm.embedded import model_folder
from vcm.errors import VCMError
from vcm.files import fingerprint, sha256
from vcm.imaging.participants import Participant
from vcm.synthesis.configuration import Synthesis
from vcm.synthesis.synthesize import check_settings, synthesize_files
from vcm.weights.grid import inputs_of

#: Keys that change no result, or are another for each file.
_NOT_SETTINGS = ("condition", "partial", "known", "out", "device", "overwrite")


def synthesis_derivation(config: Synthesis, command: Sequence[str] = ()) -> Derivation:
    """What is made of each label map.

    Args:
        config: What the user chose; `condition` is the folder. An age or a sex in it holds for all.
        command: What the sidecars give as the command.

    Raises:
        VCMError: A setting makes no sense for any label map, or a part of an image is given, which belongs to one.
    """
    for name in ("partial", "known"):
        if getattr(config, name):
            raise VCMError(
                f"{name} belongs to a single head, but a dataset is given: leave it out.",
                argument=name,
            )
    check_settings(config)
    reads = [
        n for n in ("age", "sex") if n in inputs_of(config.model) and getattr(config, n) is None
    ]

    def run(path: Path, work: Path, person: Participant) -> Mapping[str, object]:
        told = {name: getattr(person, name) for name in reads}
        made = synthesize_files(replace(config, condition=path, out=work, **told), command)
        return {"volumes": len(made)}

    settings = {k: v for k, v in asdict(config).items() if k not in _NOT_SETTINGS}
    # What lies behind a path may be another one next time.
    settings["model_sha256"] = fingerprint(model_folder(config.model))
    table = Path(config.labels)
    settings["labels_sha256"] = sha256(table) if table.is_file() else ""
    keys = {"T1w": {"SkullStripped": True}}
    return Derivation("Synthetic brains", "dseg", run, settings, keys, reads=reads)
