"""A command is a function, and its parser is made from it: a dataclass becomes options, other parameters too.

Knows argparse, and what a configuration says of itself (vcm.cli.settings); nothing of any job.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

from vcm.cli import console
from vcm.cli.settings import Setting, settings_of, without_none
from vcm.config import load_config, nearest, split_arguments
from vcm.errors import VCMError

#: What values are called in --help, by type.
METAVARS = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH", bool: "TRUE|FALSE"}
_CONFIG = "YAML file with any of these keys, or the name of one that travels with the package."
#: What a flag may be given, as keys take it.
_YES = dict.fromkeys(("true", "yes", "on", "1"), True)
_YES_NO = _YES | dict.fromkeys(("false", "no", "off", "0"), False)
#: What every command takes.
_COMMON = {
    "quiet": "Print results, warnings and errors only.",
    "verbose": "Print what libraries log, and where an error was raised.",
}
_GRAMMAR = (
    "Instead of --some-key VALUE you can write some_key=VALUE, or some_key: VALUE in a YAML file; "
    "options and key=VALUE change what the file says. A list is --key a,b, --key a --key b, or key=[a,b]; "
    "of a single value that is given twice the last one counts."
)


@dataclass(frozen=True)
class Command:
    """A function and its words on the command line.

    Its parameters are of two kinds. One may be a configuration, a dataclass: each of its fields is an
    option, a key of a YAML file, and key=VALUE. The others are annotated with a text: Annotated[Path,
    "Folder."] is an argument where it comes before `*`, an option where it comes after.

    Attributes:
        words: The words that call it, such as ("pretrain", "detail").
        run: The function; the first line of its docstring is the summary.
        positional: Field of the configuration that words without a key are for; empty: such a word names
            a configuration.
        metavar: What those words are called in --help.
    """

    words: tuple[str, ...]
    run: Callable[..., None]
    positional: str = ""
    metavar: str = "CONFIG"

    @property
    def name(self) -> str:
        """As it is typed."""
        return " ".join(("vcm", *self.words))

    @property
    def summary(self) -> str:
        """What it does, in one sentence."""
        return inspect.cleandoc(self.run.__doc__ or "").partition("\n\n")[0].replace("\n", " ")

    @cached_property
    def schema(self) -> type | None:
        """Its configuration, if it has one."""
        kinds = (kind for kind in self._hints.values() if is_dataclass(kind))
        return next((kind for kind in kinds if isinstance(kind, type)), None)

    def __call__(self, arguments: Sequence[str]) -> None:
        """Run it. Raises VCMError for arguments that it does not take."""
        given = self.read(arguments)
        console.set_up(given.pop("quiet"), given.pop("verbose"))
        self.run(**given)

    def read(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Words of the command line -> arguments of the function, `quiet` and `verbose`. Raises VCMError."""
        given = vars(self.parser().parse(list(arguments)))
        if self.schema is None:
            return given
        (name,) = (n for n, kind in self._hints.items() if kind is self.schema)
        own = {n: given.pop(n) for n in [*self._hints, *_COMMON] if n != name}
        return {name: self._configuration(self.schema, **given), **own}

    def parser(self) -> Parser:
        """Its arguments and options."""
        parser = Parser(self.name, self.summary, _GRAMMAR if self.schema else "")
        if self.schema is not None:
            self._add_settings(parser, self.schema)
        further = parser.add_argument_group("Further options") if self.schema else parser
        if self.schema is not None:
            further.add_argument("--config", type=Path, metavar="PATH", help=_CONFIG)
        for parameter in inspect.signature(self.run).parameters.values():
            if not is_dataclass(self._hints[parameter.name]):
                _add_parameter(further, parameter, self._hints[parameter.name])
        for name, text in _COMMON.items():
            further.add_argument(f"--{name}", action="store_true", help=text)
        return parser

    @property
    def _hints(self) -> dict[str, Any]:
        hints = get_type_hints(self.run, include_extras=True)
        return {name: kind for name, kind in hints.items() if name != "return"}

    def _add_settings(self, parser: Parser, schema: type) -> None:
        settings = {s.name: s for s in settings_of(schema)}
        text = settings.pop(self.positional).text if self.positional else _CONFIG
        parser.add_argument("words", nargs="*", metavar=self.metavar, help=_escaped(text))
        parser.usage = f"{self.name} [{self.metavar}] [KEY=VALUE ...] [OPTIONS]"
        groups = {s.heading: None for s in settings.values()}
        for heading in groups:
            group = parser.add_argument_group(heading)
            for setting in settings.values():
                if setting.heading == heading:
                    _add_setting(group, setting, schema)

    def _configuration(
        self, schema: type, words: list[str], config: Path | None, **given: Any
    ) -> Any:
        settings = {s.name: s for s in settings_of(schema)}
        path, overrides, values = split_arguments(
            words, config, self.words[0], bool(self.positional)
        )
        options = {
            name: _text(value, settings[name].kind == list[Path])
            for name, value in given.items()
            if value is not None
        }
        _refuse_lists_twice(overrides, {n for n, s in settings.items() if s.is_list})
        if values:
            options[self.positional] = self._only(values, settings[self.positional])
        return load_config(schema, path, overrides, options)

    def _only(self, values: list[str], setting: Setting) -> str | list[str]:
        if setting.is_list:
            return values
        if len(values) > 1:
            raise VCMError(
                f"{len(values)} arguments are given ({', '.join(values)}): give one {self.metavar}."
            )
        return values[0]


class Joined(str):
    """Several values in one text, joined by commas."""


class _Once(argparse.Action):
    """Stores several values in one text; refuses a second text, which would silently take the place of the first."""

    is_given = False

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        if self.is_given:
            first = getattr(namespace, self.dest)
            raise VCMError(f"{option} is given twice, as {first} and as {values}: give it once.")
        self.is_given = True
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """argparse, whose faults are VCMErrors; options may be written with underscores."""

    def __init__(self, name: str, summary: str, epilog: str = "") -> None:
        super().__init__(
            prog=name,
            description=_escaped(summary),
            epilog=_escaped(epilog),
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32),
        )

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """Raises VCMError for what is unknown, naming the nearest option."""
        dashed = [re.sub(r"^--[^=]+", lambda m: m[0].replace("_", "-"), a) for a in arguments]
        found, extra = self.parse_known_intermixed_args(self._with_plain_flags(dashed))
        for word in extra:
            name = word.partition("=")[0]
            if word.startswith("-"):
                raise VCMError(f"{name} is not an option of {self.prog}: {self._nearest(name)}")
            raise VCMError(f"'{word}' is one argument too many for {self.prog}: leave it out.")
        return found

    def _with_plain_flags(self, arguments: list[str]) -> list[str]:
        """--flag true and --flag=true as --flag, with false as --no-flag; yes and no likewise, in any case.

        Raises:
            VCMError: A word after a flag may be its value, and is the name of a file too; or it follows --no-flag.
        """
        plain: list[str] = []
        rest = list(arguments)
        while rest:
            word = rest.pop(0)
            flag, equals, value = word.partition("=")
            value = value if equals else next(iter(rest), "")
            action = self._option_string_actions.get(flag)
            yes = _YES_NO.get(value.lower())
            if yes is not None and isinstance(action, argparse.BooleanOptionalAction):
                _refuse_unclear(flag, value, bool(equals))
                rest = rest if equals else rest[1:]
                word = flag if yes else f"--no-{flag[2:]}"
            plain.append(word)
        return plain

    def error(self, message: str) -> NoReturn:
        """Faults that argparse finds, as a VCMError."""
        raise VCMError(f"{message[0].upper()}{message[1:]}; see {self.prog} --help.")

    def _nearest(self, option: str) -> str:
        valid = [o for o in self._option_string_actions if o.startswith("--")]
        near = nearest(option, valid)
        return near if near.startswith("did") else f"see {self.prog} --help."


def _refuse_unclear(flag: str, value: str, joined: bool) -> None:
    """Raise VCMError where a value of a flag may be a file's name, or where the flag is --no-flag, which takes none."""
    if flag.startswith("--no-"):
        raise VCMError(f"{flag} is given {value}, but it takes no value: leave out one of the two.")
    if not joined and value not in ("true", "false") and Path(value).exists():
        raise VCMError(
            f"'{value}' after {flag} may be its value, and is the name of a file too: write {flag}={value}, or "
            f"./{value} for the file."
        )


def _refuse_lists_twice(overrides: Sequence[str], lists: Set[str]) -> None:
    """Raise VCMError where key=[...] of a list is given twice: one might mean both, and the second alone would count."""
    found: dict[str, str] = {}
    for override in overrides:
        name = override.partition("=")[0].replace("-", "_")
        if name in found and name in lists:
            raise VCMError(
                f"{name} is given twice, as {found[name]} and as {override}: give it once."
            )
        found[name] = override


def _add_setting(group: Any, setting: Setting, schema: type) -> None:
    """An option whose text load_config converts; several texts for a list."""
    names = [a for a, name in getattr(schema, "aliases", {}).items() if name == setting.name]
    flags = [f"--{name.replace('_', '-')}" for name in (setting.name, *names)]
    text = _escaped(f"{setting.text} {setting.shown_default}".strip())
    if setting.kind is bool:
        group.add_argument(*flags, action=argparse.BooleanOptionalAction, help=text)
        return
    several = setting.is_list and setting.name not in getattr(schema, "readers", {})
    kind = get_args(setting.kind)[0] if setting.is_list else setting.kind
    # A comma may be part of a path, so paths are not written in one.
    metavar, of_paths = METAVARS[kind], kind is Path
    group.add_argument(
        *flags,
        dest=setting.name,
        action="append" if several else _Once if setting.is_list else "store",
        metavar=f"{metavar},..." if several and not of_paths else metavar,
        help=f"{text} May be repeated." if several and of_paths else text,
    )


def _add_parameter(group: Any, parameter: inspect.Parameter, hint: Any) -> None:
    """An argument, or where it is keyword-only an option, needed where it has no default."""
    kind, text = get_args(hint)
    kind, default = without_none(kind), parameter.default
    read = _path if kind is Path else kind
    if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
        group.add_argument(
            parameter.name, type=read, metavar=parameter.name.upper(), help=_escaped(text)
        )
        return
    flag = f"--{parameter.name.replace('_', '-')}"
    if kind is bool:
        group.add_argument(flag, action="store_true", help=_escaped(text))
        return
    needed = default is inspect.Parameter.empty
    group.add_argument(
        flag,
        action=_Once if kind is Joined else "store",
        type=read,
        required=needed,
        metavar=METAVARS[str if kind is Joined else kind],
        default=None if needed else default,
        help=_escaped(text),
    )


def _path(text: str) -> Path:
    """Nothing, as of a variable that is not set, would be the folder that one is in."""
    if not text:
        raise argparse.ArgumentTypeError("'' is no path")
    return Path(text)


def _text(value: Any, of_paths: bool) -> str | list[str]:
    """What an option was given as load_config reads it; [a,b] or a,b in one word is a list."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, list):
        return str(value)
    if len(value) == 1 and value[0].startswith("["):
        return str(value[0])
    return value if of_paths else [part.strip() for text in value for part in text.split(",")]


def _escaped(text: str) -> str:
    """Double every %: argparse formats help by it."""
    return text.replace("%", "%%")
