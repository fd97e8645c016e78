"""Measures of images, label maps and sets of features; each cites its definition.

Images and maps are tensors; samples, one row per subject, are arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from monai.metrics.meandice import compute_dice
from monai.metrics.regression import compute_ssim_and_cs
from numpy.typing import NDArray
from torch import Tensor

#: A number computed from samples whose first axis counts the subjects.
Statistic = Callable[..., float]


def psnr(found: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio [dB] of images in 0..1, -10 log10 mean (x - y)^2, inside a mask."""
    squared = (found - truth).square()
    return float(-10 * (squared if mask is None else squared[mask]).mean().log10())


def ssim(found: Tensor, truth: Tensor, mask: Tensor) -> float:
    """Mean structural similarity (Wang et al. 2004) of (1, 1, X, Y, Z) in 0..1 inside a mask.

    Gaussian window of 11 voxels, sigma 1.5; the border of 5 voxels that it cannot fill is left out.
    """
    window, sigma = (11, 11, 11), (1.5, 1.5, 1.5)
    peak: Any = torch.tensor(1.0)
    values, _ = compute_ssim_and_cs(found, truth, 3, window, sigma, data_range=peak)
    return float(values[mask[..., 5:-5, 5:-5, 5:-5]].mean())


def dice(found: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Dice (1945) per class, 2 |A and B| / (|A| + |B|), of two class maps (X, Y, Z).

    Returns (classes,) for class 1 to `classes`; background, 0, is left out. NaN where the truth has
    no voxel of the class.
    """
    a, b = (m[None, None].long() for m in (found, truth))
    values = compute_dice(a, b, include_background=False, num_classes=classes + 1)
    return values[0]


def kid(x: NDArray, y: NDArray) -> float:
    """Kernel inception distance of features (N, d) and (M, d); 0 on average where they agree.

    The unbiased estimate of MMD^2 with the kernel k(a, b) = (a.b / d + 1)^3 (Binkowski et al. 2018,
    arXiv 1801.01401): mean of k within x and within y, each without its diagonal, minus twice the
    mean between them. It can be negative. NaN with fewer than two rows.
    """
    if min(len(x), len(y)) < 2:
        return float("nan")

    def kernel(a: NDArray, b: NDArray) -> NDArray:
        cubed: NDArray = (a @ b.T / a.shape[1] + 1) ** 3
        return cubed

    def within(a: NDArray) -> float:
        k = kernel(a, a)
        return float((k.sum() - np.trace(k)) / (len(a) * (len(a) - 1)))

    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return within(x) + within(y) - 2 * float(kernel(x, y).mean())


def bootstrap_interval(
    statistic: Statistic, *samples: NDArray, repeats: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile bootstrap interval (Efron 1979) of statistic(*samples).

    Samples have one row per subject, in the same order; subjects are drawn with replacement and
    keep their rows in every sample, so what is paired stays paired. Not for `kid`: a subject drawn
    twice would meet itself off the diagonal, and the estimate would no longer be unbiased. NaN with
    fewer than two subjects.
    """
    count = len(samples[0])
    if count < 2:
        return float("nan"), float("nan")
    random = np.random.default_rng(seed)
    picks = (random.integers(count, size=count) for _ in range(repeats))
    return _percentiles(statistic(*(s[pick] for s in samples)) for pick in picks)


def half_sample_interval(
    statistic: Statistic, *samples: NDArray, repeats: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of statistic(*samples) for independent samples, from halves of each.

    Halves are drawn without replacement, so no row meets itself, and a U-statistic such as `kid`
    averages over them to its value on the whole. The spread over halves needs no scaling: a mean
    of n/2 out of n rows varies by s^2 (1 / (n/2) - 1/n) = s^2 / n, as the mean of n rows does over
    populations (subsampling, Politis, Romano & Wolf 1999, at the fraction 1/2). Where the
    distributions agree, `kid` is degenerate, of order 1/n, and the interval errs to the wide side:
    its variance is 4 - 1 = 3 times the estimate's. NaN with fewer than four rows.
    """
    if min(map(len, samples)) < 4:
        return float("nan"), float("nan")
    random = np.random.default_rng(seed)

    def halves() -> list[NDArray]:
        return [s[random.permutation(len(s))[: len(s) // 2]] for s in samples]

    return _percentiles(statistic(*halves()) for _ in range(repeats))


def _percentiles(values: Iterable[float]) -> tuple[float, float]:
    low, high = np.percentile(list(values), [2.5, 97.5])
    return float(low), float(high)
