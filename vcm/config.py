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
_PACKAGE = Path(__file__).parent
#: Installed from a wheel, or used from a clone.
_SHELVES = (_PACKAGE / "_embedded" / "configs", _PACKAGE.parent / "configs")


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


def split_arguments(arguments: list[str], path: Path | None) -> tuple[Path | None, list[str]]:
    """CONFIG key=value ... -> (path of CONFIG, overrides); `path` is that of an option, if given.

    CONFIG is a YAML file, or the name of one that travels with the package (brain2mm_classes).
    Raises VCMError for more than one, or a name that is none.
    """
    names = [a for a in arguments if "=" not in a]
    overrides = [a for a in arguments if "=" in a]
    if len(names) + (path is not None) > 1:
        raise VCMError(
            f"Two configurations are given ({', '.join([*names, *([str(path)] if path else [])])}): "
            "give one, and change it by key=value."
        )
    if not names:
        return path, overrides
    if Path(names[0]).suffix in (".yaml", ".yml"):
        return Path(names[0]), overrides
    known = {p.stem: p for shelf in _SHELVES for p in sorted(shelf.glob("*/*.yaml"))}
    if names[0] not in known:
        near = get_close_matches(names[0], known, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}."
        raise VCMError(
            f"'{names[0]}' is neither key=value nor a configuration (a .yaml file or a name): {hint}"
        )
    return known[names[0]], overrides


def _refuse_unknown(part: Any, valid: list[str]) -> None:
    for key in part:
        if key not in valid:
            near = get_close_matches(str(key), valid, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"valid are {', '.join(valid)}."
            raise VCMError(f"'{key}' is not a configuration key: {hint}")
