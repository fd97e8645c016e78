"""A page with everything that a page can have, around a ball."""

import numpy as np

from vcm.imaging.volume import Volume
from vcm.report.layers import Layer
from vcm.report.page import Page, Picture, Section, Table
from vcm.report.picture import outlined
from vcm.report.plots import intervals, lines
from vcm.report.viewer import Viewer

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
AFFINE[:3, 3] = -40


def ball(radius: float, value: float = 1.0) -> Volume:
    """A ball (40, 40, 40) of 2 mm voxels around the origin, a little brighter in front."""
    x = (np.indices((40, 40, 40)) - 20) * 2.0
    inside = (x**2).sum(0) < radius**2
    return Volume((inside * (value + x[1] / 200)).astype(np.float32), AFFINE)


def small_page(tmp_path, name: str = "sub-01", title: str = "A ball <b>") -> Page:
    classes = ball(20).with_data((ball(20).data > 0).astype(np.uint8))
    difference = ball(30).with_data(ball(30).data - ball(25).data)
    png = outlined([ball(30).data], classes.data, tmp_path / "picture.png", AFFINE).read_bytes()
    (tmp_path / "picture.png").unlink()
    rows = [("b", 2.0, None), ("a", 10.0, 0.5), ("c", float("nan"), 0.25)]
    return Page(
        title,
        name,
        "A lead.",
        "Synthetic.",
        {"model": "tiny"},
        Viewer(
            [Layer("input", ball(30)), Layer("result", ball(30, 0.5))],
            [
                Layer("labels", classes, "labels", {1: "core"}, shown=True),
                Layer("difference", difference, "difference"),
                Layer("uncertainty", ball(15), "uncertainty"),
                Layer("generated", classes, "mask", {1: "generated"}),
            ],
        ),
        [
            Section("Picture", pictures=[Picture(png, "Three planes.")]),
            Section(
                "Numbers",
                tables=[Table(("name", "value", "share"), rows)],
                plots=[
                    lines({"loss": ([1, 2, 3], [3.0, 2.0, 1.0])}, ("step", "loss"), "Loss."),
                    intervals({"arm": {"a": (0.5, 0.4, 0.6)}}, "Dice", "Dice."),
                ],
            ),
        ],
        {"Command": ["vcm", "synthesize", "a b"], "Seed": 3, "Note": "</script><script>alert(1)"},
    )
