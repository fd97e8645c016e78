"""Bring the scans of a case onto one grid, and a prediction back onto the voxels of its reference.

Knows geometry and intensities; the same functions prepare a shot for training and a case for
prediction, in a container too. It draws nothing at random, and imports neither networks nor labels.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from vcm.errors import VCMError, VCMWarning
from vcm.fewshot.cases.displacement import displacement
from vcm.imaging.background import find_background, on_black
from vcm.imaging.geometry import resample
from vcm.imaging.nifti import farthest_apart
from vcm.imaging.volume import BESIDE, Grid, Volume

#: Percentiles inside the foreground that become 0 and 1.
PERCENTILES = (0.5, 99.5)
#: A voxel brighter than this part of the way from dark to bright belongs to the foreground.
FOREGROUND_LEVEL = 0.08
#: Room around the foreground [mm].
MARGIN = 4.0
#: Voxels [mm] and smoothing [voxel] in which the scans of a case are compared, and the least distance that is named [mm].
COMPARED, COMPARED_SMOOTHING, APART = 4.0, 0.5, 8.0
#: Scans that share less of the smaller foreground lie beside each other.
LEAST_SHARED = 0.2


@dataclass(frozen=True)
class Prepared:
    """Scans of a case on one grid: image (C, X, Y, Z), 0..1, one channel per slot, 0 where absent."""

    image: NDArray[np.float32]
    grid: Grid
    reference: Grid
    present: tuple[bool, ...]


def foreground(data: NDArray) -> NDArray[np.bool_]:
    """Where a scan shows something: head or brain, with the skull or without."""
    low, high = np.percentile(data, [1, 99.5])
    if high <= low:
        high = float(data.max())
    mask: NDArray[np.bool_] = data > low + FOREGROUND_LEVEL * (high - low)
    return mask


def lies_on(mask: Volume, scan: Volume) -> bool:
    """Whether a mask lies on the voxels of a scan, within a tenth of their size."""
    grid = scan.grid
    apart = BESIDE * min(grid.spacing)
    return mask.grid.shape == grid.shape and (
        farthest_apart(grid.shape, mask.affine, grid.affine) <= apart
    )


def on_zero(volume: Volume, inside: NDArray[np.bool_] | None = None) -> Volume:
    """A scan as if nothing were 0 and what it shows brighter, as its resampling and masks of brains have it.

    Args:
        volume: Of any background: -1024, or one among the intensities of the brain, as z-scoring leaves it. It is
            returned as it is where its least value is 0.
        inside: (X, Y, Z) where its brain is, if that is known.
    """
    if volume.data.min() == 0:
        return volume
    nothing = find_background(volume.data)
    if nothing.all():  # two values, of which one may well be shown
        return volume
    return on_black(volume, ~nothing if inside is None else inside, nothing)[0]


def canonical(grid: Grid) -> Grid:
    """The same voxels with their axes nearest to right, anterior, superior."""
    ornt = nib.orientations.io_orientation(grid.affine)
    affine = grid.affine @ nib.orientations.inv_ornt_aff(ornt, grid.shape)
    shape = [0, 0, 0]
    for axis, (world, _) in enumerate(ornt):
        shape[int(world)] = grid.shape[axis]
    return Grid((shape[0], shape[1], shape[2]), np.asarray(affine, dtype=np.float64))


def frame(
    reference: Volume,
    spacing: Sequence[float] = (),
    shape: tuple[int, int, int] | None = None,
    mask: NDArray[np.bool_] | None = None,
) -> Grid:
    """The grid that a case is prepared on: canonical axes, around what the reference shows.

    Args:
        reference: scan whose voxels a prediction returns to.
        spacing: [mm]; empty for the reference's own, whose voxels are then kept as they are.
        shape: voxels of a grid centred on the foreground; None: as many as hold it and a margin.
        mask: foreground, if it is known.
    """
    voxels = canonical(reference.grid)
    own = np.array(voxels.spacing)
    wanted = np.array(spacing) if len(spacing) else own
    step = wanted / own
    low, high = _box(reference, voxels, mask)
    if shape is None:
        margin = np.ceil(MARGIN / own)
        low = np.maximum(low - margin, 0)
        high = np.minimum(high + margin, np.array(voxels.shape) - 1)
        counts = np.maximum(np.ceil((high - low + 1) / step - 1e-6), 1).astype(int)
        start = low - 0.5 + step / 2
    else:
        counts = np.array(shape)
        middle = (low + high) / 2
        start = middle - step * (counts - 1) / 2
    affine = voxels.affine.copy()
    affine[:3, :3] = voxels.affine[:3, :3] * step
    affine[:3, 3] = voxels.affine[:3, :3] @ start + voxels.affine[:3, 3]
    return Grid((int(counts[0]), int(counts[1]), int(counts[2])), affine)


def _box(
    reference: Volume, voxels: Grid, mask: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """First and last voxel of the foreground along each canonical axis, stray specks left out."""
    inside = foreground(reference.data) if mask is None else mask
    ornt = nib.orientations.io_orientation(reference.affine)
    where = nib.orientations.apply_orientation(inside, ornt)
    low, high = np.zeros(3), np.array(voxels.shape, dtype=float) - 1
    for axis in range(3):
        profile = where.sum(axis=tuple(a for a in range(3) if a != axis))
        total = np.cumsum(profile) / max(int(profile.sum()), 1)
        if profile.sum():
            low[axis] = np.searchsorted(total, 1e-3)
            high[axis] = np.searchsorted(total, 1 - 1e-3)
    return low, np.maximum(high, low)


def prepare(
    volumes: Mapping[str, Volume],
    slots: Sequence[str],
    spacing: Sequence[float] = (),
    shape: tuple[int, int, int] | None = None,
    mask: Volume | None = None,
    smoothing: float = 0.0,
) -> Prepared:
    """Scans by slot -> one image; the first slot that is there is the reference.

    A VCMWarning names scans that show the head elsewhere than the reference does.

    Args:
        volumes: slot -> scan; the scans of a case share a world, not a grid.
        slots: channels, in their order; a slot without a scan becomes 0.
        spacing: See `frame`.
        shape: See `frame`.
        mask: what lies outside (0) is set to 0, as brain extraction does; on the reference's voxels.
        smoothing: standard deviation of a Gaussian [voxels of the new grid].

    Raises:
        VCMError: no slot is filled, or the mask lies elsewhere.
    """
    there = [s for s in slots if s in volumes]
    if not there:
        raise VCMError(f"No scan of {', '.join(slots)} is given: give at least one.")
    reference = volumes[there[0]]
    inside = None
    if mask is not None:
        if not lies_on(mask, reference):
            raise VCMError(
                f"{mask.source} does not lie on the voxels of {reference.source}: resample the mask "
                "onto the scan."
            )
        inside = mask.data > 0
    volumes = {s: on_zero(volumes[s], inside if s == there[0] else None) for s in there}
    reference = volumes[there[0]]
    _warn_of_scans_apart(reference, [volumes[s] for s in there[1:]])
    grid = frame(reference, spacing, shape, inside)
    channels = [np.zeros(grid.shape, dtype=np.float32) for _ in slots]
    keep = None
    if mask is not None and inside is not None:
        keep = resample(mask.with_data(inside.astype(np.float32)), grid, order=1) > 0.5
    for channel, slot in enumerate(slots):
        if slot in volumes:
            channels[channel] = _channel(volumes[slot], grid, keep, smoothing)
    present = tuple(s in volumes for s in slots)
    return Prepared(np.stack(channels), grid, reference.grid, present)


def _warn_of_scans_apart(reference: Volume, others: Sequence[Volume]) -> None:
    """Say which scans of a case were not registered to its reference."""
    if not others:
        return
    grid = frame(reference, (COMPARED,) * 3)
    fixed = _channel(reference, grid, None, COMPARED_SMOOTHING)
    here, size = _shown(reference, grid)
    for other in others:
        moving = _channel(other, grid, None, COMPARED_SMOOTHING)
        there, other_size = _shown(other, grid)
        shared = (here & there).sum() * grid.voxel_volume
        distance = COMPARED * float(np.linalg.norm(displacement(fixed, moving)))
        if shared < LEAST_SHARED * min(size, other_size):
            where = f"lies beside {reference.source} by their headers"
        elif distance >= APART:
            where = (
                f"shows the head about {distance:.0f} mm away from where {reference.source} does"
            )
        else:
            continue
        warnings.warn(
            f"{other.source} {where}: register the scans of a case to its first one, or a network reads them as if "
            "they lay in one place.",
            VCMWarning,
            stacklevel=3,
        )


def _shown(volume: Volume, grid: Grid) -> tuple[NDArray[np.bool_], float]:
    """Foreground of a scan on a grid (X, Y, Z), and the volume of all of it [mm^3]."""
    inside = foreground(volume.data)
    there = resample(volume.with_data(inside.astype(np.float32)), grid, order=1) > 0.5
    return there, float(inside.sum() * volume.grid.voxel_volume)


def _channel(
    volume: Volume, grid: Grid, keep: NDArray[np.bool_] | None, smoothing: float
) -> NDArray[np.float32]:
    values = resample(volume, grid, order=1).astype(np.float32)
    inside = foreground(values) if keep is None else keep
    low, high = np.percentile(values[inside], PERCENTILES) if inside.any() else (0.0, 1.0)
    scaled = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
    # Brain-extracted scans are exactly 0 outside, and stay so.
    scaled = np.where(values == 0 if keep is None else ~keep, 0, scaled)
    return np.asarray(gaussian_filter(scaled, smoothing) if smoothing else scaled, np.float32)


def to_reference(probabilities: NDArray[np.float32], prepared: Prepared) -> NDArray[np.uint8]:
    """Class probabilities (1 + classes, X, Y, Z) -> label map on the voxels of the reference.

    Each class is brought back linearly and the most probable wins; what lies outside the prepared
    grid is background.
    """
    target = prepared.reference
    best = np.full(target.shape, -1.0, dtype=np.float32)
    labels = np.zeros(target.shape, dtype=np.uint8)
    total = np.zeros(target.shape, dtype=np.float32)
    for number, values in enumerate(probabilities[1:], start=1):
        found = resample(Volume(values, prepared.grid.affine), target, order=1)
        found = found.astype(np.float32, copy=False)
        total += found
        wins = found > best
        best[wins], labels[wins] = found[wins], number
    labels[best <= 1 - total] = 0
    return labels
