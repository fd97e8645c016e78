"""Fit a 3D U-Net to deformed copies of the labelled brains: the third voice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.losses.dice import DiceCELoss

from vcm.nets.segmenter import TissueSegmenter
from vcm.segmentation.copies import warped_copy
from vcm.segmentation.labelled import UNKNOWN, LabelledBrain

#: Optimiser steps, each on one copy; a copy serves for several steps, mirrored in none.
STEPS, STEPS_PER_COPY, LEARNING_RATE = 800, 8, 2e-3


def fit_unet(
    brains: Sequence[LabelledBrain], classes: int, seed: int, device: torch.device,
    steps: int = STEPS,
) -> TissueSegmenter:  # fmt: skip
    """A U-Net for wholly labelled brains.

    Args:
        brains: On one grid, whose axes are multiples of 8.
        classes: Background among them.
        seed: Of weights and copies.
        device: Where to compute.
        steps: Optimiser steps.

    Returns:
        The network, not training, on that device.
    """
    torch.manual_seed(seed)
    net = TissueSegmenter(out_classes=classes).to(device)
    measure = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
    optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    random = np.random.default_rng((seed, 2))
    net.train()
    for step in range(steps):
        if step % STEPS_PER_COPY == 0:
            brain = brains[int(random.integers(len(brains)))]
            image, labels = warped_copy(
                brain.image, brain.labels, int(random.integers(2**31)), UNKNOWN
            )
            x = torch.from_numpy(image)[None, None].to(device)
            y = torch.from_numpy(labels.clip(0)).long()[None, None].to(device)
        loss = measure(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()
