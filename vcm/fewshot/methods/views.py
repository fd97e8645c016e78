"""What a scan could have looked like: other contrast, resolution, bias field, noise, tighter mask.

Features learned from voxels miss by decades on scans that were prepared otherwise; an encoder that
restores the scan from such a view has to see past them. Knows images of one channel in 0..1, on any
device, and a generator; nothing of files or networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

#: Share of views that get each change.
CONTRAST, RESOLUTION, BIAS, TIGHT = 0.7, 0.5, 0.3, 0.3
#: Coarsest resolution along an axis, as a multiple of the voxel.
COARSEST = 3.0
#: Spread of the logarithm of the bias field at its 4 x 4 x 4 nodes.
BIAS_SPREAD = 0.25
#: Largest number of voxels that a tighter brain mask takes away.
TIGHTEST = 2
#: Largest standard deviation of the noise.
NOISIEST = 0.04
#: An image of which this share is 0 has a masked background, and so a mask that could be tighter.
MASKED = 0.05


@dataclass(frozen=True)
class Change:
    """What is drawn for one view; None, or 0: not changed.

    Attributes:
        tighter: Voxels that the mask loses at its border.
        curve: Brightness at equal distances from dark to bright (6,), and whether the two change places.
        nodes: Logarithm of the bias field (4, 4, 4).
        factors: Size of the voxels that it is measured on, by axis, as multiples of its own.
    """

    tighter: int
    curve: tuple[NDArray[np.float64], bool] | None
    nodes: NDArray[np.float64] | None
    factors: NDArray[np.float64] | None


def seen_otherwise(image: Tensor, random: np.random.Generator, strength: float = 1.0) -> Tensor:
    """A view of an image.

    Args:
        image: (X, Y, Z) in 0..1; exactly 0 outside of the brain where it is masked.
        random: What the view depends on, beside the image.
        strength: Scales the share of views that get each change; 0: noise alone.

    Returns:
        (X, Y, Z) in 0..1, 0 where the image is.
    """
    change = draw_change(random, are_masked(image[None])[0], strength)
    noise = torch.from_numpy(random.standard_normal(tuple(image.shape), dtype=np.float32))
    level = random.uniform(0, NOISIEST)
    return changed(image[None], [change], noise.to(image.device)[None], [level])[0]


def several_seen_otherwise(
    images: Tensor, randoms: Sequence[np.random.Generator], strength: float = 1.0
) -> Tensor:
    """Views of images (N, X, Y, Z), each as `seen_otherwise` makes it, with noise that torch draws."""
    masked = are_masked(images)
    changes = [draw_change(r, m, strength) for r, m in zip(randoms, masked, strict=True)]
    levels = [random.uniform(0, NOISIEST) for random in randoms]
    return changed(images, changes, torch.randn_like(images), levels)


def are_masked(images: Tensor) -> list[bool]:
    """Which of the images (N, X, Y, Z) have a masked background."""
    shares: list[float] = (images <= 0).float().flatten(1).mean(1).tolist()
    return [share > MASKED for share in shares]


def draw_change(random: np.random.Generator, masked: bool, strength: float) -> Change:
    """What a view of an image with a masked background, or with none, differs by."""
    tight = random.random() < strength * TIGHT and masked
    return Change(
        int(random.integers(1, TIGHTEST + 1)) if tight else 0,
        draw_curve(random) if random.random() < strength * CONTRAST else None,
        random.normal(0, BIAS_SPREAD, (4, 4, 4)) if random.random() < strength * BIAS else None,
        draw_factors(random) if random.random() < strength * RESOLUTION else None,
    )


def draw_curve(random: np.random.Generator) -> tuple[NDArray[np.float64], bool]:
    """A random rising curve; for one in ten bright and dark change places."""
    knots = np.sort(random.uniform(0, 1, 4))
    knots = 0.5 * knots + 0.5 * np.linspace(0.2, 0.8, 4)
    return np.concatenate([[0.0], knots, [1.0]]), random.random() < 0.1


def draw_factors(random: np.random.Generator) -> NDArray[np.float64]:
    """Coarser voxels, along one axis or all."""
    factors = np.ones(3)
    if random.random() < 0.5:
        factors[int(random.integers(3))] = random.uniform(1, COARSEST)
    else:
        factors[:] = random.uniform(1, 1 + (COARSEST - 1) / 2)
    return factors


def changed(
    images: Tensor, changes: Sequence[Change], noise: Tensor, levels: Sequence[float]
) -> Tensor:
    """Images (N, X, Y, Z) as they were drawn to be seen, with noise (N, X, Y, Z) of those levels."""
    inside, views = images > 0, images.clone()
    for voxels in range(1, TIGHTEST + 1):
        rows = _rows([c.tighter == voxels for c in changes], images.device)
        if len(rows):
            inside[rows] = eroded(inside[rows], voxels)
    curves = [c.curve for c in changes if c.curve is not None]
    if curves:
        rows = _rows([c.curve is not None for c in changes], images.device)
        values, falling = zip(*curves, strict=True)
        views[rows] = recontrasted(views[rows], np.stack(values), falling)
    nodes = [c.nodes for c in changes if c.nodes is not None]
    if nodes:
        rows = _rows([c.nodes is not None for c in changes], images.device)
        views[rows] = views[rows] * bias_field(images, np.stack(nodes))
    for n, change in enumerate(changes):
        if change.factors is not None:
            views[n] = blurred(views[n], change.factors)
    spread = torch.tensor(levels, dtype=views.dtype).to(views.device)[:, None, None, None]
    return (views + spread * noise).clamp(0, 1) * inside


def _rows(chosen: Sequence[bool], device: torch.device) -> Tensor:
    return torch.tensor([n for n, this in enumerate(chosen) if this], dtype=torch.long).to(device)


def recontrasted(images: Tensor, curves: NDArray[np.float64], falling: Sequence[bool]) -> Tensor:
    """Brightness of images (N, X, Y, Z) through curves (N, 6); 1 minus that where it is to fall."""
    curve = torch.from_numpy(curves.astype(np.float32)).to(images.device)
    last = curve.shape[1] - 1
    place = images.flatten(1).clamp(0, 1) * last
    low = place.floor().long().clamp(max=last - 1)
    made = torch.lerp(curve.gather(1, low), curve.gather(1, low + 1), place - low)
    falls = torch.tensor(list(falling)).to(images.device)[:, None]
    return torch.where(falls, 1 - made, made).reshape(images.shape)


def bias_field(like: Tensor, nodes: NDArray[np.float64]) -> Tensor:
    """Smooth fields of factors around 1 (N, X, Y, Z), of nodes (N, 4, 4, 4), on the voxels of `like`."""
    coarse = torch.from_numpy(nodes.astype(np.float32)).to(like.device)[:, None]
    shape = tuple(like.shape[1:])
    field = functional.interpolate(coarse, shape, mode="trilinear", align_corners=True)
    return field[:, 0].exp()


def blurred(image: Tensor, factors: NDArray[np.float64]) -> Tensor:
    """An image (X, Y, Z) measured on voxels that many times larger, and read on the old ones."""
    x, y, z = (max(1, round(n / f)) for n, f in zip(image.shape, factors, strict=True))
    coarse = functional.adaptive_avg_pool3d(image[None, None], (x, y, z))
    fine = functional.interpolate(coarse, tuple(image.shape), mode="trilinear", align_corners=False)
    return fine[0, 0]


def eroded(masks: Tensor, voxels: int) -> Tensor:
    """Masks (N, X, Y, Z) without what lies within so many voxels of their outside."""
    outside = (~masks).float()[:, None]
    return functional.max_pool3d(outside, 2 * voxels + 1, 1, voxels)[:, 0] == 0
