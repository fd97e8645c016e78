"""What is no label map, and what is one of some slices only that does not say so. Knows voxels; nothing of brains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vcm.errors import VCMError
from vcm.imaging.volume import Volume

if TYPE_CHECKING:
    from jaxtyping import Bool
    from numpy.typing import NDArray

#: Share of labelled neighbours with one label, at least: 0.77 and more in 16 label maps, 0.14 and less in 9 scans.
LEAST_ALIKE = 0.5
#: A slice is drawn where this share of its brain voxels is known.
DRAWN = 0.95
#: Share of the known voxels that lie in drawn slices, at least, and share of the brain that may be known there.
IN_SLICES, LITTLE = 0.95, 0.5
#: Share of the flat parts of structures that are one voxel thin, at least. Whole maps of a structure and of pairs of
#: structures have less wherever LEAST_VOXELS are labelled (0.55; 149 structures of 6 subjects, 2 mm).
THIN = 0.7
LEAST_VOXELS = 200
#: Slices of a scan that are thicker show a small structure once [mm].
THICK = 3.0


def refuse_scan(labels: Volume) -> None:
    """Raise VCMError where neighbours that are labelled mostly differ, as those of a scan do."""
    share = 0.0
    for axis in range(3):
        one, other = (
            np.moveaxis(labels.data, axis, 0)[part] for part in (slice(1, None), slice(-1))
        )
        both = (one > 0) & (other > 0)
        if both.any():
            share = max(share, float((one == other)[both].mean()))
    if 0 < share < LEAST_ALIKE:
        raise VCMError(
            f"{labels.source} is no label map: {100 * (1 - share):.0f} % of its neighbouring voxels hold "
            "different values, as in a scan; give the label map of the scan."
        )


def refuse_slices(
    labels: Volume, brain: Bool[NDArray, "X Y Z"], unlabelled: int | None = None
) -> None:
    """Refuse a map whose labels are drawn in some slices only, where the rest is not marked as unknown.

    Args:
        labels: The map.
        brain: Voxels of the brain.
        unlabelled: Value that is said to mean unknown.

    Raises:
        VCMError: A label fills the brain but for some slices, or structures are drawn in single slices on background.
    """
    remedy = "mark unknown voxels with a number of their own and name it, or label the whole brain"
    values, voxels = np.unique(labels.data[brain], return_counts=True)
    most = int(values[voxels.argmax()])
    drawn = 0 if most == unlabelled else _drawn_slices(labels.data != most, brain)
    if drawn:
        raise VCMError(
            f"{labels.source} holds {most} in the whole brain but for {drawn} slices, as where labels are drawn in some "
            f"slices only: {remedy}.",
            argument="unlabelled",
        )
    if unlabelled is None and _thin(labels) >= THIN:
        raise VCMError(
            f"{labels.source} holds structures in single slices and background between them, which a segmenter would "
            f"learn: {remedy}.",
            argument="unlabelled",
        )


def _drawn_slices(known: Bool[NDArray, "X Y Z"], brain: Bool[NDArray, "X Y Z"]) -> int:
    """How many slices, of any of the three axes, hold nearly all known voxels of the brain; 0: these lie elsewhere."""
    inside = known & brain
    if not 0 < inside.sum() < LITTLE * brain.sum():
        return 0
    left, drawn = inside.copy(), 0
    for axis in range(3):
        others = tuple({0, 1, 2} - {axis})
        voxels, told = brain.sum(others), inside.sum(others)
        full = (voxels > LEAST_VOXELS) & (told >= DRAWN * voxels)
        drawn += int(full.sum())
        np.moveaxis(left, axis, 0)[full] = False
    return drawn if left.sum() <= (1 - IN_SLICES) * inside.sum() else 0


def _thin(labels: Volume) -> float:
    """Share of structures' flat parts (both neighbours labelled along two axes) with no label on both sides."""
    held = np.pad(labels.data > 0, 1)
    if held.sum() < LEAST_VOXELS:
        return 0.0
    inner = (slice(1, -1),) * 3
    pairs = [(np.roll(held, 1, axis)[inner], np.roll(held, -1, axis)[inner]) for axis in range(3)]
    both, none = [a & b for a, b in pairs], [~(a | b) for a, b in pairs]
    flat, thin = np.zeros(labels.data.shape, bool), np.zeros(labels.data.shape, bool)
    for axis in range(3):
        one, other = {0, 1, 2} - {axis}
        part = held[inner] & both[one] & both[other]
        flat |= part
        if labels.grid.spacing[axis] <= THICK:
            thin |= part & none[axis]
    return float(thin.sum() / max(1, flat.sum()))
