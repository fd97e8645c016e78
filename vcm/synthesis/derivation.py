"""`vcm synthesize` for every label map of a BIDS dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from vcm.derivatives import Derivation
from vcm.synthesis.configuration import Synthesis
from vcm.synthesis.synthesize import check_settings, synthesize_files

#: Keys that change no result, or are another for each file.
_NOT_SETTINGS = ("condition", "partial", "known", "out", "device", "overwrite")


def synthesis_derivation(config: Synthesis, command: Sequence[str] = ()) -> Derivation:
    """What is made of each label map.

    Args:
        config: What the user chose; `condition` is the folder.
        command: What the sidecars give as the command.

    Raises:
        VCMError: A setting makes no sense for any label map.
    """
    check_settings(config)

    def run(path: Path, work: Path) -> Mapping[str, object]:
        made = synthesize_files(replace(config, condition=path, out=work), command)
        return {"volumes": len(made)}

    settings = {k: v for k, v in asdict(config).items() if k not in _NOT_SETTINGS}
    return Derivation("Synthetic brains", "dseg", run, settings, {"T1w": {"SkullStripped": True}})
