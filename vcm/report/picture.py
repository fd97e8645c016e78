"""Mosaics where people would rather look than read. Knows arrays on a grid; draws PNG."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from vcm.files import write_whole
from vcm.imaging.volume import Grid

#: Colours of the outlines of classes 1 to 8; of more classes they come again, from the first.
OUTLINE_COLOURS = (
    "#f4d35e", "#ee6c4d", "#3a86ff", "#8ac926", "#ff70a6", "#b388eb", "#00c2d1", "#d4a373",
)  # fmt: skip

#: Pixels of an outline picture per voxel.
FINER = 4


def three_planes(volume: NDArray) -> list[NDArray]:
    """Middle sagittal (off-centre), coronal and axial slices of an LAS or RAS volume, head up."""
    i, j, k = volume.shape
    return [volume[i // 2 - i // 16].T, volume[:, j // 2].T, volume[:, :, k // 2].T]


def mosaic(
    volumes: Iterable[NDArray],
    path: Path,
    titles: Sequence[str],
    classes: Iterable[NDArray | None] | None = None,
) -> Path:
    """One small axial and one coronal slice per volume, of which no more than one is held at a time.

    Args:
        volumes: Intensities 0..1 (X, Y, Z), as many as there are titles.
        path: The PNG to write.
        titles: Above each volume.
        classes: For each volume its map of classes, whose outlines are drawn but that of 0, or None.
    """
    figure, axes = _figure(-(-len(titles) // 8) * 2, min(8, len(titles)), 1.25)
    maps = itertools.repeat(None) if classes is None else classes
    for n, (volume, labels) in enumerate(zip(volumes, maps, strict=classes is not None)):
        planes = three_planes(np.asarray(volume))
        outlines = None if labels is None else three_planes(labels)
        for row, plane in enumerate((2, 1)):
            axis = axes[n // 8 * 2 + row][n % 8]
            axis.imshow(planes[plane], cmap="gray", vmin=0, vmax=1, origin="lower")
            if outlines is not None:
                _lay_outlines(axis, outlines[plane])
            if row == 0:
                axis.set_title(titles[n], fontsize=5, color="white", pad=1)
    return _save(figure, path)


def outlined(
    volumes: Sequence[NDArray], classes: NDArray | None, path: Path, titles: Sequence[str] = ()
) -> Path:
    """A row of three planes per volume, and beside them the same with the condition's outlines."""
    sides = (False, True) if classes is not None else (False,)
    figure, axes = _figure(len(volumes), 3 * len(sides), 1.9)
    for n, volume in enumerate(volumes):
        for side, with_outlines in enumerate(sides):
            for column, plane in enumerate(three_planes(np.asarray(volume))):
                axis = axes[n][3 * side + column]
                axis.imshow(plane, cmap="gray", vmin=0, vmax=1, origin="lower")
                if with_outlines and classes is not None:
                    _draw_outlines(axis, three_planes(classes)[column])
        if titles:
            axes[n][1].set_title(titles[n], fontsize=7, color="white", pad=2)
    return _save(figure, path)


def on_voxels_of(volume: NDArray, classes: NDArray | None) -> NDArray | None:
    """Classes of the same field of view as a volume, each repeated where its voxels are whole times finer."""
    if classes is None:
        return None
    times = [n // m for n, m in zip(volume.shape, classes.shape, strict=True)]
    return np.kron(classes, np.ones(times, classes.dtype)) if max(times) > 1 else classes


def compared(
    volumes: Sequence[NDArray],
    titles: Sequence[str],
    grid: Grid,
    path: Path,
    outline: NDArray[np.bool_] | None = None,
) -> Path:
    """One column per volume and one row per plane, at the middle of `grid`, head up; values 0..1.

    The border of the mask `outline` (X, Y, Z) is drawn on the first volume.
    """
    axes_of_ras = nib.orientations.io_orientation(grid.affine)
    turned = [nib.orientations.apply_orientation(np.asarray(v), axes_of_ras) for v in volumes]
    inside = None
    if outline is not None:
        inside = nib.orientations.apply_orientation(outline.astype(np.uint8), axes_of_ras)
    figure, axes = _figure(3, len(volumes), 2.4)
    for column, (volume, title) in enumerate(zip(turned, titles, strict=True)):
        for row, plane in enumerate(three_planes(volume)[::-1]):
            axis = axes[row][column]
            axis.imshow(plane, cmap="gray", vmin=0, vmax=1, origin="lower")
            if inside is not None and column == 0:
                _draw_outlines(axis, three_planes(inside)[::-1][row])
            if row == 0:
                axis.set_title(title, fontsize=7, color="white", pad=2)
    return _save(figure, path)


def _draw_outlines(axis, classes: NDArray) -> None:  # type: ignore[no-untyped-def]
    for number in np.unique(classes[classes > 0]):
        inside = classes == number
        if not inside.all():
            colour = OUTLINE_COLOURS[_colour_number(number) - 1]
            axis.contour(inside.astype(float), [0.5], colors=colour, linewidths=0.5)


def _colour_number(classes: NDArray) -> NDArray:
    """Number of the colour of each class, from 1; 0 of background."""
    return np.where(classes > 0, (classes - 1) % len(OUTLINE_COLOURS) + 1, 0)


def _lay_outlines(axis, classes: NDArray) -> None:  # type: ignore[no-untyped-def]
    """As `_draw_outlines`, as a picture over the plane: in a mosaic of many maps contours take long."""
    from matplotlib.colors import to_rgba_array

    fine = classes.repeat(FINER, 0).repeat(FINER, 1)
    around = np.pad(fine, 1, mode="edge")
    beside = (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:])
    drawn = np.where(np.any([fine != other for other in beside], 0), fine, 0)
    colours = np.concatenate([[[0.0] * 4], to_rgba_array(OUTLINE_COLOURS)])
    rows, columns = classes.shape
    extent = (-0.5, columns - 0.5, -0.5, rows - 0.5)
    axis.imshow(
        colours[_colour_number(drawn)], origin="lower", extent=extent, interpolation="nearest"
    )


def _figure(rows: int, columns: int, size: float):  # type: ignore[no-untyped-def]
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    figure = Figure(figsize=(columns * size, rows * size), facecolor="black", layout=layout)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    return figure, axes


def _save(figure, path: Path) -> Path:  # type: ignore[no-untyped-def]
    def draw(part: Path) -> None:
        figure.savefig(part, dpi=150, format="png", metadata={"Software": "vcm"})

    write_whole(path, draw)
    return path
