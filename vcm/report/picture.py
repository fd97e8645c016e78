"""Mosaics where people would rather look than read. Knows arrays on a grid; draws PNG.

Every plane is upright, as the viewer of a page shows it: the patient's left on the left, marked L, voxels as wide and
as high as they are in mm. Along which axes the voxels of an array run is told by an affine, voxel -> RAS+ [mm].
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from vcm.files import write_whole

#: Colours of the outlines of classes 1 to 8; of more classes they come again, from the first.
OUTLINE_COLOURS = (
    "#f4d35e", "#ee6c4d", "#3a86ff", "#8ac926", "#ff70a6", "#b388eb", "#00c2d1", "#d4a373",
)  # fmt: skip

#: Pixels of an outline picture per voxel.
FINER = 4


#: Places in what `three_planes` gives.
SAGITTAL, CORONAL, AXIAL = range(3)


def three_planes(volume: NDArray, affine: NDArray[np.float64]) -> list[NDArray]:
    """Middle sagittal (off-centre), coronal and axial slices; columns run to the right or to the front, rows up.

    Args:
        volume: (X, Y, Z).
        affine: Voxel -> RAS+ [mm]; of the volume, or of one that it is whole times finer than.
    """
    turned = nib.orientations.apply_orientation(
        np.asarray(volume), nib.orientations.io_orientation(affine)
    )
    i, j, k = turned.shape
    return [turned[i // 2 - i // 16].T, turned[:, j // 2].T, turned[:, :, k // 2].T]


def mosaic(
    volumes: Iterable[NDArray],
    path: Path,
    titles: Sequence[str],
    affine: NDArray[np.float64],
    classes: Iterable[NDArray | None] | None = None,
) -> Path:
    """One small axial and one coronal slice per volume, of which no more than one is held at a time.

    Args:
        volumes: Intensities 0..1 (X, Y, Z), as many as there are titles.
        path: The PNG to write.
        titles: Above each volume.
        affine: Of the volumes, voxel -> RAS+ [mm].
        classes: For each volume its map of classes, whose outlines are drawn but that of 0, or None.
    """
    figure, axes = _figure(-(-len(titles) // 8) * 2, min(8, len(titles)), 1.25)
    maps = itertools.repeat(None) if classes is None else classes
    for n, (volume, labels) in enumerate(zip(volumes, maps, strict=classes is not None)):
        planes = three_planes(volume, affine)
        outlines = None if labels is None else three_planes(labels, affine)
        for row, plane in enumerate((AXIAL, CORONAL)):
            axis = axes[n // 8 * 2 + row][n % 8]
            _draw_plane(axis, planes[plane], plane, affine)
            if outlines is not None:
                _lay_outlines(axis, outlines[plane])
            if row == 0:
                _write_title(axis, titles[n], 5, 1)
    return _save(figure, path)


def outlined(
    volumes: Sequence[NDArray],
    classes: NDArray | None,
    path: Path,
    affine: NDArray[np.float64],
    titles: Sequence[str] = (),
) -> Path:
    """A row of three planes per volume, and beside them the same with the condition's outlines.

    Args:
        volumes: Intensities 0..1 (X, Y, Z).
        classes: Their map of classes, 0 for background; None: there is none.
        path: The PNG to write.
        affine: Of the volumes, voxel -> RAS+ [mm].
        titles: Above each volume.
    """
    sides = (False, True) if classes is not None else (False,)
    figure, axes = _figure(len(volumes), 3 * len(sides), 1.9)
    for n, volume in enumerate(volumes):
        for side, with_outlines in enumerate(sides):
            for column, plane in enumerate(three_planes(volume, affine)):
                axis = axes[n][3 * side + column]
                _draw_plane(axis, plane, column, affine)
                if with_outlines and classes is not None:
                    _draw_outlines(axis, three_planes(classes, affine)[column])
        if titles:
            _write_title(axes[n][1], titles[n])
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
    affine: NDArray[np.float64],
    path: Path,
    outline: NDArray[np.bool_] | None = None,
) -> Path:
    """One column per volume and one row per plane, at the middle.

    Args:
        volumes: Intensities 0..1 (X, Y, Z).
        titles: Above each volume.
        affine: Of the volumes, voxel -> RAS+ [mm].
        path: The PNG to write.
        outline: Mask (X, Y, Z) whose border is drawn on the first volume.
    """
    inside = None if outline is None else three_planes(outline.astype(np.uint8), affine)
    figure, axes = _figure(3, len(volumes), 2.4)
    for column, (volume, title) in enumerate(zip(volumes, titles, strict=True)):
        planes = three_planes(volume, affine)
        for row, plane in enumerate((AXIAL, CORONAL, SAGITTAL)):
            axis = axes[row][column]
            _draw_plane(axis, planes[plane], plane, affine)
            if inside is not None and column == 0:
                _draw_outlines(axis, inside[plane])
        _write_title(axes[0][column], title)
    return _save(figure, path)


def _draw_plane(axis, values: NDArray, plane: int, affine: NDArray[np.float64]) -> None:  # type: ignore[no-untyped-def]
    """One plane, its voxels as wide and high as they are, and which side is which."""
    x, y, z = _ras_spacing(affine)
    aspect = (z / y, z / x, y / x)[plane]
    axis.imshow(values, cmap="gray", vmin=0, vmax=1, origin="lower", aspect=aspect)
    if plane != SAGITTAL:
        where = {"transform": axis.transAxes, "ha": "left", "va": "bottom"}
        axis.text(0.02, 0.02, "L", color="white", fontsize=5, **where)


def _ras_spacing(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """Voxel edge lengths along the axes nearest to right, front and up [mm]."""
    turned = nib.orientations.io_orientation(affine)[:, 0].argsort()
    lengths: NDArray[np.float64] = nib.affines.voxel_sizes(affine)[turned]
    return lengths


def _write_title(axis, words: str, size: float = 7, pad: float = 2) -> None:  # type: ignore[no-untyped-def]
    """Names may hold $, which matplotlib would read as a formula."""
    axis.set_title(words, fontsize=size, color="white", pad=pad, parse_math=False)


def _draw_outlines(axis, classes: NDArray) -> None:  # type: ignore[no-untyped-def]
    # Contours need two voxels along each axis, and a volume may have one: the border is repeated, out of sight.
    rows, columns = (np.arange(-1, n + 1) for n in classes.shape)
    axis.set_autoscale_on(False)
    for number in np.unique(classes[classes > 0]):
        inside = classes == number
        if not inside.all():
            colour = OUTLINE_COLOURS[_colour_number(number) - 1]
            around = np.pad(inside, 1, mode="edge").astype(float)
            axis.contour(columns, rows, around, [0.5], colors=colour, linewidths=0.5)


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
        colours[_colour_number(drawn)], origin="lower", extent=extent, interpolation="nearest",
        aspect=axis.get_aspect(),
    )  # fmt: skip


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
