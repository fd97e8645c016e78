"""Fit the perceptrons on features of labelled voxels, each until held-out voxels stop improving."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from vcm.nets.voxel_classifier import VoxelClassifier

#: Share of the voxels that is held out, and how often in a fit they are asked.
HELD_OUT, ASKED = 0.1, 20


@dataclass(frozen=True)
class FitSettings:
    """How the perceptrons are fitted.

    Attributes:
        members: Perceptrons.
        steps: Optimiser steps of each, at most.
        batch: Voxels per step.
        learning_rate: At the start; falls to 0 as a cosine.
        patience: Share of the steps without improvement after which a perceptron stops.
        seed: Of the initial weights and the batches.
    """

    members: int = 3
    steps: int = 3200
    batch: int = 192
    learning_rate: float = 3e-3
    patience: float = 0.25
    seed: int = 0


def fit_classifier(
    features: NDArray[np.float16],
    targets: NDArray[np.int16],
    weights: NDArray[np.float32],
    classes: int,
    settings: FitSettings,
    device: torch.device,
) -> VoxelClassifier:
    """Perceptrons for labelled voxels.

    Args:
        features: (N, F).
        targets: (N,) of 0..classes-1.
        weights: (N,) of the voxels in the cross-entropy.
        classes: Number of classes, background among them.
        settings: See FitSettings.
        device: Where to compute.

    Returns:
        The ensemble, not training, on that device.
    """
    torch.manual_seed(settings.seed)
    net = VoxelClassifier(features.shape[1], classes, settings.members)
    x, y, w = (torch.from_numpy(np.ascontiguousarray(a)) for a in (features, targets, weights))
    net.standardise_by(x[:: max(1, len(x) // 50_000)])
    net.to(device)
    for number, member in enumerate(net.perceptrons):
        order = torch.from_numpy(np.random.default_rng((settings.seed, number)).permutation(len(x)))
        held = max(1, int(HELD_OUT * len(x)))
        _fit_member(net, member, (x, y, w), order[held:], order[:held], settings, number)
    return net.eval()


def _fit_member(
    net: VoxelClassifier,
    member: nn.Module,
    data: tuple[Tensor, Tensor, Tensor],
    train: Tensor,
    held_out: Tensor,
    settings: FitSettings,
    number: int,
) -> None:
    x, y, w = data
    random = np.random.default_rng((settings.seed, number, 1))
    optimizer = torch.optim.AdamW(member.parameters(), settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    every = max(1, settings.steps // ASKED)
    best, since, kept = float("inf"), 0, copy.deepcopy(member.state_dict())
    for step in range(1, settings.steps + 1):
        member.train()
        index = train[torch.from_numpy(random.integers(len(train), size=settings.batch))]
        loss = _loss(net, member, x[index], y[index], w[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % every == 0 or step == settings.steps:
            member.eval()
            with torch.no_grad():
                part = held_out[:20_000]
                value = float(_loss(net, member, x[part], y[part], w[part]))
            if value < best:
                best, since, kept = value, 0, copy.deepcopy(member.state_dict())
            else:
                since += every
            if since > settings.patience * settings.steps:
                break
    member.load_state_dict(kept)


def _loss(net: VoxelClassifier, member: nn.Module, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Cross-entropy, voxels weighted by the square root: background would drown small structures."""
    device = net.device
    scores = member(net.standardised(x.to(device)))
    each = functional.cross_entropy(scores, y.long().to(device), reduction="none")
    weight = w.to(device).sqrt()
    return (weight * each).sum() / weight.sum()
