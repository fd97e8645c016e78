"""Can a small network tell two sets of volumes apart? The classifier two-sample test.

A network is trained on half of both sets and scores the other half, then the halves change places, so
that a network that never saw a volume scores it (Lopez-Paz & Oquab 2017, arXiv 1610.06545, with the
area under the ROC curve in place of the accuracy). 0.5: it cannot tell them apart; 1: always. Two sets
of real scans show what 0.5 looks like with as many volumes. Knows arrays; not where they come from.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from vcm.metrics import bootstrap_interval
from vcm.nets.patches import to_patches


@dataclass(frozen=True)
class ClassifierSettings:
    """How the classifier is trained.

    It sees crops, not volumes: few volumes then still are many examples, of texture and of local
    anatomy.

    Attributes:
        steps: Optimiser steps (AdamW).
        batch: Crops of each set per step.
        crop: Edge of a crop [voxels], even.
        channels: Of the network, one per level.
        learning_rate: Of the optimiser.
        scored: Crops of a volume whose mean logit is its score.
    """

    steps: int = 400
    batch: int = 4
    crop: int = 32
    channels: tuple[int, ...] = (16, 32, 32)
    learning_rate: float = 2e-3
    scored: int = 24


#: Volumes of a set, at least: two to learn from and two to score.
LEAST = 4


def area_under_curve(first: NDArray, second: NDArray) -> float:
    """Area under the ROC curve of scores that ought to be higher in the second sample.

    The share of pairs in which the second's score is the greater, ties half (Mann & Whitney 1947).

    Args:
        first: (N,) scores.
        second: (M,) scores.
    """
    greater = (second[None] > first[:, None]).mean()
    return float(greater + 0.5 * (second[None] == first[:, None]).mean())


def two_sample_test(
    first: Sequence[NDArray],
    second: Sequence[NDArray],
    seed: int = 0,
    settings: ClassifierSettings | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """How well a network tells two sets of volumes apart that it has not seen.

    The interval is over volumes, of networks that are trained once: it does not hold what another
    training would change. Sets that are paired, such as scans and their reconstructions, should come
    in the same order: they are then split alike, and no brain is on both sides.

    Args:
        first: Volumes (X, Y, Z) in 0..1, all of one shape.
        second: Volumes of that shape.
        seed: Of the network, the crops and the bootstrap.
        settings: Of the classifier.
        device: Where to train it.

    Returns:
        `auc` with its 95 % interval, `low` and `high`; NaN with fewer than four volumes in a set.

    Raises:
        ValueError: Shapes differ, or a volume holds NaN or infinity.
    """
    settings = settings or ClassifierSettings()
    if min(len(first), len(second)) < LEAST:
        return {"auc": float("nan"), "low": float("nan"), "high": float("nan")}
    sets = [_stacked(volumes) for volumes in (first, second)]
    if sets[0].shape[1:] != sets[1].shape[1:]:
        raise ValueError(f"shapes differ: {tuple(sets[0].shape)} and {tuple(sets[1].shape)}")
    scores = [np.zeros(len(s)) for s in sets]
    for fold in (0, 1):
        net = _trained([s[fold::2] for s in sets], settings, seed + fold, torch.device(device))
        held_out = [_scores(net, s[1 - fold :: 2], settings) for s in sets]
        # Two networks have two scales: only order within a fold is to count.
        both = np.concatenate(held_out)
        for own, found in zip(scores, held_out, strict=True):
            own[1 - fold :: 2] = (found - both.mean()) / (both.std() + 1e-9)
    low, high = _interval(scores, seed)
    return {"auc": area_under_curve(*scores), "low": low, "high": high}


def _stacked(volumes: Sequence[NDArray]) -> Tensor:
    """(N, X, Y, Z) in single precision."""
    stacked = torch.from_numpy(np.stack(list(volumes)).astype(np.float32))
    if not stacked.isfinite().all():
        raise ValueError("a volume holds NaN or infinity")
    return stacked


def _interval(scores: list[NDArray], seed: int) -> tuple[float, float]:
    if len(scores[0]) == len(scores[1]):
        return bootstrap_interval(area_under_curve, *scores, repeats=1000, seed=seed)
    random = np.random.default_rng(seed)
    picked = [[s[random.integers(len(s), size=len(s))] for s in scores] for _ in range(1000)]
    low, high = np.percentile([area_under_curve(*p) for p in picked], [2.5, 97.5])
    return float(low), float(high)


def _trained(
    sets: list[Tensor], settings: ClassifierSettings, seed: int, device: torch.device
) -> _Classifier:
    # Weights and crops are drawn on the CPU: the same on every device.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = _Classifier(settings.channels, sets).to(device)
    random = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(net.parameters(), settings.learning_rate, weight_decay=1e-2)
    labels = torch.tensor([0.0, 1.0], device=device).repeat_interleave(settings.batch)
    for _ in range(settings.steps):
        crops = torch.cat([_crops(s, settings.batch, settings.crop, random, True) for s in sets])
        loss = F.binary_cross_entropy_with_logits(net(crops.to(device)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


@torch.no_grad()
def _scores(net: _Classifier, volumes: Tensor, settings: ClassifierSettings) -> NDArray[np.float64]:
    """(N,) mean logit over crops, which lie at the same places in every volume."""
    device = next(net.parameters()).device
    found = []
    for volume in volumes:
        random = np.random.default_rng(0)
        crops = _crops(volume[None], settings.scored, settings.crop, random, False)
        found.append(float(net(crops.to(device)).mean()))
    return np.array(found)


def _crops(
    volumes: Tensor, count: int, edge: int, random: np.random.Generator, mirror: bool
) -> Tensor:
    """(count, 1, edge, edge, edge) around places of the inner half of each axis, where brain is."""
    crops = []
    for _ in range(count):
        volume = volumes[random.integers(len(volumes))]
        corner = [
            int(np.clip(random.integers(n // 4, n - n // 4 + 1) - edge // 2, 0, max(0, n - edge)))
            for n in volume.shape
        ]
        x, y, z = (slice(c, c + edge) for c in corner)
        crop = volume[x, y, z]
        crops.append(crop.flip(0) if mirror and random.random() < 0.5 else crop)
    return torch.stack(crops)[:, None]


class _Classifier(nn.Module):
    """Crops (B, 1, edge, edge, edge) -> logits (B,). It reads voxels folded 2x2x2, and their detail.

    Detail is the image minus its mean over 3x3x3. It is a hundredth of a scan's power and takes long
    to be found unless it is shown, so one number each brings both to unit spread.
    """

    def __init__(self, channels: tuple[int, ...], sets: list[Tensor]) -> None:
        super().__init__()
        self.net = _network(channels)
        everything = torch.cat(sets)[:, None]
        self.mean, self.std = float(everything.mean()), float(everything.std()) + 1e-9
        self.fine = float(torch.stack([_detail(v[None]).std() for v in everything]).mean()) + 1e-9

    def forward(self, crops: Tensor) -> Tensor:
        folded = [(crops - self.mean) / self.std, _detail(crops) / self.fine]
        logits: Tensor = self.net(torch.cat([to_patches(f, 2) for f in folded], 1))
        return logits[:, 0]


def _detail(x: Tensor) -> Tensor:
    return x - F.avg_pool3d(x, 3, 1, 1, count_include_pad=False)


def _network(channels: tuple[int, ...]) -> nn.Module:
    """Without norms: they would remove the strength of the detail, which is what shows a blur."""
    layers: list[nn.Module] = [nn.Conv3d(16, channels[0], 3, padding=1), nn.SiLU()]
    for a, b in itertools.pairwise(channels):
        layers += [nn.Conv3d(a, b, 3, stride=2, padding=1), nn.SiLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(channels[-1], 1))
