"""The 3D viewer of a page: which images and overlays it shows, and what the browser is handed for that.

Knows layers and the viewer library that travels with the package; what the page says around it is in
vcm.report.page.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from vcm.report.layers import Encoded, Layer, encode_layers

#: Opacity of an overlay when the page opens, by its kind.
OPACITY = {"labels": 0.8, "mask": 0.45, "uncertainty": 0.7, "difference": 0.8, "image": 0.5}


@dataclass(frozen=True)
class Viewer:
    """Volumes to look at, side by side and one over the other.

    Attributes:
        images: Grey images; the reader chooses which one each of two linked panels shows, at first the
            first two.
        overlays: Drawn over both, each switched by itself.
    """

    images: Sequence[Layer]
    overlays: Sequence[Layer] = ()


@dataclass(frozen=True)
class EncodedViewer:
    """A viewer as its page holds it.

    Attributes:
        plan: JSON that the script reads; `<` is escaped.
        volumes: Compressed NIfTI files in base64, in the order of the plan, see `Encoded`.
        library: NiiVue, compressed, in base64.
        note: What was given up to keep the page small; empty where nothing was.
    """

    plan: str
    volumes: list[str]
    library: str
    note: str


def encode_viewer(viewer: Viewer) -> EncodedViewer:
    """What the browser is handed."""
    encoded, note = encode_layers([*viewer.images, *viewer.overlays])
    described = [_describe(e, n < len(viewer.images)) for n, e in enumerate(encoded)]
    plan = json.dumps({"layers": described}, ensure_ascii=True).replace("<", "\\u003c")
    return EncodedViewer(plan, [e.base64 for e in encoded], library(), note)


@cache
def library() -> str:
    """NiiVue (BSD 2-Clause, see assets/niivue.LICENSE.txt), gzip in base64."""
    packed = (files("vcm.report") / "assets" / "niivue.umd.js.gz").read_bytes()
    return base64.b64encode(packed).decode("ascii")


def _describe(encoded: Encoded, is_base: bool) -> dict[str, Any]:
    layer = encoded.layer
    return {
        "name": layer.name,
        "kind": layer.kind,
        "predicted": encoded.is_predicted,
        "base": is_base,
        "shown": layer.shown,
        "opacity": OPACITY[layer.kind],
        "low": encoded.low,
        "high": encoded.high,
        "cut": list(encoded.cut),
        "names": list(encoded.names),
        "colours": [list(c) for c in encoded.colours],
    }
