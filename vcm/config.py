"""Configurations: a YAML file, key=value and options, each converted by the type of its key.

Knows dataclasses and text; nothing of any job. A dataclass may say more of its keys in class variables:
`readers` (key -> what reads its text), `unbounded` (keys that may be infinite), `aliases` (another name -> key).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from vcm.embedded import search_paths
from vcm.errors import VCMError

Schema = TypeVar("Schema")
#: What a key of each type takes.
RULES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
}
#: Whole numbers lie below it: what follows is stored in 64 bits.
LARGEST = 2**63
_NOTHING = frozenset({"", "~", "null", "none"})


def load_config(
    schema: type[Schema],
    path: Path | None = None,
    overrides: Sequence[str] = (),
    options: Mapping[str, str | Sequence[str]] | None = None,
) -> Schema:
    """A configuration from a file and what changes it.

    Args:
        schema: Dataclass whose fields are the keys.
        path: YAML file with any of the keys.
        overrides: key=value, which change the file, the later the earlier; lists are written key=[a,b].
        options: Text by key, or one text per element of a list, which change the file too.

    Returns:
        The dataclass, defaults where nothing is given.

    Raises:
        VCMError: for an unknown key, a value of the wrong type, a key that is given by an override and
            by an option, and a file that cannot be read.
    """
    given: dict[str, Any] = _read_yaml(path) if path else {}
    given = _by_field(schema, given)
    changed = _by_field(schema, _read_overrides(overrides))
    chosen = _by_field(schema, dict(options or {}))
    for key in changed.keys() & chosen.keys():
        raise VCMError(f"{key} is given twice, as {key}=... and as an option: give it once.")
    return _convert(schema, given | changed | chosen)


def split_arguments(
    arguments: Sequence[str], path: Path | None, command: str = "", values: bool = False
) -> tuple[Path | None, list[str], list[str]]:
    """Words of a command line -> path of CONFIG, key=value, and other words.

    Args:
        arguments: CONFIG, which is a YAML file or the name of one that travels with the package
            (brain2mm_classes), key=value, and other words where there may be any.
        path: CONFIG where it is given apart.
        command: First word of the command, whose configurations can be named.
        values: Whether other words are values; a configuration is then a file, never a name.

    Raises:
        VCMError: for more than one CONFIG, and for a name that is unknown.
    """
    overrides, names, words = [], [], []
    key = re.compile(r"[A-Za-z_]\w*=" if values else r"[A-Za-z_][\w-]*=")
    for argument in arguments:
        if key.match(argument) and not (values and Path(argument).exists()):
            overrides.append(argument)
        elif values and Path(argument).suffix not in (".yaml", ".yml"):
            words.append(argument)
        else:
            names.append(argument)
    if len(names) + (path is not None) > 1:
        given = ", ".join([*names, *([str(path)] if path else [])])
        raise VCMError(
            f"Two configurations are given ({given}): give one, and change it by key=value."
        )
    return (find_config(names[0], command) if names else path), overrides, words


def find_config(name: str, command: str = "") -> Path:
    """Path of a configuration: itself where it ends in .yaml, else of one that travels with the package.

    Args:
        name: Path or name.
        command: First word of the command that asks; those of other commands are refused. Empty: any.

    Raises:
        VCMError: for an unknown name.
    """
    if Path(name).suffix in (".yaml", ".yml"):
        return Path(name)
    found = {
        p.stem: p for folder in search_paths("configs") for p in sorted(folder.glob("*/*.yaml"))
    }
    names = [n for n, p in found.items() if command in ("", p.parent.name)]
    if name in names:
        return found[name]
    if name in found:
        raise VCMError(
            f"'{name}' is a configuration of vcm {found[name].parent.name}, not of vcm {command}: give "
            "another, or key=value."
        )
    raise VCMError(
        f"'{name}' is neither key=value nor a configuration (a .yaml file or a name): "
        f"{nearest(name, names)}"
    )


def nearest(word: str, valid: Sequence[str]) -> str:
    """The remedy for a misspelt word: the nearest valid one, or all of them."""
    near = get_close_matches(word, valid, 1)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"choose {', '.join(valid)}." if valid else "leave it out."


def _read_yaml(path: Path) -> dict[str, Any]:
    """Keys and texts of a file: YAML's guesses (007 is 7, no is false) are left to the type of the key."""
    import yaml

    if not path.is_file():
        raise VCMError(f"{path} does not exist: give the path of a YAML configuration.")
    try:
        node = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            raise VCMError(f"{path} holds no keys: write one 'key: value' per line.")
        keys = [str(key.value) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise VCMError(f"{path} gives {key} {keys.count(key)} times: keep one.")
        loader = yaml.BaseLoader("")
        return {
            key: loader.construct_object(n, deep=True)
            for key, (_, n) in zip(keys, node.value, strict=True)
        }
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise VCMError(f"{path} cannot be read ({_first_line(error)}): correct it.") from error


def _read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    pairs = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise VCMError(f"'{override}' is not a key with a value: write key=value.")
        pairs[key.strip().replace("-", "_")] = text.strip()
    return pairs


def _by_field(schema: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The same by names of fields. Raises VCMError for a key that there is not."""
    valid, aliases = [f.name for f in fields(schema)], getattr(schema, "aliases", {})
    found = {}
    for key, value in given.items():
        name = aliases.get(key, key)
        if name not in valid:
            raise VCMError(f"'{key}' is not a configuration key: {nearest(key, valid)}")
        if name in found:
            raise VCMError(f"{name} is given twice, under another name too: give it once.")
        found[name] = value
    return found


def _convert(schema: type[Schema], given: Mapping[str, Any]) -> Schema:
    """Texts -> the dataclass, through OmegaConf, which resolves ${...} too."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    types, readers = get_type_hints(schema), getattr(schema, "readers", {})
    values = {key: _value(key, text, types[key], readers) for key, text in given.items()}
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(values))
        config = cast(Schema, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        key = str(error.full_key or "").partition("[")[0]
        if key not in given:
            raise VCMError(
                f"The configuration cannot be read ({_first_line(error)}): correct it."
            ) from error
        raise _refused(key, given[key], types[key]) from error
    for key in given:
        value = getattr(config, key)
        for number in value if isinstance(value, list) else [value]:
            endless = isinstance(number, float) and math.isinf(number)
            allowed = endless and key in getattr(schema, "unbounded", ())
            if isinstance(number, float) and not (math.isfinite(number) or allowed):
                raise _refused(key, given[key], types[key])
            if isinstance(number, int) and abs(number) >= LARGEST:
                raise VCMError(f"{key} is {number}: it takes a whole number below 2^63.")
            if key.endswith("seed") and number < 0:
                raise VCMError(f"{key} is {number}: it takes a whole number from 0.")
    return config


def _value(key: str, given: Any, kind: Any, readers: Mapping[str, Any]) -> Any:
    """Text of one key as OmegaConf takes it: None, a list, or text that it converts."""
    base, optional = _without_none(kind)
    if isinstance(given, str) and optional and given.lower() in _NOTHING:
        return None
    if isinstance(given, str) and key in readers and not given.startswith("["):
        return readers[key](given)
    if get_origin(base) is list:
        return _elements(key, given, base)
    # Nothing, as of a variable that is not set, would be the folder that one is in; ??? would be the default.
    nowhere = given == "" and (base is Path or key == "out")
    if not isinstance(given, str) or nowhere or given == "???":
        raise _refused(key, given, Path if nowhere else kind)
    if base is float and given.lower() in (".inf", "+.inf", "-.inf"):
        return given.replace(".", "")
    if base in (str, Path) and len(given) > 1 and given[0] == given[-1] and given[0] in "'\"":
        return given[1:-1]
    return given


def _elements(key: str, given: Any, kind: Any) -> list[str]:
    """A list, or the text of one: [a,b]."""
    import yaml

    if isinstance(given, str):
        if not given.startswith("["):
            raise _refused(key, given, kind)
        try:
            given = yaml.load(given, Loader=yaml.BaseLoader)
        except yaml.YAMLError as error:
            raise _refused(key, given, kind) from error
    if not isinstance(given, (list, tuple)) or not all(isinstance(item, str) for item in given):
        raise _refused(key, given, kind)
    if "" in given:
        raise VCMError(f"{key} holds an empty element: leave it out.")
    return list(given)


def _refused(key: str, given: Any, kind: Any) -> VCMError:
    """One sentence with key, value and rule."""
    base, optional = _without_none(kind)
    unset = ", or null" if optional else ""
    if get_origin(base) is not list:
        return VCMError(
            f"{key} is {_shown(given)}: it takes {RULES.get(base, 'another value')}{unset}."
        )
    (item,) = get_args(base)
    if isinstance(given, str) and not given.startswith("["):
        return VCMError(f"{key} takes a list: {key}=[{given}].")
    return VCMError(f"{key} is {_shown(given)}: each element of the list is {RULES[item]}.")


def _shown(given: Any) -> str:
    return f"'{given}'" if isinstance(given, str) else str(given).replace("'", "")


def _without_none(kind: Any) -> tuple[Any, bool]:
    """A type without None, and whether it was with it."""
    if get_origin(kind) in (Union, UnionType):
        (base,) = [part for part in get_args(kind) if part is not type(None)]
        return base, True
    return kind, False


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
