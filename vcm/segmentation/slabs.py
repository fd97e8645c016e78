"""Parts of a brain whose features are in memory at a time. Knows masks and the machine's memory; no networks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import psutil
from numpy.typing import NDArray

from vcm.errors import VCMError


def check_slab(slab: int) -> None:
    """Raise VCMError for a number of slices that is none."""
    if slab < 0:
        raise VCMError(
            f"slab is {slab}: give 0 for the whole brain, or a number of slices above 0."
        )


def in_slabs(mask: NDArray[np.bool_], slab: int) -> Iterator[NDArray[np.bool_]]:
    """Masks of neighbouring sagittal slices, which hold every voxel once, in the order of `argwhere(mask)`.

    Args:
        mask: (X, Y, Z) of the brain.
        slab: Slices along X in each; 0: all of them.
    """
    held = np.flatnonzero(mask.any((1, 2)))
    if not slab or not len(held):
        yield mask
        return
    for first in range(held[0], held[-1] + 1, slab):
        part = np.zeros_like(mask)
        part[first : first + slab] = mask[first : first + slab]
        if part.any():
            yield part


def refuse_too_large(needed: int, slab: int) -> None:
    """Raise VCMError where features of so many bytes are more than the memory that is free."""
    free = psutil.virtual_memory().available
    if needed > free:
        remedy = (
            "a smaller --slab"
            if slab
            else "--slab 16, so that they are held for 16 slices at a time"
        )
        raise VCMError(
            f"The features of the brain take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free: give "
            f"{remedy}."
        )
