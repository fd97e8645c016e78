"""What a scan could have looked like: other contrast, resolution, bias field, noise, tighter mask.

Features learned from voxels miss by decades on scans that were prepared otherwise; an encoder that
restores the scan from such a view has to see past them. Knows one channel in 0..1, on any device, and a
generator; nothing of files or networks.
"""

from __future__ import annotations

import numpy as np
import torch
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
#: An image of which this share is 0 has a masked background, and so a mask that could be tighter.
MASKED = 0.05


def seen_otherwise(
    image: Tensor, random: np.random.Generator, strength: float = 1.0, noise: Tensor | None = None
) -> Tensor:
    """A view of an image.

    Args:
        image: (X, Y, Z) in 0..1; exactly 0 outside of the brain where it is masked.
        random: What the view depends on, beside the image.
        strength: Scales the share of views that get each change; 0: noise alone.
        noise: Unit noise like the image; None: drawn of `random`, which takes time.

    Returns:
        (X, Y, Z) in 0..1, 0 where the image is.
    """
    inside = image > 0
    view = image
    if random.random() < strength * TIGHT and float((~inside).float().mean()) > MASKED:
        inside = eroded(inside, int(random.integers(1, TIGHTEST + 1)))
    if random.random() < strength * CONTRAST:
        view = recontrasted(view, random)
    if random.random() < strength * BIAS:
        view = view * bias_field(view, random)
    if random.random() < strength * RESOLUTION:
        view = blurred(view, random)
    if noise is None:
        noise = torch.from_numpy(random.standard_normal(tuple(image.shape), dtype=np.float32))
    view = view + float(random.uniform(0, 0.04)) * noise
    return view.clamp(0, 1) * inside


def recontrasted(image: Tensor, random: np.random.Generator) -> Tensor:
    """Brightness through a random curve, rising but for one in ten, whose bright and dark change places."""
    knots = np.sort(random.uniform(0, 1, 4))
    knots = 0.5 * knots + 0.5 * np.linspace(0.2, 0.8, 4)
    curve = torch.from_numpy(np.concatenate([[0.0], knots, [1.0]]).astype(np.float32))
    curve = curve.to(image.device)
    place = image.clamp(0, 1) * (len(curve) - 1)
    low = place.floor().long().clamp(max=len(curve) - 2)
    changed = torch.lerp(curve[low], curve[low + 1], place - low)
    return 1 - changed if random.random() < 0.1 else changed


def bias_field(like: Tensor, random: np.random.Generator) -> Tensor:
    """A smooth field of factors around 1, on the voxels and the device of `like` (X, Y, Z)."""
    nodes = torch.from_numpy(random.normal(0, BIAS_SPREAD, (1, 1, 4, 4, 4)).astype(np.float32))
    nodes = nodes.to(like.device)
    field = functional.interpolate(nodes, tuple(like.shape), mode="trilinear", align_corners=True)
    return field[0, 0].exp()


def blurred(image: Tensor, random: np.random.Generator) -> Tensor:
    """Measured on coarser voxels, along one axis or all, and read on the old ones."""
    factors = np.ones(3)
    if random.random() < 0.5:
        factors[int(random.integers(3))] = random.uniform(1, COARSEST)
    else:
        factors[:] = random.uniform(1, 1 + (COARSEST - 1) / 2)
    x, y, z = (max(1, round(n / f)) for n, f in zip(image.shape, factors, strict=True))
    coarse = functional.adaptive_avg_pool3d(image[None, None], (x, y, z))
    fine = functional.interpolate(coarse, tuple(image.shape), mode="trilinear", align_corners=False)
    return fine[0, 0]


def eroded(mask: Tensor, voxels: int) -> Tensor:
    """A mask (X, Y, Z) without what lies within so many voxels of its outside."""
    outside = (~mask).float()[None, None]
    return functional.max_pool3d(outside, 2 * voxels + 1, 1, voxels)[0, 0] == 0
