import io
import logging
import re
import sys

import pytest
import rich
from terminal import Terminal

from vcm import progress as module
from vcm.progress import Pace, progress, stages, track


@pytest.fixture(autouse=True)
def as_it_was():
    yield
    rich.reconfigure()


@pytest.mark.parametrize(
    ("done", "share", "seconds", "words"),
    [
        (10, 0.5, 5.0, "2/s, 0:00:05 left"),
        (2, 2 / 362, 20.0, "10 s each, 1:00:00 left"),
        (0, 0.0, 1.0, ""),
    ],
)
def test_rate_remaining_time_and_memory(monkeypatch, done, share, seconds, words):
    pace = Pace()
    monkeypatch.setattr(module.time, "monotonic", lambda: pace.started + seconds)
    found = pace.in_words(done, share)
    assert found.startswith(words)
    assert not words or 0 < float(found.split()[-2]) < 100


def test_what_was_done_before_says_nothing_of_the_rate(monkeypatch):
    pace = Pace(begun=100, share=0.5)
    assert pace.in_words(100, 0.5) == ""
    monkeypatch.setattr(module.time, "monotonic", lambda: pace.started + 10.0)
    assert pace.in_words(110, 0.75).startswith("1/s, 0:00:10 left")


def run(total=3):
    with progress("Working") as tell:
        for done in range(1, total + 1):
            tell(done, total, "loss 0.5")


def test_a_log_gets_the_first_line_the_last_and_one_now_and_then(monkeypatch, caplog):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    rich.reconfigure(stderr=True)
    caplog.set_level("WARNING", "vcm")
    run()
    assert not caplog.messages
    with caplog.at_level(logging.INFO, "vcm"):
        run()
        first, last = caplog.messages
        assert first.startswith("Working: 1/3, loss 0.5, ")
        assert re.fullmatch(r"Working: 3/3, loss 0.5, \S+, 0:00:00 left, [\d.]+ GB", last)
        monkeypatch.setattr(module, "LOG_EVERY", 0.0)
        caplog.clear()
        run()
        assert len(caplog.messages) == 3
    assert sys.stderr.getvalue() == ""


def test_a_file_gets_the_lines_whoever_looks(tmp_path):
    for _ in range(2):
        with progress("Training", file=tmp_path / "progress.log") as tell:
            tell(1, 1)
    lines = (tmp_path / "progress.log").read_text().splitlines()
    assert len(lines) == 2
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d Training: 1/1, ", lines[1])


def test_one_bar_is_on_a_screen_and_the_outer_one_stays(monkeypatch, caplog):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    rich.reconfigure(stderr=True)
    with caplog.at_level(logging.INFO, "vcm"):
        for _ in track(range(2), "Outer"):
            run()
    assert "Outer" in sys.stderr.getvalue() and "Working" not in sys.stderr.getvalue()
    assert not caplog.messages
    run()
    assert "Working" in sys.stderr.getvalue()


def test_items_come_in_order_also_where_their_number_is_unknown(caplog):
    with caplog.at_level(logging.INFO, "vcm"):
        assert list(track(iter("abc"), "Reading")) == ["a", "b", "c"]
        assert caplog.messages[0].startswith("Reading: 1")
        caplog.clear()
        assert list(track(iter("abc"), "Reading", total=3)) == ["a", "b", "c"]
    assert caplog.messages[-1].startswith("Reading: 3/3")


def test_of_an_unknown_number_no_remaining_time_is_told(caplog):
    with caplog.at_level(logging.INFO, "vcm"):
        list(track(iter(range(50)), "Reading"))
    assert [r.getMessage() for r in caplog.records] == ["Reading: 1"]


def test_stages_stand_in_a_log_by_name(caplog):
    with caplog.at_level(logging.INFO, "vcm"), stages("reading") as on_stage:
        on_stage("fitting")
    first, second = caplog.messages
    assert first.startswith("reading (after 0 s, ") and second.startswith("fitting (after ")
