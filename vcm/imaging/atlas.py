"""Warp a labelled brain onto another one, both on one grid in the common space.

Diffeomorphic demons (Vercauteren et al., NeuroImage 2009; SimpleITK's fast symmetric forces), coarse to
fine from the rigid alignment, after histogram matching. Knows arrays on one grid; no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

#: Shrink factors and iterations per level, and the smoothing [voxel] of the displacements.
LEVELS, SMOOTHING = ((4, 60), (2, 40), (1, 20)), 2.0
#: The same where a coarse warp will do, of images at half the resolution.
COARSE_LEVELS = ((2, 40), (1, 20))
#: Smoothing before every other voxel is left out [voxel].
COARSE_SMOOTHING = 0.8
#: Bins and points of the histogram matching.
HISTOGRAM = (128, 10)


def register(
    fixed: NDArray[np.float32],
    moving: NDArray[np.float32],
    levels: Sequence[tuple[int, int]] = LEVELS,
) -> Any:
    """Displacements that bring `moving` onto `fixed`.

    Args:
        fixed: (X, Y, Z) in 0..1, 0 outside the brain.
        moving: The same of the labelled brain.
        levels: Shrink factors and iterations.

    Returns:
        A SimpleITK transform for `warp`; the same every time.
    """
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    target = sitk.GetImageFromArray(np.ascontiguousarray(fixed))
    source = sitk.GetImageFromArray(np.ascontiguousarray(moving))
    bins, points = HISTOGRAM
    source = sitk.HistogramMatching(source, target, bins, points, True)
    field = None
    for shrink, iterations in levels:
        small = _shrunk(target, shrink)
        demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
        demons.SetNumberOfIterations(iterations)
        demons.SetStandardDeviations(SMOOTHING)
        if field is None:
            field = demons.Execute(small, _shrunk(source, shrink))
        else:
            field = sitk.Resample(field, small, sitk.Transform(), sitk.sitkLinear, 0.0)
            field = demons.Execute(small, _shrunk(source, shrink), field)
    return sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))


def warp(values: NDArray[np.float32], transform: Any) -> NDArray[np.float32]:
    """An image or a probability (X, Y, Z) of the labelled brain, on the other one: linear, 0 outside."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(values.astype(np.float32)))
    moved = sitk.Resample(image, image, transform, sitk.sitkLinear, 0.0)
    return sitk.GetArrayFromImage(moved)


def warp_labels(labels: NDArray[np.int16], classes: int, transform: Any) -> NDArray[np.float16]:
    """Label map (X, Y, Z) of 0..classes-1 -> soft labels (C, X, Y, Z) on the other brain, summing to 1."""
    soft = np.stack([warp(labels == k, transform) for k in range(classes)])
    soft[0] += 1 - soft.sum(0)
    return soft.clip(0, 1).astype(np.float16)


def residual(fixed: NDArray[np.float32], moving: NDArray[np.float32]) -> float:
    """Root mean square of what stays different after a coarse warp, inside either brain, in units of 0..1.

    At half the resolution, which takes a ninth of the time: on twelve scans of IXI, each warped onto
    three, the ranks correlate by 0.85 with those of the warp at full resolution.
    """
    fixed, moving = (
        np.ascontiguousarray(gaussian_filter(image, COARSE_SMOOTHING)[::2, ::2, ::2])
        for image in (fixed, moving)
    )
    moved = warp(moving, register(fixed, moving, COARSE_LEVELS))
    inside = (fixed > 0) | (moved > 0)
    return float(np.sqrt(np.mean((fixed - moved)[inside] ** 2)))


def _shrunk(image: Any, factor: int) -> Any:
    import SimpleITK as sitk

    return sitk.Shrink(image, [factor] * 3) if factor > 1 else image
