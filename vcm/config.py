"""Typed, flat configurations: YAML file, then key=value overrides. An unknown key is an error."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from vcm.errors import VCMError

Schema = TypeVar("Schema")


def load_config(schema: type[Schema], path: Path | None, overrides: list[str]) -> Schema:
    """Fields of the dataclass `schema`, from `path` and `overrides`. Raises VCMError."""
    base = OmegaConf.structured(schema)
    if path is not None and not path.is_file():
        raise VCMError(f"{path} does not exist: give the path of a YAML configuration.")
    try:
        given = [OmegaConf.load(path)] if path else []
        given.append(OmegaConf.from_dotlist(overrides))
        for part in given:
            _refuse_unknown(part, list(base.keys()))
        return cast(Schema, OmegaConf.to_object(OmegaConf.merge(base, *given)))
    except (OmegaConfBaseException, YAMLError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise VCMError(f"The configuration cannot be read ({reason}): correct that key.") from error


def _refuse_unknown(part: Any, valid: list[str]) -> None:
    for key in part:
        if key not in valid:
            near = get_close_matches(str(key), valid, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"valid are {', '.join(valid)}."
            raise VCMError(f"'{key}' is not a configuration key: {hint}")
