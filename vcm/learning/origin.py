"""What a training run learns from, by checksums: kept in its folder, and compared when it resumes.

A path says where a network or a scan lies, not what it is. Knows keys of configurations, names and
checksums; not how a network or a scan is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vcm.errors import VCMError
from vcm.learning.schedule import TrainingSchedule

#: What the network is called that a key of a configuration names, where it is not called by the key.
NOUNS = {"model": "frozen model"}
#: Letters of a checksum, and scans of each kind, in a sentence.
SHOWN, NAMED = 12, 5


@dataclass(frozen=True)
class Origin:
    """What a training run learns from.

    Attributes:
        networks: Checksum of each network that is not trained, by the key of the configuration that
            names it.
        scans: Checksum of each training scan, by its name.
    """

    networks: Mapping[str, str] = field(default_factory=dict)
    scans: Mapping[str, str] = field(default_factory=dict)


def read_origin(path: Path) -> Origin | None:
    """What a run recorded at its start; None of a run that recorded nothing.

    Raises:
        VCMError: The file is damaged.
    """
    if not path.is_file():
        return None
    try:
        return Origin(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise VCMError(
            f"{path} cannot be read ({error}): copy it again, or begin another run with another "
            "out=FOLDER."
        ) from error


def origin_changes(before: Origin, now: Origin, config: TrainingSchedule) -> list[str]:
    """What a run would resume with that is not what it learned from before, in words.

    Args:
        before: As recorded.
        now: As given to the run that resumes.
        config: Of that run; tells which keys may change.

    Raises:
        VCMError: A network or the scans differ, and their key may not change.
    """
    changes = []
    for key, checksum in now.networks.items():
        old = before.networks.get(key, checksum)
        if old == checksum:
            continue
        old, new = old[:SHOWN], checksum[:SHOWN]
        if key not in config.may_change:
            raise VCMError(
                f"The run in {config.out} began on the {NOUNS.get(key, key)} {old}, and "
                f"{getattr(config, key)} is {new}: put it back to resume, or begin another run with "
                "another out=FOLDER."
            )
        changes.append(f"{key} {old} -> {new}")
    others = _differences(before.scans, now.scans)
    if others and "data" not in config.may_change:
        raise VCMError(
            f"The run in {config.out} began on other training scans ({others}), and what was trained "
            "on must not be measured on: put data, its splits and validate_every back to resume, or "
            "begin another run with another out=FOLDER."
        )
    return [*changes, f"other training scans ({others})"] if others else changes


def _differences(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Scans that went, came or changed, in words; empty: none."""
    both = before.keys() & now.keys()
    kinds = {
        "gone": before.keys() - now.keys(),
        "new": now.keys() - before.keys(),
        "changed": {name for name in both if before[name] != now[name]},
    }
    return "; ".join(f"{kind}: {_few(sorted(names))}" for kind, names in kinds.items() if names)


def _few(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
