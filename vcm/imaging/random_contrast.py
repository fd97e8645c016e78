"""Images of random contrast: of a T1w scan by random intensity curves, of a label map by random intensities.

The idea is that of SynthSeg and SynthSR (Billot et al., Medical Image Analysis 2023; Iglesias et al., NeuroImage
2021): a network that has seen every contrast at random expects none. Knows arrays and their generator alone.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter, zoom

Random = np.random.Generator

#: Knots of a random intensity curve, the largest intensity that it knows, steps of its table, and share of
#: scans that keep their own contrast.
KNOTS, BRIGHTEST, STEPS, AS_IT_IS = 6, 1.5, 1024, 0.2
#: Standard deviation of a label's intensities, drawn between these, and the smoothing [voxel] that mixes
#: the labels at their borders as a scanner does.
LABEL_SPREAD, MIXING = (0.0, 0.06), (0.3, 0.8)
#: Points of the bias field along an axis, and the largest standard deviation of its logarithm.
FIELD_POINTS, FIELD = 4, 0.25
#: Largest standard deviation [voxel] of the smoothing in plane, of coarser in-plane voxels.
IN_PLANE = 0.7


def recoloured(image: NDArray[np.float32], random: Random) -> NDArray[np.float32]:
    """A scan in another contrast: each intensity becomes that of a random smooth curve.

    The curve need not rise, so that white matter may become dark and fluid bright; two curves are mixed by a
    smooth random field, so that one intensity is not one everywhere.

    Args:
        image: (X, Y, Z), the brain in 0..1; fat and vessels may be above.
        random: What the draw depends on, and nothing else.

    Returns:
        (X, Y, Z), of about the same range; 0 stays 0.
    """
    if random.random() < AS_IT_IS:
        return image
    first, second = (_looked_up(_curve(random), image) for _ in range(2))
    share = np.clip(0.15 * _smooth_field(image.shape, random), 0, 0.5)
    mixed = first + share * (second - first)
    return np.where(image > 0, np.maximum(mixed, 0), 0).astype(np.float32)


def painted(labels: NDArray[np.integer], random: Random) -> NDArray[np.float32]:
    """An image of a label map: one normal distribution per label, mixed at the borders.

    Args:
        labels: (X, Y, Z) whole numbers from 0; 0 is air, which is dark.
        random: As `recoloured` has it.

    Returns:
        (X, Y, Z) from 0, tissues in about 0..1.2.
    """
    count = int(labels.max()) + 1
    means = random.uniform(0.03, 1.1, count).astype(np.float32)
    spreads = random.uniform(*LABEL_SPREAD, count).astype(np.float32)
    means[0], spreads[0] = 0, 0
    noise = random.standard_normal(labels.shape, dtype=np.float32)
    image = means[labels] + spreads[labels] * noise
    mixed = gaussian_filter(image, random.uniform(*MIXING))
    return np.maximum(mixed, 0).astype(np.float32)


def with_bias_field(image: NDArray[np.float32], random: Random) -> NDArray[np.float32]:
    """The image times a smooth random field about 1."""
    field = np.exp(random.uniform(0, FIELD) * _smooth_field(image.shape, random))
    return (image * field).astype(np.float32)


def blurred_in_plane(
    image: NDArray[np.float32], across: int, random: Random
) -> NDArray[np.float32]:
    """The image as coarser voxels in the plane of the slices would show it, in half of the draws."""
    if random.random() < 0.5:
        return image
    sigma = [random.uniform(0, IN_PLANE)] * 3
    sigma[across] = 0
    return np.asarray(gaussian_filter(image, sigma), dtype=np.float32)


def _curve(random: Random) -> PchipInterpolator:
    """A smooth curve through random points, 0 at 0."""
    places = np.concatenate([[0.0], np.linspace(0.08, 1.0, KNOTS), [BRIGHTEST]])
    values = np.concatenate([[0.0], random.uniform(0.02, 1.1, KNOTS + 1)])
    return PchipInterpolator(places, values)


def _looked_up(curve: PchipInterpolator, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """The curve at each voxel, from a table, between whose steps it is straight."""
    table = curve(np.linspace(0, BRIGHTEST, STEPS + 2)).astype(np.float32)
    place = np.clip(image, 0, BRIGHTEST) * np.float32((STEPS + 1) / BRIGHTEST)
    step = np.minimum(place.astype(np.int32), STEPS)
    found: NDArray[np.float32] = (
        table[step] + (place - step).astype(np.float32) * np.diff(table)[step]
    )
    return found


def _smooth_field(shape: tuple[int, ...], random: Random) -> NDArray[np.float32]:
    """A smooth random field of about unit variance: splines through random points."""
    field = random.standard_normal((FIELD_POINTS,) * 3).astype(np.float32)
    for axis, length in enumerate(shape):
        field = np.moveaxis(np.tensordot(_splines(length), field, (1, axis)), 0, axis)
    return np.ascontiguousarray(field)


@cache
def _splines(length: int) -> NDArray[np.float32]:
    """(length, FIELD_POINTS): how each point of the field acts along an axis."""
    points = np.eye(FIELD_POINTS)
    own = [zoom(p, length / FIELD_POINTS, order=3, mode="nearest", grid_mode=True) for p in points]
    return np.stack(own, axis=1).astype(np.float32)
