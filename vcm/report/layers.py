"""Volumes as a page in the browser carries them: 8 bits, compressed, with true values in the header.

Grey values are noise that no search for repeated bytes finds: each is stored as its difference to the mean of two
neighbours, as in PNG (RFC 2083, filter Average), and what is left is Huffman-coded, which is quick and smaller.
Knows volumes, what kind of picture each one is, and bytes; nothing of HTML or of how a volume was made.
"""

from __future__ import annotations

import base64
import colorsys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from vcm.errors import VCMError
from vcm.imaging.volume import Volume
from vcm.report.picture import OUTLINE_COLOURS

Kind = Literal["image", "labels", "mask", "uncertainty", "difference"]

#: Percentiles of an image's values that become black and white, and of a map's that get its last colour.
IMAGE_WINDOW, MAP_LIMIT = (0.5, 99.8), 99.5
#: Most base64 that the volumes of one page take [bytes]: with the viewer and a picture, less than 15 MB.
MOST_BYTES = 12_500_000
#: What is given up, in this order, until the volumes fit: grey levels, then every second voxel per axis.
COMPROMISES = ((256, 1), (128, 1), (64, 1), (32, 1), (64, 2), (64, 4), (16, 8))
#: Of this many slices, one is encoded to foretell the size of all; and how far beyond the limit that may be.
_SLICES, _TOO_LARGE = 8, 1.05
#: Most values that a window is found from: more of them move it by less than a grey level.
_MOST_VALUES = 500_000
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
        base64: A compressed NIfTI file of 8 bits, whose voxels may be predicted.
        low: Value of black, or of a map's first colour.
        high: Value of white, or of a map's last colour.
        names: Of the labels in the file, in order; the first is background.
        colours: (R, G, B), each 0..255, of those labels.
        cut: Whether there are values below `low`, and above `high`, which are stored as those.
        left_out: How many labels are not in the file.
    """

    layer: Layer
    base64: str
    low: float
    high: float
    names: tuple[str, ...] = ()
    colours: tuple[tuple[int, int, int], ...] = ()
    cut: tuple[bool, bool] = (False, False)
    left_out: int = 0

    @property
    def is_predicted(self) -> bool:
        """Whether each voxel holds its difference, modulo 256, to the mean of its neighbours before it."""
        return not self.names


def encode_layers(
    layers: Sequence[Layer], most_bytes: int = MOST_BYTES
) -> tuple[list[Encoded], str]:
    """Encode layers for one page, as true to their voxels as its size allows.

    Args:
        layers: In the order of the page.
        most_bytes: Of all of them together.

    Returns:
        The layers, and sentences that say what was given up; empty where nothing was.

    Raises:
        VCMError: A volume holds values that are NaN or infinite, which have no grey.
    """
    for layer in layers:
        _refuse_unless_finite(layer)
    windows = [_window(np.asarray(layer.volume.data), layer.kind) for layer in layers]
    found: list[Encoded] = []
    for levels, step in COMPROMISES:
        chosen = [
            (layer, window, levels, step) for layer, window in zip(layers, windows, strict=True)
        ]
        last = (levels, step) == COMPROMISES[-1]
        if not last and sum(_foretell(*c) for c in chosen) > _TOO_LARGE * most_bytes:
            continue
        found = [_encode(*c) for c in chosen]
        if sum(len(e.base64) for e in found) <= most_bytes:
            break
    notes = [
        f"Of {e.layer.name} the {len(e.names) - 1} labels with most voxels are shown, {e.left_out} are not."
        for e in found
        if e.left_out
    ]
    if (levels, step) != COMPROMISES[0]:
        coarser = "" if step == 1 else f" and on every {_ORDINALS[step]} voxel along each axis"
        notes.append(
            f"To keep this page small, images are shown in {levels} grey levels{coarser}; the files are whole."
        )
    return found, " ".join(notes)


def _refuse_unless_finite(layer: Layer) -> None:
    wrong = layer.volume.data.size - int(np.isfinite(layer.volume.data).sum())
    if wrong:
        raise VCMError(
            f"{layer.name} holds {wrong} voxels that are NaN or infinite, which cannot be shown: replace them first."
        )


_ORDINALS = {2: "second", 4: "fourth", 8: "eighth"}


def _foretell(layer: Layer, window: tuple[float, float], levels: int, step: int) -> float:
    """About how many bytes of base64 a layer takes: a few of its slices are encoded."""
    data = np.asarray(layer.volume.data)[::step, ::step, ::step]
    some = data[:, :, :: min(_SLICES, data.shape[2])]
    if layer.kind in ("labels", "mask"):
        return 0.0  # a few per cent of the images that they lie on
    packed = _compress(_predict(_quantise(some, layer.kind, window, levels)[0]))
    return len(packed) * data.shape[2] / some.shape[2] * 4 / 3


def _encode(layer: Layer, window: tuple[float, float], levels: int, step: int) -> Encoded:
    data = np.asarray(layer.volume.data)[::step, ::step, ::step]
    affine = layer.volume.affine @ np.diag([step, step, step, 1.0])
    names: tuple[str, ...] = ()
    colours: tuple[tuple[int, int, int], ...] = ()
    cut, left_out = (False, False), 0
    if layer.kind in ("labels", "mask"):
        stored, names, colours, left_out = _encode_labels(data, layer.names)
        low, high = 0.0, float(max(len(names) - 1, 1))
        slope, inter = 1.0, 0.0
    else:
        low, high = window
        stored, slope = _quantise(data, layer.kind, window, levels)
        inter = low
        least, most = float(data.min()), float(data.max())
        cut = (least < low - slope / 2, most > high + slope / 2)
    header = nib.Nifti1Image(np.zeros((1, 1, 1), np.uint8), affine).header
    header.set_data_shape(stored.shape)
    header.set_xyzt_units("mm")
    header["descrip"] = b"for display"
    header["vox_offset"] = 352
    header["scl_slope"], header["scl_inter"] = slope, inter
    if names:
        header["intent_code"] = _LABEL
        packed = _compress(stored, header.binaryblock, 4, zlib.Z_DEFAULT_STRATEGY)
    else:
        packed = _compress(_predict(stored), header.binaryblock)
    text = base64.b64encode(packed).decode("ascii")
    return Encoded(layer, text, low, high, names, colours, cut, left_out)


def _quantise(
    data: NDArray, kind: Kind, window: tuple[float, float], levels: int
) -> tuple[NDArray[np.uint8], float]:
    """Number of the grey level of every voxel, and the distance of two levels."""
    low, high = window
    steps = levels - (2 if kind == "difference" else 1)  # an even number has a middle, which is 0
    slope = (high - low) / steps
    scaled = (data - np.float32(low)) * np.float32(1 / slope)
    np.clip(np.rint(scaled, out=scaled), 0, steps, out=scaled)
    return scaled.astype(np.uint8), slope


def _predict(stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Each voxel less the mean of those before it along the first two axes, modulo 256; beyond the border is 0.

    A slice needs no other one, so that some slices tell the size of all.
    """
    values = np.asfortranarray(stored)
    before = np.zeros(values.shape, np.uint16, order="F")
    before[1:] += values[:-1]
    before[:, 1:] += values[:, :-1]
    return values - ((before + 1) >> 1).astype(np.uint8)


def _compress(
    stored: NDArray[np.uint8], header: bytes = b"", level: int = 1, strategy: int = zlib.Z_RLE
) -> bytes:
    """A gzip file of a header and voxels; the same bytes for the same voxels."""
    packer = zlib.compressobj(level, zlib.DEFLATED, 31, 9, strategy)
    start = header + b"\0" * (4 if header else 0)  # no extension of the header
    return packer.compress(start) + packer.compress(stored.tobytes(order="F")) + packer.flush()


def _window(data: NDArray, kind: Kind) -> tuple[float, float]:
    """Values of the first and the last grey level or colour."""
    if kind in ("labels", "mask"):
        return 0.0, 1.0
    every = max(1, round((data.size / _MOST_VALUES) ** (1 / 3)))
    some = data[::every, ::every, ::every]
    there = some[some != 0]
    if there.size < 1000:  # so little is there that none of it can be spared
        there = data[data != 0]
    if there.size == 0:
        return 0.0, 1.0
    if kind == "image":
        least = float(data.min())
        low = min(0.0, least) if least > -1e-3 else float(np.percentile(some, IMAGE_WINDOW[0]))
        high = float(np.percentile(there, IMAGE_WINDOW[1]))
    else:
        high = float(np.percentile(np.abs(there), MAP_LIMIT))
        low = -high if kind == "difference" else 0.0
    return low, high if high > low else low + 1.0


def _encode_labels(
    data: NDArray, names: Mapping[int, str]
) -> tuple[NDArray[np.uint8], tuple[str, ...], tuple[tuple[int, int, int], ...], int]:
    """Labels numbered from 1 in ascending order, with their names and colours, and how many are left out.

    Of more labels than 8 bits can tell apart, the ones with most voxels.
    """
    labels, counts = np.unique(data, return_counts=True)
    counts, labels = counts[labels != 0], labels[labels != 0]
    left_out = max(0, len(labels) - _MOST_LABELS)
    if left_out:
        labels = np.sort(labels[np.argsort(-counts, kind="stable")[:_MOST_LABELS]])
    stored = np.zeros(data.shape, np.uint8)
    place = np.searchsorted(labels, data).clip(0, max(len(labels) - 1, 0))
    stored = (
        np.where(labels[place] == data, place + 1, 0).astype(np.uint8) if len(labels) else stored
    )
    shown = ("background", *(str(names.get(int(label), int(label))) for label in labels))
    colours = ((0, 0, 0), *_colours(len(labels), max(names, default=0), labels))
    return stored, shown, colours, left_out


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
