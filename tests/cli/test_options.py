from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, ClassVar

import pytest

from vcm.cli.main import COMMANDS
from vcm.cli.options import Command, Joined
from vcm.cli.settings import attributes_of, settings_of
from vcm.errors import VCMError

CONFIGURED = [c for c in COMMANDS if c.schema is not None]


@dataclass
class Base:
    """Base.

    Attributes:
        seed: Of the
            base.
    """

    headings: ClassVar[dict[str, str]] = {"seed": "Numbers"}

    seed: int = 1


@dataclass
class Example(Base):
    """Example: not an attribute.

    Attributes:
        scans: Scans: one or more.
        rate: Of 50 % [mm].

    More text, which: is no attribute.
    """

    headings: ClassVar[dict[str, str]] = {"scans": "Files"}
    aliases: ClassVar[dict[str, str]] = {"masks": "parts"}

    scans: list[Path] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    rate: float = 0.5
    prior: bool = True
    name: str | None = None


def example(
    config: Example,
    *,
    check: Annotated[bool, "Only check."] = False,
    into: Annotated[Path | None, "Where to."] = None,
    names: Annotated[Joined | None, "Joined by commas."] = None,
) -> None:
    """Do it."""
    example.called = config, check


COMMAND = Command(("example",), example, "scans", "SCAN")


def called(*arguments):
    COMMAND(arguments)
    return example.called


def test_texts_headings_and_defaults_come_from_the_class():
    found = {s.name: s for s in settings_of(Example)}
    assert list(found) == ["scans", "rate", "seed", "parts", "prior", "name"]
    assert found["seed"].text == "Of the base." and found["seed"].heading == "Numbers"
    assert found["scans"].text == "Scans: one or more." and found["rate"].heading == "Files"
    assert found["rate"].shown_default == "[default: 0.5]" and found["name"].shown_default == ""
    assert found["prior"].text == ""
    assert attributes_of(Base) == {"seed": "Of the base."}


def test_options_keys_and_a_file_give_the_same(tmp_path):
    by_option, check = called(
        "a.nii", "--rate", "2", "b.nii", "--parts", "x", "--parts", "y", "--no-prior", "--check"
    )
    assert check and by_option == Example(
        scans=[Path("a.nii"), Path("b.nii")], parts=["x", "y"], rate=2.0, prior=False
    )
    by_key, check = called("scans=[a.nii,b.nii]", "rate=2", "parts=[x,y]", "prior=false")
    assert not check and by_key == by_option
    path = tmp_path / "a.yaml"
    path.write_text("scans: [a.nii, b.nii]\nrate: 2\nparts: [x, y]\nprior: false\n")
    assert called(str(path))[0] == called("--config", str(path))[0] == by_option
    assert called("a.nii", "b.nii", "--rate=2", "--masks", "[x,y]", "--no_prior")[0] == by_option
    assert called("--rate", "-1")[0].rate == -1
    assert called("--parts", "x,y", "--parts", "z")[0].parts == ["x", "y", "z"]
    assert called("scans=[a]")[0].scans == [Path("a")] and called("a,b")[0].scans == [Path("a,b")]


def test_a_flag_takes_true_and_false_too():
    for words in (["--no-prior"], ["--prior", "false"], ["--prior=false", "a.nii"]):
        assert called(*words)[0].prior is False
    for words in (["--prior"], ["--prior", "true"], ["--prior=true"], ["--prior", "a.nii"]):
        assert called(*words)[0].prior is True
    assert called("--prior", "false", "true")[0].scans == [Path("true")]
    with pytest.raises(VCMError, match="explicit argument 'maybe'"):
        COMMAND(["--prior=maybe"])


@pytest.mark.parametrize("word", ["True", "TRUE", "yes", "Yes", "on", "1"])
def test_a_flag_takes_yes_in_any_case(word):
    for words in (["--prior", word], [f"--prior={word}"]):
        assert called(*words, "a.nii")[0] == Example(scans=[Path("a.nii")], prior=True)


@pytest.mark.parametrize("word", ["False", "FALSE", "no", "No", "off", "0"])
def test_a_flag_takes_no_in_any_case(word):
    for words in (["--prior", word], [f"--prior={word}"]):
        assert called(*words, "a.nii")[0] == Example(scans=[Path("a.nii")], prior=False)
    assert called(f"prior={word}")[0].prior is False


def test_a_file_that_is_called_like_the_value_of_a_flag_is_not_guessed_at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1").mkdir()
    with pytest.raises(VCMError) as refused:
        called("--prior", "1")
    assert str(refused.value) == (
        "'1' after --prior may be its value, and is the name of a file too: write --prior=1, or ./1 for the file."
    )
    assert called("--prior", "./1")[0].scans == [Path("1")]
    assert called("--prior=0", "1")[0] == Example(scans=[Path("1")], prior=False)
    assert called("1", "--prior")[0].scans == [Path("1")]


def test_a_flag_that_says_no_takes_no_value():
    with pytest.raises(VCMError, match="--no-prior is given False, but it takes no value"):
        COMMAND(["--no-prior", "False"])


def test_wrong_arguments_are_refused_in_a_sentence():
    for words, sentence in [
        (["--rat", "3"], "--rat is not an option of vcm example: did you mean '--rate'?"),
        (["--zzz"], "--zzz is not an option of vcm example: see vcm example --help."),
        (["--rate"], "Argument --rate: expected one argument; see vcm example --help."),
        (
            ["rate=3", "--rate", "4"],
            "rate is given twice, as rate=... and as an option: give it once.",
        ),
        (["scans=[a]", "b"], "scans is given twice, as scans=... and as an option: give it once."),
        (
            ["parts=[a]", "parts=[b]"],
            "parts is given twice, as parts=[a] and as parts=[b]: give it once.",
        ),
        (
            ["--names", "a,b", "--names", "c"],
            "--names is given twice, as a,b and as c: give it once.",
        ),
        (["parts=[a]", "masks=[b]"], "parts is given twice, under another name too: give it once."),
        (["a", ""], "scans holds an empty element: leave it out."),
        (["--parts", "a,,b"], "parts holds an empty element: leave it out."),
        (
            ["--check"] * 2 + ["--into", ""],
            "Argument --into: '' is no path; see vcm example --help.",
        ),
    ]:
        with pytest.raises(VCMError) as refused:
            COMMAND(words)
        assert str(refused.value) == sentence


@pytest.mark.parametrize("command", CONFIGURED, ids=lambda c: "-".join(c.words))
def test_help_explains_every_key_with_its_default(command):
    shown = " ".join(command.parser().format_help().split())
    settings = settings_of(command.schema)
    assert {s.name for s in settings} == {f.name for f in fields(command.schema)}
    for setting in settings:
        assert setting.text.endswith("."), f"{setting.name} has no text"
        assert setting.text in shown and setting.shown_default in shown
        if setting.name != command.positional:
            assert f"--{setting.name.replace('_', '-')}" in shown
    for cls in command.schema.__mro__:
        stale = attributes_of(cls).keys() - {s.name for s in settings}
        assert not stale, f"{cls.__name__} explains {stale}, which it does not have"


@pytest.mark.parametrize("command", CONFIGURED, ids=lambda c: "-".join(c.words))
def test_headings_begin_at_attributes(command):
    for cls in command.schema.__mro__:
        assert cls.__dict__.get("headings", {}).keys() <= attributes_of(cls).keys()


@pytest.mark.parametrize("command", CONFIGURED, ids=lambda c: "-".join(c.words))
def test_every_default_can_be_given_as_an_option(command, monkeypatch):
    given = []
    monkeypatch.setattr(Command, "run", None, raising=False)
    same = Command(command.words, _keeping(command, given), command.positional, command.metavar)
    words = []
    for setting in settings_of(command.schema):
        value = setting.default
        if setting.kind is bool:
            words.append(f"--{'' if value else 'no-'}{setting.name.replace('_', '-')}")
        elif value is not None and setting.name != command.positional:
            text = f"[{','.join(map(str, value))}]" if setting.is_list else str(value)
            words.append(f"--{setting.name}={text}")
    same(words)
    assert asdict(given[0]) == asdict(command.schema())


def _keeping(command, given):
    def keep(config):
        given.append(config)

    keep.__annotations__ = {"config": command.schema}
    return keep
