import os
import re
from urllib.parse import unquote

import pytest
from small_page import small_page

from vcm.errors import VCMWarning
from vcm.report.folder import move_page, page_of, write_index, write_report


def test_one_subject_has_the_report_and_two_have_an_index(tmp_path):
    first, second = small_page(tmp_path, "sub-01"), small_page(tmp_path, "sub-02")
    report = tmp_path / "report.html"
    assert write_report(tmp_path, lambda: first) == report
    back = '<a href="report.html">All reports</a>'
    assert back not in report.read_text(encoding="utf-8")
    assert write_report(tmp_path, lambda: second) == tmp_path / "sub-02_report.html"
    for name in ("sub-01", "sub-02"):
        assert back in (tmp_path / f"{name}_report.html").read_text(encoding="utf-8")
    index = report.read_text(encoding="utf-8")
    assert 'href="sub-01_report.html"' in index
    assert 'href="sub-02_report.html"' in index
    assert write_report(tmp_path, lambda: first) == tmp_path / "sub-01_report.html"
    assert sorted(p.name for p in tmp_path.glob("*.html")) == [
        "report.html", "sub-01_report.html", "sub-02_report.html",
    ]  # fmt: skip


@pytest.mark.parametrize("first", ["", "sub-01"])
def test_the_page_of_a_run_and_that_of_a_subject_stay_side_by_side(tmp_path, first):
    """As where a volume is sampled into the folder of the training."""
    second = "" if first else "sub-01"
    for name in (first, second):
        page = small_page(tmp_path, name, f"page of {name or 'a run'}")
        write_report(tmp_path, lambda page=page: page)
    titles = {p.name: p.read_text(encoding="utf-8") for p in tmp_path.glob("*.html")}
    assert sorted(titles) == ["report.html", "sub-01_report.html"]
    assert "<title>page of a run" in titles["report.html"]
    assert "<title>page of sub-01" in titles["sub-01_report.html"]
    assert page_of(tmp_path, "sub-01") == "sub-01_report.html"


def test_a_page_that_is_written_again_replaces_its_own(tmp_path):
    for title in ("before", "after"):
        write_report(tmp_path, lambda title=title: small_page(tmp_path, title=title))
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert "<title>after" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_an_index_lists_subjects_without_a_page(tmp_path):
    write_report(tmp_path, lambda: small_page(tmp_path, "sub-01"))
    rows = [{"scan": "sub-01", "status": "done"}, {"scan": "sub-02", "status": "is damaged"}]
    write_index(tmp_path, "All", rows)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "is damaged" in text
    assert page_of(tmp_path, "sub-01") == "sub-01_report.html"
    assert page_of(tmp_path, "sub-02") == ""


def test_a_scan_is_linked_to_its_page_whichever_of_its_files_that_shows(tmp_path):
    (tmp_path / "work").mkdir()
    page = write_report(tmp_path / "work", lambda: small_page(tmp_path, "sub-01_dseg"))
    move_page(page, tmp_path / "sub-01_report.html")
    assert not page.exists()
    write_index(tmp_path, "All", [{"scan": "sub-01", "status": "done"}], facts={"scans": "1"})
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<a href="sub-01_report.html">sub-01</a>' in text


def test_odd_names_are_linked_too(tmp_path):
    names = ["scan #1?a", "50%41", "a:b"]
    for name in names:
        write_report(tmp_path, lambda name=name: small_page(tmp_path, name))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    linked = [unquote(link) for link in re.findall(r'href="([^#?:"]+)"', text)]
    assert sorted(linked) == sorted(2 * [f"{name}_report.html" for name in names])


def test_a_page_that_fails_is_said_and_nothing_more(tmp_path):
    def fail():
        raise RuntimeError("no memory")

    with pytest.warns(VCMWarning, match="complete, but not their report.*no memory"):
        assert write_report(tmp_path, fail) is None
    assert list(tmp_path.iterdir()) == []


def test_a_report_of_somebody_else_stays(tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with pytest.warns(VCMWarning, match="not a report of vcm"):
        assert write_report(tmp_path, lambda: small_page(tmp_path)) is None
    assert (tmp_path / "report.html").read_text() == "mine"


def test_people_may_write_reports_into_one_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / "out"
    folder.mkdir()
    before = os.umask(0o077)
    try:
        write_report(folder, lambda: small_page(folder, "sub-1"))
    finally:
        os.umask(before)
    (lock,) = tmp_path.glob("vcm-report-*.lock")
    assert lock.stat().st_mode & 0o666 == 0o666
