"""Draw the shots: the few labelled cases that a method may see. The same for every method.

Knows labels as numbers and the order of the pool; nothing of scans or methods.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vcm.errors import VCMError


def draw_shots(labels: Sequence[float], strata: Sequence[int], shots: int, seed: int) -> list[int]:
    """Places in the pool of `shots` cases, spread over the strata as the pool is.

    Args:
        labels: of the pool, for the message.
        strata: of the pool: classes, decades, or one for all.
        shots: how many; those for validation and calibration come out of them.
        seed: a draw depends on it and the pool alone.

    Raises:
        VCMError: the pool is too small.
    """
    if not 1 <= shots <= len(labels):
        raise VCMError(
            f"{shots} shots are asked of a pool of {len(labels)} labelled cases: choose 1 to "
            f"{len(labels)}."
        )
    random = np.random.default_rng((seed, shots))
    groups = {s: np.flatnonzero(np.asarray(strata) == s) for s in sorted(set(strata))}
    counts = _shared(shots, {s: len(g) for s, g in groups.items()}, random)
    chosen = [random.permutation(g)[: counts[s]] for s, g in groups.items()]
    return sorted(int(i) for i in np.concatenate(chosen))


def _shared(shots: int, sizes: dict[int, int], random: np.random.Generator) -> dict[int, int]:
    """Shots per stratum: proportional, by largest remainder; at least 1 where there are enough."""
    total = sum(sizes.values())
    exact = {s: shots * n / total for s, n in sizes.items()}
    counts = {s: int(e) for s, e in exact.items()}
    if shots >= len(sizes):
        counts = {s: max(1, c) for s, c in counts.items()}
    tie = dict(zip(sizes, random.random(len(sizes)), strict=True))
    while sum(counts.values()) < shots:
        open_ = [s for s in sizes if counts[s] < sizes[s]]
        best = max(open_, key=lambda s: (exact[s] - counts[s], tie[s]))
        counts[best] += 1
    while sum(counts.values()) > shots:
        worst = max(
            (s for s in sizes if counts[s] > 1), key=lambda s: (counts[s] - exact[s], tie[s])
        )
        counts[worst] -= 1
    return counts


def strata_of(kind: str, labels: Sequence[float]) -> list[int]:
    """What shots are spread over: the classes of a classification, the decades of a regression."""
    if kind == "classification":
        return [int(v) for v in labels]
    if kind == "regression":
        return [int(np.floor(v / 10)) for v in labels]
    return [0] * len(labels)


def folds_of(strata: Sequence[int], folds: int, seed: int) -> list[int]:
    """A fold, 0 to folds - 1, for each case of the pool, with the strata spread over the folds.

    Raises:
        VCMError: there are fewer cases than folds.
    """
    if not 2 <= folds <= len(strata):
        raise VCMError(
            f"{folds} folds are asked of {len(strata)} cases: choose 2 to {len(strata)}."
        )
    random = np.random.default_rng((seed, folds))
    order = sorted(random.permutation(len(strata)), key=lambda i: strata[i])
    found = [0] * len(strata)
    for place, index in enumerate(order):
        found[int(index)] = place % folds
    return found
