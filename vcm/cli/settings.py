"""What --help says of a configuration: its fields with types, defaults, texts and headings.

Knows dataclasses and docstrings. The text of a field is what the docstring of the dataclass says under
`Attributes:`; the heading above it is named in the class variable `headings`, from the field on that it names.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, Field, dataclass, fields
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Setting:
    """One field of a configuration, as --help shows it."""

    name: str
    kind: Any
    default: Any
    text: str
    heading: str

    @property
    def is_list(self) -> bool:
        """Whether it takes several values."""
        return get_origin(self.kind) is list

    @property
    def shown_default(self) -> str:
        """In words; empty where the text tells what happens without a value."""
        value = self.default
        if value is None or value == "" or value == []:
            return ""
        if isinstance(value, list):
            value = f"[{','.join(map(_shown, value))}]" if len(value) > 1 else value[0]
        return f"[default: {_shown(value)}]"


def settings_of(schema: type) -> list[Setting]:
    """Every field of a dataclass, those of the class itself before those that it inherits.

    A field that no docstring explains comes last, with an empty text.
    """
    types = get_type_hints(schema)
    by_name = {f.name: f for f in fields(schema)}
    found: dict[str, Setting] = {}
    for cls in schema.__mro__:
        heading, headings = "Options", cls.__dict__.get("headings", {})
        for name, text in attributes_of(cls).items():
            heading = headings.get(name, heading)
            if name in by_name and name not in found:
                found[name] = Setting(
                    name, without_none(types[name]), _default(by_name[name]), text, heading
                )
    for name, field in by_name.items():
        if name not in found:
            found[name] = Setting(name, without_none(types[name]), _default(field), "", "Options")
    return list(found.values())


def attributes_of(cls: type) -> dict[str, str]:
    """Name -> text of the section `Attributes:` of a class's own docstring in google style."""
    doc = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    _, _, section = doc.partition("\nAttributes:\n")
    texts: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        entry = re.match(r" {4}(\w+): (.+)", line)
        if entry:
            name, texts[entry[1]] = entry[1], entry[2]
        elif name and line.startswith(" " * 5):
            texts[name] += f" {line.strip()}"
        elif line.strip():
            break
    return texts


def without_none(kind: Any) -> Any:
    """X of X | None."""
    if get_origin(kind) in (Union, UnionType):
        return next(part for part in get_args(kind) if part is not type(None))
    return kind


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
