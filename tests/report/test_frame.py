from html import unescape

import pytest
from browser import browser_page, find_browser
from small_page import small_page

from vcm.errors import VCMError
from vcm.report.folder import write_report
from vcm.report.frame import show_report

pytestmark = pytest.mark.slow

BROWSER = find_browser()


@pytest.fixture
def report(tmp_path):
    return write_report(tmp_path, lambda: small_page(tmp_path))


def test_a_frame_holds_the_page_itself(report):
    html = show_report(report.parent)._repr_html_()
    inside = html.split('srcdoc="')[1].split('"')[0]
    assert unescape(inside) == report.read_text(encoding="utf-8")
    assert show_report(report, height=500)._repr_html_().count("height:500px") == 1


def test_a_folder_without_a_page_is_refused(tmp_path):
    with pytest.raises(VCMError, match=r"report\.html does not exist"):
        show_report(tmp_path)


@pytest.mark.skipif(BROWSER is None, reason="no chromium is installed")
def test_the_viewer_draws_in_a_frame(report, tmp_path):
    notebook = tmp_path / "notebook.html"
    notebook.write_text(f"<!DOCTYPE html>{show_report(report)._repr_html_()}", encoding="utf-8")
    with browser_page(BROWSER) as page:
        page.open(notebook)
        inside = "document.querySelector('iframe').contentDocument.getElementById('viewer')"
        page.wait_for(f"{inside} && {inside}.dataset.ready")
        assert page.errors == []
