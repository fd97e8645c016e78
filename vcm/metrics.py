"""Measures of images and label maps. Tensors in, numbers out; each cites its definition."""

from __future__ import annotations

import torch
from monai.metrics.regression import compute_ssim_and_cs
from torch import Tensor


def psnr(found: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio [dB] of images in 0..1, -10 log10 mean (x - y)^2, inside a mask."""
    squared = (found - truth).square()
    return float(-10 * (squared if mask is None else squared[mask]).mean().log10())


def ssim(found: Tensor, truth: Tensor, mask: Tensor) -> float:
    """Mean structural similarity (Wang et al. 2004) of (1, 1, X, Y, Z) in 0..1 inside a mask.

    Gaussian window of 11 voxels, sigma 1.5; the border of 5 voxels that it cannot fill is left out.
    """
    window, sigma = (11, 11, 11), (1.5, 1.5, 1.5)
    peak = torch.tensor(1.0)
    values, _ = compute_ssim_and_cs(found, truth, 3, window, sigma, data_range=peak)
    return float(values[mask[..., 5:-5, 5:-5, 5:-5]].mean())
