"""A page in a real browser, from the disk and without a network."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from browser import BrowserPage, browser_page, find_browser
from PIL import Image
from small_page import small_page

from vcm.report.folder import write_report

BROWSER = find_browser()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        BROWSER is None, reason="no chromium is installed (Debian: apt-get install chromium)"
    ),
]
READY = "document.getElementById('viewer').dataset.ready"
WHERE = "document.querySelector('.where').textContent"


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return write_report(folder, lambda: small_page(folder))


@pytest.fixture(scope="module")
def page(report):
    with browser_page(BROWSER) as opened:
        opened.open(report)
        opened.wait_for(READY)
        yield opened


def canvas_place(page: BrowserPage, number: int = 0) -> dict[str, float]:
    return page.evaluate(
        f"(() => {{ const r = document.querySelectorAll('canvas')[{number}].getBoundingClientRect();"
        " return {x: r.x, y: r.y, width: r.width, height: r.height}; })()"
    )


def drawn(page: BrowserPage, tmp_path: Path, number: int = 0) -> np.ndarray:
    """Pixels (H, W, 3) of a canvas as the screen shows it."""
    place = canvas_place(page, number)
    shot = Image.open(io.BytesIO(page.photograph(tmp_path / "shot.png").read_bytes()))
    box = [place["x"], place["y"], place["x"] + place["width"], place["y"] + place["height"]]
    return np.asarray(shot.convert("RGB").crop([round(v) for v in box])).astype(int)


def test_the_page_opens_without_an_error_or_a_request(page, report):
    assert page.errors == []
    asked = [url for url in page.requests if not url.startswith(("data:", "blob:"))]
    assert asked == [report.resolve().as_uri()[:100]]


@pytest.mark.parametrize("number", [0, 1])
def test_both_canvases_have_drawn(page, tmp_path, number):
    pixels = drawn(page, tmp_path, number)
    bright = (pixels.max(-1) > 60).mean()
    assert 0.05 < bright < 0.9


def test_a_click_moves_the_crosshair_of_both_panels(page):
    before = page.evaluate(WHERE)
    place = canvas_place(page)
    page.click(place["x"] + 0.2 * place["width"], place["y"] + 0.2 * place["height"])
    page.wait_for(f"{WHERE} !== {before!r}", 10)
    both = page.evaluate(
        "window.vcmViewer.views.map(v => [...v.niivue.frac2mm(v.niivue.scene.crosshairPos)].slice(0, 3))"
    )
    np.testing.assert_allclose(both[0], both[1], atol=0.5)
    assert np.abs(both[0]).max() > 3


def test_an_overlay_is_switched_on_and_off(page, tmp_path):
    def red_minus_blue() -> float:
        pixels = drawn(page, tmp_path)
        return float(np.abs(pixels[..., 0] - pixels[..., 2]).mean())

    boxes = "[...document.querySelectorAll('.controls fieldset')].find(f => f.ariaLabel === 'uncertainty').querySelector('input[type=checkbox]')"
    before = red_minus_blue()
    page.evaluate(f"{boxes}.click()")
    on = red_minus_blue()
    page.evaluate(f"{boxes}.click()")
    assert on > before + 0.5
    assert red_minus_blue() == pytest.approx(before, abs=0.3)


def test_the_image_of_a_panel_is_exchanged(page, tmp_path):
    first = drawn(page, tmp_path, 0).mean()
    choose = "const s = document.querySelector('.panel select'); s.value = {}; s.dispatchEvent(new Event('change'))"
    page.evaluate("{" + choose.format(1) + "}")
    exchanged = drawn(page, tmp_path, 0).mean()
    page.evaluate("{" + choose.format(0) + "}")
    assert abs(exchanged - first) > 1


def test_a_table_is_read_and_sorted(page):
    column = "[...document.querySelectorAll('table tbody tr')].map(r => r.cells[0].textContent)"
    head = "document.querySelectorAll('table th button')[1]"
    assert page.evaluate(column) == ["b", "a", "c"]
    page.evaluate(f"{head}.click()")
    assert page.evaluate(column) == ["b", "a", "c"]
    page.evaluate(f"{head}.click()")
    assert page.evaluate(column) == ["a", "b", "c"]
    page.evaluate("document.querySelectorAll('table th button')[0].click()")
    assert page.evaluate(column) == ["a", "b", "c"]


@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_is_wider_than_the_window(page, width):
    page.call(
        "Emulation.setDeviceMetricsOverride",
        width=width, height=800, deviceScaleFactor=1, mobile=False,
    )  # fmt: skip
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_light_and_dark_follow_the_reader(page):
    seen = []
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.call("Emulation.setEmulatedMedia", features=features)
        seen.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert seen == ["rgb(255, 255, 255)", "rgb(20, 23, 29)"]


def test_a_screenshot_is_kept_where_it_is_asked_for(page):
    folder = os.environ.get("VCM_TEST_ARTEFACTS")
    if not folder:
        pytest.skip("VCM_TEST_ARTEFACTS names no folder to keep the screenshot in")
    Path(folder).mkdir(parents=True, exist_ok=True)
    assert page.photograph(Path(folder) / "report.png", whole=True).stat().st_size > 10_000


def test_nothing_went_wrong_in_all_of_this(page):
    assert page.errors == []
