"""A pool of small random scans with label maps."""

import numpy as np
import torch
from torch.nn import functional as F

from vcm.imaging.scan_pool import ScanPool
from vcm.imaging.volume import Grid

RANGES = {
    "sex": (0.0, 1.0), "age": (20.0, 80.0), "ventricular_volume": (0.0, 5.0), "brain_volume": (1.0, 30.0),
}  # fmt: skip


def small_pool(count: int = 3, smooth: bool = False) -> ScanPool:
    """Of white noise, or, where `smooth`, of blocks of four voxels."""
    random = np.random.default_rng(0)
    edge = 4 if smooth else 16
    images = torch.from_numpy(random.integers(0, 255, (count, edge, edge, edge)).astype(np.uint8))
    classes = torch.from_numpy(random.integers(0, 9, (count, edge, edge, edge)).astype(np.uint8))
    if smooth:
        images = F.interpolate(images[:, None].float(), (16, 16, 16), mode="trilinear")[:, 0].byte()
        classes = F.interpolate(classes[:, None].float(), (16, 16, 16))[:, 0].byte()
    return ScanPool(
        images,
        classes,
        torch.tensor([0.0, 1.0, 0.0][:count]),
        torch.tensor([20.0, 50.0, 80.0][:count]),
        list("abc"[:count]),
        RANGES,
        Grid((16, 16, 16), np.diag([2.0, 2.0, 2.0, 1.0])),
    )
