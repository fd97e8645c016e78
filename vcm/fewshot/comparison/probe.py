"""What a linear classifier reads out of frozen embeddings: the challenge's linear probe, and fairness.

Knows vectors, classes and groups; nothing of scans. Written from the description of the protocol
(fomo-lp, 2026): heads that differ in their learning rate, the one that does best on validation cases
answers the test cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from vcm.errors import VCMError
from vcm.fewshot.comparison.metrics import (
    chosen_classes,
    fairness_score,
    macro_f1,
    ovr_auroc,
    per_group,
)

LEARNING_RATES = (
    1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1,
)  # fmt: skip
EPOCHS, BATCH, MOMENTUM, START_SPREAD = 20, 64, 0.9, 0.01


@dataclass(frozen=True)
class Split:
    """Places of the cases for training, validation and test."""

    train: NDArray[np.int_]
    validation: NDArray[np.int_]
    test: NDArray[np.int_]


@dataclass(frozen=True)
class Probed:
    """Measures on the test cases; fairness by measure: 1 - (best - worst group), over variables."""

    auroc: float
    f1: float
    learning_rate: float
    groups: dict[str, dict[str, dict[str, float]]]
    fairness: dict[str, float]


def split_cases(
    labels: Sequence[int],
    strata: Sequence[int],
    seed: int = 42,
    subjects: Sequence[str] | None = None,
) -> Split:
    """40, 10 and 50 % of the subjects of each class, each share spread over the strata (for instance decades).

    Args:
        labels: (N,) class of each case.
        strata: (N,) stratum of each case.
        seed: Of the draw.
        subjects: (N,) whose case it is. All cases of a subject go to one share, that of its first class and
            stratum. None: each case is a subject of its own.

    Raises:
        VCMError: a class has fewer than five subjects.
    """
    random = np.random.default_rng(seed)
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    own = _places_by_subject(subjects or [str(place) for place in range(len(labels))])
    first = np.array([places[0] for places in own], dtype=int)
    y, spread = np.asarray(labels)[first], np.asarray(strata)[first]
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(y == label))
        if len(members) < 5:
            raise VCMError(
                f"The class {label} has {len(members)} subjects, but a probe needs five of each: leave the "
                "class out."
            )
        ordered = members[np.argsort(spread[members], kind="stable")]
        # Dealt in turn along the strata, so that each share meets each of them.
        rest = ordered[0::2]
        parts[2].extend(ordered[1::2].tolist())
        parts[1].extend(rest[2::5].tolist())
        parts[0].extend(np.delete(rest, np.s_[2::5]).tolist())
    return Split(*(np.sort(np.array([p for s in part for p in own[s]], int)) for part in parts))


def _places_by_subject(subjects: Sequence[str]) -> list[list[int]]:
    """Places of the cases of each subject, in the order of their first ones."""
    found: dict[str, list[int]] = {}
    for place, subject in enumerate(subjects):
        found.setdefault(subject, []).append(place)
    return list(found.values())


def probe(
    embeddings: NDArray,
    labels: Sequence[int],
    split: Split,
    variables: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> Probed:
    """Fit linear heads on the training cases and measure the best of them on the test cases.

    SGD with momentum 0.9 and no decay, 20 epochs of batches of 64, the learning rate falling as a
    cosine over all updates; weights start from N(0, 0.01). Embeddings are taken as they come.

    Args:
        embeddings: (N, F).
        labels: (N,) classes 0, 1, ...
        split: places of the cases.
        variables: name -> the group of each case.
        seed: of the start and of the order of the cases.
    """
    x = torch.from_numpy(np.asarray(embeddings, dtype=np.float32))
    y = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    heads = _fit(x[split.train], y[split.train], int(y.max()) + 1, seed)
    truth = y.numpy()
    with torch.inference_mode():
        scores = [head(x).softmax(1).double().numpy() for head in heads]
    values = [ovr_auroc(truth[split.validation], s[split.validation]) for s in scores]
    best = int(np.nanargmax(values)) if np.isfinite(values).any() else len(heads) // 2
    tested, answers = truth[split.test], scores[best][split.test]
    measures = {
        "auroc": ovr_auroc,
        "f1": lambda t, s: macro_f1(t, chosen_classes(t, s)),
    }
    groups = {
        measure: {
            name: per_group(function, np.asarray(of)[split.test], tested, answers)
            for name, of in (variables or {}).items()
        }
        for measure, function in measures.items()
    }
    return Probed(
        measures["auroc"](tested, answers),
        measures["f1"](tested, answers),
        LEARNING_RATES[best],
        groups,
        {measure: fairness_score(found) for measure, found in groups.items()},
    )


def _fit(x: torch.Tensor, y: torch.Tensor, classes: int, seed: int) -> list[nn.Linear]:
    generator = torch.Generator().manual_seed(seed)
    heads = [nn.Linear(x.shape[1], classes) for _ in LEARNING_RATES]
    for head in heads:
        nn.init.normal_(head.weight, std=START_SPREAD, generator=generator)
        nn.init.zeros_(head.bias)
    rates = [
        {"params": h.parameters(), "lr": r} for h, r in zip(heads, LEARNING_RATES, strict=True)
    ]
    optimizer = torch.optim.SGD(rates, lr=0.1, momentum=MOMENTUM)
    updates = EPOCHS * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    for _ in range(EPOCHS):
        for places in torch.randperm(len(x), generator=generator).split(BATCH):
            losses = [functional.cross_entropy(head(x[places]), y[places]) for head in heads]
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            optimizer.step()
            schedule.step()
    return heads
