"""A page in a real browser, from the disk and without a network."""

import io
import os
import re
from pathlib import Path

import numpy as np
import pytest
from browser import BrowserPage, browser_page, find_browser
from PIL import Image
from small_page import small_page

from vcm.imaging.volume import Volume
from vcm.report.folder import write_report
from vcm.report.layers import Layer
from vcm.report.page import Page
from vcm.report.viewer import Viewer

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


@pytest.fixture(scope="module")
def thin(tmp_path_factory):
    """Five slices with labels in the outer ones alone, and a crop that reaches over one of them."""
    image = np.random.default_rng(0).uniform(10, 100, (40, 40, 5)).astype(np.float32)
    image[20, 20, 2], image[20, 21, 2], image[20, 22, 2] = 5000, -4, 50
    labels = np.zeros(image.shape, np.uint8)
    labels[10:20, 10:20, 4], labels[10:20, 10:20, 0] = 1, 2
    crop = np.arange(100, dtype=np.float32).reshape(10, 10, 1)
    affine = np.diag([1.0, 1, 6, 1])
    layers = [Layer("scan", Volume(image, affine)), Layer("crop", Volume(crop, affine))]
    names = {1: "top", 2: "bottom"}
    shown = Viewer(layers, [Layer("labels", Volume(labels, affine), "labels", names, shown=True)])
    folder = tmp_path_factory.mktemp("thin")
    with browser_page(BROWSER) as opened:
        opened.open(write_report(folder, lambda: Page("thin", viewer=shown)))
        opened.wait_for(READY)
        yield opened


def test_labels_at_the_ends_of_a_volume_are_outlined(thin):
    count = "window.vcmViewer.layers[2].image.img.reduce((all, label) => all + (label > 0), 0)"
    assert thin.evaluate(count) == 200


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ((20, 20, 12), r"scan: ≥ \d+(\.\d)?   labels: background"),
        ((20, 21, 12), r"scan: ≤ \d+(\.\d)?   labels: background"),
        ((20, 22, 12), r"scan: (49|50)(\.\d)?   labels: background"),
        ((15, 15, 24), r"scan: \S+   labels: top"),
        ((5, 5, 0), r"scan: \S+   crop: 5[45](\.\d)?   labels: background"),
        ((-50, 5, 0), ""),
    ],
)
def test_values_are_told_where_there_are_any_and_as_far_as_they_are_known(thin, place, told):
    thin.evaluate(
        "(() => { const v = window.vcmViewer.views[0].niivue;"
        f" v.scene.crosshairPos = v.mm2frac({list(place)}); v.createOnLocationChange(); }})()"
    )
    words = thin.evaluate(WHERE).replace("\xa0", " ").partition(" mm")[2].strip()
    assert re.fullmatch(told, words), words
    assert thin.errors == []


def test_nothing_went_wrong_in_all_of_this(page):
    assert page.errors == []
