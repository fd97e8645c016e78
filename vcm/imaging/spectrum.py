"""How much detail a volume holds: its power by spatial frequency, against that of a real scan.

The power of a band is the mean of |FFT|^2 over the frequencies whose length lies in it (periodogram
averaged over shells; Welch 1967 averages over segments, here over directions). A ratio of 1 in every
band is what a sharp sample has, one below 1 at high frequencies is blur, above 1 noise. The phase is
not looked at: power that does not follow anatomy counts as well, so read it beside adherence.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Borders of the bands [1/mm]; of 2 mm voxels, the highest frequency along an axis is 0.25.
BANDS = (0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2)


def band_power(
    volume: NDArray, spacing: Sequence[float], bands: Sequence[float] = BANDS
) -> NDArray[np.float64]:
    """Mean power of a volume in each band of spatial frequency.

    Args:
        volume: (X, Y, Z) intensities.
        spacing: Voxel size along each axis [mm].
        bands: Borders of the bands, rising [1/mm]; a band holds its lower border.

    Returns:
        (len(bands) - 1,) mean of |FFT|^2; NaN where no frequency of the grid lies in a band.

    Raises:
        ValueError: The volume is not three-dimensional.
    """
    if np.ndim(volume) != 3:
        raise ValueError(f"a volume has three axes, not {np.ndim(volume)}")
    power = np.abs(np.fft.rfftn(np.asarray(volume, dtype=np.float64))) ** 2
    axes = [np.fft.fftfreq(n, d) for n, d in zip(volume.shape, spacing, strict=True)]
    axes[2] = np.fft.rfftfreq(volume.shape[2], spacing[2])
    length = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij", sparse=True)))
    # rfftn leaves out the conjugate of every frequency but those on the first and the last plane.
    copies = np.full(power.shape, 2.0)
    copies[..., 0] = 1.0
    if volume.shape[2] % 2 == 0:
        copies[..., -1] = 1.0
    which = np.digitize(length, bands).ravel()
    total = np.bincount(which, (power * copies).ravel(), len(bands) + 1)[1:-1]
    count = np.bincount(which, copies.ravel(), len(bands) + 1)[1:-1]
    with np.errstate(invalid="ignore"):
        means: NDArray[np.float64] = total / np.where(count > 0, count, np.nan)
    return means


def power_ratio(
    volume: NDArray, real: NDArray, spacing: Sequence[float], bands: Sequence[float] = BANDS
) -> NDArray[np.float64]:
    """Power of a volume over that of a real scan, per band.

    Args:
        volume: (X, Y, Z) intensities.
        real: (X, Y, Z) a real scan of the same shape and voxel size.
        spacing: Voxel size along each axis [mm].
        bands: Borders of the bands, rising [1/mm].

    Returns:
        (len(bands) - 1,) ratio; 1: as sharp as the scan, below 1 at high frequencies: blurred. NaN
        where the scan has no power, or the grid no frequency.

    Raises:
        ValueError: The shapes differ: powers of different grids cannot be compared.
    """
    if volume.shape != real.shape:
        raise ValueError(f"shapes differ: {volume.shape} and {real.shape}")
    of_scan = band_power(real, spacing, bands)
    return band_power(volume, spacing, bands) / np.where(of_scan > 0, of_scan, np.nan)


def band_names(bands: Sequence[float] = BANDS) -> list[str]:
    """Names of the bands, `0.05-0.075` and so on, in 1/mm."""
    return [f"{a:g}-{b:g}" for a, b in itertools.pairwise(bands)]
