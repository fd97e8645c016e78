"""Volumes as a page in the browser carries them: 8 bits, compressed, with true values in the header.

Knows volumes, what kind of picture each one is, and bytes; nothing of HTML or of how a volume was made.
"""

from __future__ import annotations

import base64
import colorsys
import gzip
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from vcm.imaging.volume import Volume
from vcm.report.picture import OUTLINE_COLOURS

Kind = Literal["image", "labels", "mask", "uncertainty", "difference"]

#: Percentiles of an image's values that become black and white, and of a map's that get its last colour.
IMAGE_WINDOW, MAP_LIMIT = (0.5, 99.8), 99.5
#: Most base64 that the volumes of one page take [bytes]: with the viewer and a picture, less than 15 MB.
MOST_BYTES = 12_500_000
#: What is given up, in this order, until the volumes fit: grey levels, then every second voxel per axis.
COMPROMISES = ((256, 1), (64, 1), (64, 2), (64, 4), (16, 8))
#: NIfTI's intent of a label map.
_LABEL = 1002
#: Colours that a label map of 8 bits can tell apart, beside background.
_MOST_LABELS = 255


@dataclass(frozen=True)
class Layer:
    """A volume to look at.

    Attributes:
        name: As the reader sees it.
        volume: Its values and place; layers of one page lie in one world, on any voxels.
        kind: `image` is grey; `labels` and `mask` hold whole numbers, 0 for background; `uncertainty`
            runs from 0 up; `difference` is 0 where nothing differs.
        names: Of the labels, by number.
        shown: Whether an overlay is switched on when the page opens.
    """

    name: str
    volume: Volume
    kind: Kind = "image"
    names: Mapping[int, str] = field(default_factory=dict)
    shown: bool = False


@dataclass(frozen=True)
class Encoded:
    """A layer in a page.

    Attributes:
        layer: What is encoded.
        base64: A compressed NIfTI file of 8 bits.
        low: Value of black, or of a map's first colour.
        high: Value of white, or of a map's last colour.
        names: Of the labels in the file, in order; the first is background.
        colours: (R, G, B), each 0..255, of those labels.
    """

    layer: Layer
    base64: str
    low: float
    high: float
    names: tuple[str, ...] = ()
    colours: tuple[tuple[int, int, int], ...] = ()


def encode_layers(
    layers: Sequence[Layer], most_bytes: int = MOST_BYTES
) -> tuple[list[Encoded], str]:
    """Encode layers for one page, as true to their voxels as its size allows.

    Args:
        layers: In the order of the page.
        most_bytes: Of all of them together.

    Returns:
        The layers, and a sentence that says what was given up; empty where nothing was.
    """
    found: list[Encoded] = []
    for levels, step in COMPROMISES:
        found = [_encode(layer, levels, step) for layer in layers]
        if sum(len(e.base64) for e in found) <= most_bytes:
            break
    if (levels, step) == COMPROMISES[0]:
        return found, ""
    coarser = "" if step == 1 else f" and on every {_ORDINALS[step]} voxel along each axis"
    note = f"To keep this page small, images are shown in {levels} grey levels{coarser}; the files are whole."
    return found, note


_ORDINALS = {2: "second", 4: "fourth", 8: "eighth"}


def _encode(layer: Layer, levels: int, step: int) -> Encoded:
    data = np.asarray(layer.volume.data)[::step, ::step, ::step]
    affine = layer.volume.affine @ np.diag([step, step, step, 1.0])
    names: tuple[str, ...] = ()
    colours: tuple[tuple[int, int, int], ...] = ()
    if layer.kind in ("labels", "mask"):
        stored, names, colours = _encode_labels(data, layer.names)
        low, high = 0.0, float(max(len(names) - 1, 1))
        slope, inter = 1.0, 0.0
    else:
        low, high = _window(data, layer.kind)
        steps = 254 if layer.kind == "difference" else 255
        slope, inter = (high - low) / steps, low
        coarse = 256 // levels
        scaled = np.clip(np.rint((data - low) / (slope * coarse)) * coarse, 0, steps)
        stored = scaled.astype(np.uint8)
    image = nib.Nifti1Image(stored, affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"for display"
    if names:
        image.header["intent_code"] = _LABEL
    whole = bytearray(image.to_bytes())
    # nibabel sets the scaling of what it writes; that of 8 bits to true values goes in afterwards.
    whole[112:120] = np.array([slope, inter], image.header.endianness + "f4").tobytes()
    text = base64.b64encode(gzip.compress(bytes(whole), 6, mtime=0)).decode("ascii")
    return Encoded(layer, text, low, high, names, colours)


def _window(data: NDArray, kind: Kind) -> tuple[float, float]:
    """Values of the first and the last grey level or colour."""
    there = data[data != 0]
    if there.size == 0:
        return 0.0, 1.0
    if kind == "image":
        low = (
            min(0.0, float(data.min()))
            if data.min() > -1e-3
            else float(np.percentile(data, IMAGE_WINDOW[0]))
        )
        high = float(np.percentile(there, IMAGE_WINDOW[1]))
    else:
        high = float(np.percentile(np.abs(there), MAP_LIMIT))
        low = -high if kind == "difference" else 0.0
    return low, high if high > low else low + 1.0


def _encode_labels(
    data: NDArray, names: Mapping[int, str]
) -> tuple[NDArray[np.uint8], tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    """Labels numbered from 1 in ascending order, with their names and colours.

    Of more labels than 8 bits can tell apart, the ones with most voxels.
    """
    labels, counts = np.unique(data, return_counts=True)
    counts, labels = counts[labels != 0], labels[labels != 0]
    if len(labels) > _MOST_LABELS:
        labels = np.sort(labels[np.argsort(-counts, kind="stable")[:_MOST_LABELS]])
    stored = np.zeros(data.shape, np.uint8)
    for number, label in enumerate(labels, start=1):
        stored[data == label] = number
    shown = ("background", *(str(names.get(int(label), int(label))) for label in labels))
    return stored, shown, ((0, 0, 0), *_colours(len(labels), max(names, default=0), labels))


def _colours(count: int, most: int, labels: NDArray) -> Iterator[tuple[int, int, int]]:
    """The colours of the pictures where those are enough, else hues far from each other."""
    for number, label in zip(range(count), labels, strict=True):
        if max(most, count) <= len(OUTLINE_COLOURS) and 1 <= label <= len(OUTLINE_COLOURS):
            colour = OUTLINE_COLOURS[int(label) - 1]
            yield int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
        else:
            hue = (number * 0.61803398875) % 1  # the golden ratio spreads hues evenly
            red, green, blue = colorsys.hsv_to_rgb(hue, 0.65, 0.95)
            yield round(255 * red), round(255 * green), round(255 * blue)
