"""A start for networks that name classes: each as probable as it is frequent, so that rare ones are not lost at once."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def start_at_frequencies(bias: Tensor, labels: Iterable[Tensor], classes: int) -> None:
    """Set the bias of a last layer to the logarithms of the frequencies of the classes.

    Args:
        bias: (classes k): each class has k outputs, one after the other.
        labels: Whole numbers from 0, of any shape, that are learned from.
        classes: Number of them; one that does not occur counts as one voxel.
    """
    counts = sum(
        (torch.bincount(part.flatten(), minlength=classes).double() for part in labels),
        torch.ones(classes, dtype=torch.float64),
    )
    each = bias.numel() // classes
    bias.copy_((counts / counts.sum()).log().float().repeat_interleave(each))
