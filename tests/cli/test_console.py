import io
import sys

import pytest
from terminal import Terminal

from vcm.cli import console
from vcm.cli.main import COMMANDS
from vcm.progress import progress


@pytest.fixture(autouse=True)
def as_it_was():
    yield
    console.set_up()


def test_every_command_can_be_quiet_and_verbose():
    for command in COMMANDS:
        text = command.parser().format_help()
        assert "--quiet" in text and "--verbose" in text, command.name


def said(monkeypatch, stream, **how):
    monkeypatch.setattr(sys, "stderr", stream)
    console.set_up(**how)
    with progress("Working") as tell:
        for done in range(1, 4):
            tell(done, 3)
    console.notes().print("done")
    return stream.getvalue()


@pytest.mark.parametrize(
    "words", ["/data/out[final]/x.html", "a[/b]c", "sub:smile:1", "/long" * 40]
)
def test_a_note_is_printed_as_it_is_written(monkeypatch, words):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    console.notes().print(words)
    assert sys.stderr.getvalue() == f"{words}\n"


def test_a_log_gets_progress_if_it_is_to_be_verbose(monkeypatch):
    assert said(monkeypatch, io.StringIO()) == "done\n"
    first, last, note = said(monkeypatch, io.StringIO(), verbose=True).splitlines()
    assert first.startswith("vcm: Working: 1/3, ") and last.startswith("vcm: Working: 3/3, ")
    assert "left" in last and last.endswith("GB") and note == "done"
    assert said(monkeypatch, io.StringIO(), quiet=True) == ""
    assert said(monkeypatch, io.StringIO(), quiet=True, verbose=True) == ""


def test_a_terminal_sees_a_bar_and_may_be_quiet(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    assert "Working" in said(monkeypatch, Terminal())
    assert said(monkeypatch, Terminal(), quiet=True) == ""
