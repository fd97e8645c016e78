"""A scan's brain on the model's grid: told from the background, aligned rigidly, intensities in 0..1.

Knows intensities and grids [mm]; nothing of labels or networks. What is background is told in background.py.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VCMError, VCMWarning
from vcm.imaging.background import on_black
from vcm.imaging.conditions import PLAUSIBLE_BRAIN
from vcm.imaging.contrast import warn_unless_t1w
from vcm.imaging.geometry import to_model_grid
from vcm.imaging.lost_slices import is_folded_over, lost_slices
from vcm.imaging.registration import align_rigid
from vcm.imaging.upright import warn_unless_upright
from vcm.imaging.volume import Grid, Volume

#: Share of voxels that equal their neighbour: 0.8 and more in label maps, some hundredths in scans.
MOST_ALIKE = 0.6
#: Correlation of neighbours along an axis: 0.78 and more in scans and brain masks, whose slices may be 6 mm
#: thick; mostly below 0.55 where the header exchanges two dimensions.
LEAST_COHERENT = 0.6
#: Percentiles that a scan is clipped at to tell that.
COHERENT_PERCENTILES = (1, 99)
#: Of larger volumes some of the lines along an axis are looked at, about so many voxels.
COHERENT_VOXELS = 2_000_000
#: Percentiles inside the brain that become 0 and 1.
PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True)
class AlignedBrain:
    """A brain on the model's grid.

    Attributes:
        image: (X, Y, Z) in 0..1, 0 outside the brain.
        to_common: (4, 4) rigid, scan world -> model world, RAS+ [mm].
        intensity_range: Intensities of the scan that are 0 and 1 in `image`.
    """

    image: NDArray[np.float32]
    to_common: NDArray[np.float64]
    intensity_range: tuple[float, float]


def align_brain(
    image: Volume, mask: NDArray[np.bool_], grid: Grid, any_contrast: bool = False
) -> AlignedBrain:
    """Bring the brain of a scan to the model's grid in the common space.

    A VCMWarning says where it does not stand upright there, or does not look like a T1w scan.

    Args:
        image: A scan of any intensities.
        mask: (X, Y, Z) where its brain is.
        grid: Of the model.
        any_contrast: It need not be a T1w scan.

    Raises:
        VCMError: What the mask selects is too small or too large for a brain, or all alike, or see
            `refuse_unfit`.
    """
    refuse_unfit(image, mask)
    image, black = on_black(image, mask)
    to_common = align_rigid(image.with_data(np.where(mask, image.data, 0).astype(np.float32)))
    moved = to_model_grid(image, grid, to_common, order=1)
    inside = to_model_grid(image.with_data(mask.astype(np.float32)), grid, to_common, order=1) > 0.5
    volume = float(inside.sum()) * grid.voxel_volume
    low, high = PLAUSIBLE_BRAIN
    if not low < volume < high:
        large = (
            "the skull may still be on, so strip it (for instance with SynthStrip) or give a mask; "
        )
        raise VCMError(
            f"{image.source} has {volume:.0f} mL inside its brain mask, expected {low:.0f} to "
            f"{high:.0f} mL: {large if volume > high else ''}check the mask or label map, and the "
            "voxel size."
        )
    scaled, (least, greatest) = to_unit_range(moved, inside, source=image.source)
    warn_unless_upright(scaled, grid, image.source)
    if not any_contrast:
        warn_unless_t1w(scaled, grid, image.source)
    return AlignedBrain(scaled, to_common, (least + black, greatest + black))


def refuse_unfit(image: Volume, mask: NDArray[np.bool_]) -> None:
    """Refuse what is no whole scan of a head: what is made of it would be wrong.

    A VCMWarning says where a head seems to be folded over.

    Args:
        image: As it was read, or resampled.
        mask: (X, Y, Z) where its brain is.

    Raises:
        VCMError: It is a label map, has empty slices in the head, or its voxels are out of order.
    """
    refuse_label_map(image, mask)
    for axis in range(3):
        lost = lost_slices(image.data, axis)
        if lost:
            raise VCMError(
                f"{image.source} is empty in the slices {', '.join(map(str, lost))} (from 0, along axis {axis}), "
                "inside the head: take a scan without lost slices, or fill them with vcm upsample."
            )
    refuse_scrambled(
        np.clip(image.data, *np.percentile(image.data, COHERENT_PERCENTILES)), image.source
    )
    for axis in range(3):
        if is_folded_over(image.data, axis):
            warnings.warn(
                f"{image.source} shows its head in two parts with nothing between them, along axis {axis}: "
                "it seems to be folded over, so look whether it is aligned.",
                VCMWarning,
                stacklevel=2,
            )


def refuse_scrambled(data: NDArray, source: str) -> None:
    """Refuse voxels that do not lie beside their neighbours, as where a header exchanges two dimensions.

    Args:
        data: (X, Y, Z) intensities without outliers, or a mask.
        source: Name of its file.

    Raises:
        VCMError: Neighbours along an axis have little to do with each other.
    """
    step = max(1, round((data.size / COHERENT_VOXELS) ** 0.5))
    for axis in range(3):
        along = np.moveaxis(data, axis, 0)[:, ::step, ::step].astype(np.float32)
        pairs = along[1:].ravel(), along[:-1].ravel()
        if any(values.min() == values.max() for values in pairs):
            continue
        found = float(np.corrcoef(*pairs)[0, 1])
        if found < LEAST_COHERENT:
            raise VCMError(
                f"{source} shows no head: neighbouring voxels along axis {axis} (from 0) have a correlation of "
                f"{found:.2f}, in a scan or label map more than {LEAST_COHERENT}. The dimensions in its header may "
                "be exchanged: convert it again from its source."
            )


def refuse_label_map(image: Volume, mask: NDArray[np.bool_]) -> None:
    """Raise VCMError for a label map in the place of a scan; arguments as `refuse_unfit` has them."""
    if is_label_map(image, mask):
        raise VCMError(
            f"{image.source} is a label map, not a scan: nearly every voxel holds what its neighbour holds. "
            "Give the scan itself."
        )


def is_label_map(image: Volume, mask: NDArray[np.bool_]) -> bool:
    """Whether most voxels of a brain hold just what their neighbour holds, as no scan's do."""
    alike = (image.data[1:] == image.data[:-1]) & mask[1:] & mask[:-1]
    return bool(alike.sum() > MOST_ALIKE * mask.sum())


def to_unit_range(
    data: NDArray,
    mask: NDArray[np.bool_],
    percentiles: tuple[float, float] = PERCENTILES,
    source: str = "the scan",
) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """Map two percentiles of a brain to 0 and 1, clip, and set 0 outside it.

    Args:
        data: (X, Y, Z) intensities, as small or as large as they come.
        mask: (X, Y, Z) where the brain is.
        percentiles: That become 0 and 1 [percent].
        source: Name of the scan, for messages.

    Returns:
        The values, and the two intensities that are 0 and 1 now, so that the way back is known.

    Raises:
        VCMError: See `range_in_brain`.
    """
    low, high = range_in_brain(data, mask, percentiles, source)
    scaled = np.clip((data - low) / (high - low), 0.0, 1.0)
    return np.where(mask, scaled, 0.0).astype(np.float32), (low, high)


def range_in_brain(
    data: NDArray,
    mask: NDArray[np.bool_],
    percentiles: tuple[float, float] = PERCENTILES,
    source: str = "the scan",
) -> tuple[float, float]:
    """Two percentiles of a brain, the first below the second. Arguments as `to_unit_range` has them.

    Raises:
        VCMError: They are one: the brain is all alike.
    """
    low, high = (float(v) for v in np.percentile(data[mask], percentiles))
    if not high > low:
        raise VCMError(
            f"{source} holds {low:g} in all of its brain but a few voxels, where two intensities at least must "
            "differ: give a scan with contrast, and check its brain mask."
        )
    return low, high
