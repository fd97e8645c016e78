"""Weigh lines on different features of a case against each other, by shots that each was not fitted to.

    score = sum_k w_k score_k,   w_k >= 0,   sum_k w_k = 1

Stacked regression (Wolpert 1992; Breiman 1996). Every score is linear in its features, so the stack is one line on
all of them side by side. Knows features and labels; nothing of scans.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.model_selection import StratifiedKFold

from vcm.fewshot.cases.tasks import Task
from vcm.fewshot.methods.closed_form import fit_line, refuse_one_label
from vcm.fewshot.methods.feature_names import STACKED
from vcm.fewshot.methods.model import FittedModel

#: Parts that the shots are cut into; each is answered by lines on the others.
FOLDS = 5
#: Weights that are tried are multiples of one over this.
STEPS = 10
#: Probability that no answer falls below.
LEAST = 1e-9

Parts = Mapping[str, NDArray[np.float64]]


def fit_stack(method: str, task: Task, parts: Parts, labels: NDArray[np.float64]) -> FittedModel:
    """A line on each of several features of the shots, weighed by out-of-fold answers.

    The first of them alone is kept where no mixture is better than it by more than one standard error over the shots,
    so that one that says nothing costs little.

    Args:
        method: Name of the method.
        task: A classification or regression.
        parts: Feature -> (shots, F), the one that is trusted most first.
        labels: (shots,) values, or classes 0, 1, ...

    Raises:
        VCMError: All shots are of one class or have one value.
    """
    refuse_one_label(task, labels)
    lines = [fit_line(method, task, name, x, labels) for name, x in parts.items()]
    weights, losses = weigh(task, parts, labels)
    arrays = {name: torch.cat([line.arrays[name] for line in lines]) for name in ("mean", "scale")}
    shares = list(zip(weights, lines, strict=True))
    arrays["weights"] = torch.cat([w * line.arrays["weights"] for w, line in shares])
    arrays["bias"] = torch.stack([w * line.arrays["bias"] for w, line in shares]).sum(0)
    arrays["prior"] = lines[0].arrays["prior"]
    settings = {
        "weights": dict(zip(parts, weights, strict=True)),
        "out of fold": losses,
        "penalties": {n: line.settings["penalty"] for n, line in zip(parts, lines, strict=True)},
    }
    return FittedModel(method, task, "linear", arrays, STACKED.join(parts), settings)


def weigh(
    task: Task, parts: Parts, labels: NDArray[np.float64]
) -> tuple[tuple[float, ...], dict[str, float]]:
    """Weights of the parts, and the out-of-fold loss of each alone: squared error, or log loss.

    Where nothing can be left out, as of a class with one shot, all weigh the same.
    """
    folds = _folds(task, labels)
    if not folds:
        return (1 / len(parts),) * len(parts), {}
    scores = np.stack([_out_of_fold(task, name, x, labels, folds) for name, x in parts.items()])
    alone = [_losses(task, scores[k], labels) for k in range(len(parts))]
    chosen, least = (1.0,) + (0.0,) * (len(parts) - 1), np.inf
    for weights in mixtures(len(parts)):
        each = _losses(task, np.tensordot(weights, scores, 1), labels)
        gain = alone[0] - each
        # Two that say the same differ by rounding alone.
        error = max(gain.std(ddof=1) / np.sqrt(len(gain)), 1e-9 * alone[0].mean())
        if each.mean() < least and gain.mean() > error:
            chosen, least = weights, float(each.mean())
    return chosen, {n: float(each.mean()) for n, each in zip(parts, alone, strict=True)}


def mixtures(count: int) -> Iterator[tuple[float, ...]]:
    """Weights of `count` parts that sum to 1, in multiples of 1 / STEPS."""
    for first in product(range(STEPS + 1), repeat=count - 1):
        if sum(first) <= STEPS:
            yield tuple(n / STEPS for n in (*first, STEPS - sum(first)))


def _folds(task: Task, labels: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """Places of the shots that are left out, fold by fold; none where the others have one label only."""
    each = labels if task.kind == "classification" else np.zeros(len(labels))
    least = int(min(np.unique(each, return_counts=True)[1]))
    if least < 2:
        return []
    cut = StratifiedKFold(min(FOLDS, least), shuffle=True, random_state=0)
    found = [outside for _, outside in cut.split(labels[:, None], each)]
    rest = [np.delete(labels, outside) for outside in found]
    return found if all(len(np.unique(some)) > 1 for some in rest) else []


def _out_of_fold(
    task: Task,
    name: str,
    x: NDArray[np.float64],
    labels: NDArray[np.float64],
    folds: list[NDArray[np.intp]],
) -> NDArray[np.float64]:
    """Scores (shots, outputs) of shots that the line was not fitted to."""
    found: list[NDArray[np.float64]] = [np.zeros(0)] * len(labels)
    for outside in folds:
        inside = np.setdiff1d(np.arange(len(labels)), outside)
        line = fit_line("", task, name, x[inside], labels[inside])
        for place in outside:
            answer = line.answer_features(x[place])
            scores = (
                answer.value
                if answer.probabilities is None
                else np.log(np.maximum(answer.probabilities, LEAST))
            )
            found[place] = np.atleast_1d(np.asarray(scores, dtype=float))
    return np.stack(found)


def _losses(
    task: Task, scores: NDArray[np.float64], labels: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(shots,) squared errors, or logarithmic losses."""
    if task.kind == "regression":
        return np.square(scores[:, 0] - labels)
    losses: NDArray[np.float64] = -log_softmax(scores, 1)[
        np.arange(len(labels)), labels.astype(int)
    ]
    return losses
