"""Training pairs of a translator: T1w brains, and a scan of each in random contrast and resolution.

Knows prepared T1w scans with their class maps, on one grid of common space; nothing of networks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vcm.imaging.deformation import DeformationSizes
from vcm.imaging.random_scan import draw_scans
from vcm.imaging.scan_pool import ScanPool


class TranslationBatch(NamedTuple):
    """B brains, each (B, 1, X, Y, Z).

    Attributes:
        scan: In any contrast, in 0..1.
        truth: In T1w, in 0..1.
        brain: 1 in the brain.
    """

    scan: Tensor
    truth: Tensor
    brain: Tensor


def draw_brains(
    pool: ScanPool, sizes: DeformationSizes, batch_size: int, random: np.random.Generator
) -> TranslationBatch:
    """Deformed brains of the pool, and a scan of each.

    Args:
        pool: Of T1w scans.
        sizes: Of the deformations.
        batch_size: B.
        random: What the draw depends on, and nothing else.
    """
    drawn = draw_scans(pool, sizes, batch_size, random)
    scan, truth, brain = (
        torch.from_numpy(np.stack(values))[:, None].float()
        for values in ([d.scan for d in drawn], [d.t1w for d in drawn], [d.brain for d in drawn])
    )
    return TranslationBatch(scan, truth, brain)
