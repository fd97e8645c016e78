import io
import sys

import pytest

from vcm.cli import console
from vcm.cli.main import COMMANDS


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def as_it_was():
    yield
    console.set_up()


def test_every_command_can_be_quiet_and_verbose():
    for command in COMMANDS:
        text = command.parser().format_help()
        assert "--quiet" in text and "--verbose" in text, command.name


@pytest.mark.parametrize(
    ("done", "total", "seconds", "words"),
    [
        (10, 20, 5.0, "2/s, 0:00:05 left"),
        (2, 362, 20.0, "10 s each, 1:00:00 left"),
        (0, 5, 1.0, ""),
    ],
)
def test_rate_remaining_time_and_memory(done, total, seconds, words):
    found = console.pace_in_words(done, total, seconds)
    assert found.startswith(words)
    assert not words or 0 < float(found.split()[-2]) < 100


def run(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    with console.progress("Working") as tell:
        for done in range(1, 4):
            tell(done, 3)
    return stream.getvalue()


def test_a_log_is_quiet_unless_it_is_to_be_verbose(monkeypatch):
    console.set_up()
    assert run(monkeypatch, io.StringIO()) == ""
    console.set_up(verbose=True)
    (line,) = run(monkeypatch, io.StringIO()).splitlines()
    assert line.startswith("Working: 3/3, ") and "left" in line and line.endswith("GB")
    monkeypatch.setattr(console, "LOG_EVERY", 0.0)
    assert len(run(monkeypatch, io.StringIO()).splitlines()) == 3
    console.set_up(quiet=True, verbose=True)
    assert run(monkeypatch, io.StringIO()) == ""


def test_a_terminal_sees_a_bar_and_may_be_quiet(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    console.set_up()
    assert "Working" in run(monkeypatch, Terminal())
    console.set_up(quiet=True)
    assert "Working" not in run(monkeypatch, Terminal())
