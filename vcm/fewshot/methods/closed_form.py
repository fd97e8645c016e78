"""Fit the methods that have a closed form: the mean, and a line on features of the case.

Knows features and labels; nothing of scans. Ridge and logistic regression are scikit-learn's.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import StratifiedKFold, cross_val_score

from vcm.errors import VCMError
from vcm.fewshot.cases.tasks import Task
from vcm.fewshot.methods.feature_names import ONE_UNIT
from vcm.fewshot.methods.model import FittedModel

#: Strengths of the penalty that are tried, in units of the number of features.
PENALTIES = np.logspace(-3, 3, 13)
#: A feature that varies less than this over the shots says nothing there.
LEAST_SPREAD = 1e-6


def fit_constant(task: Task, labels: NDArray[np.float64]) -> FittedModel:
    """Method `mean`: the mean of the shots, their class frequencies, or no structure anywhere."""
    arrays = {} if task.kind == "segmentation" else {"prior": _prior(task, labels)}
    # safetensors does not write a file without arrays that it could read everywhere.
    return FittedModel("mean", task, "constant", arrays or {"prior": torch.zeros(1)})


def fit_line(
    method: str,
    task: Task,
    feature: str,
    x: NDArray[np.float64],
    labels: NDArray[np.float64],
    weights: NDArray[np.float64] | None = None,
) -> FittedModel:
    """Ridge or logistic regression on features standardised over the shots.

    The penalty is chosen by leaving shots out: each one in turn (ridge), up to five folds (logistic).

    Args:
        method: Name of the method.
        task: What is learned.
        feature: Name of the features, which decides how they are scaled.
        x: (shots, F) features.
        labels: (shots,) values, or classes 0, 1, ...
        weights: (shots,) of each in the loss; None: the same for all.

    Raises:
        VCMError: all shots are of one class or have one value.
    """
    refuse_one_label(task, labels)
    mean, scale = x.mean(0), spread_of(feature, x)
    standardised = (x - mean) / scale
    fit = _ridge if task.kind == "regression" else _logistic
    slopes, bias, penalty = fit(standardised, labels, len(task.classes), weights)
    arrays = {
        "mean": mean, "scale": np.where(np.isinf(scale), 1.0, scale), "weights": slopes,
        "bias": bias,
    }  # fmt: skip
    return FittedModel(
        method, task, "linear",
        {n: torch.from_numpy(np.asarray(a, dtype=np.float32)) for n, a in arrays.items()}
        | {"prior": _prior(task, labels)},
        feature, {"penalty": penalty},
    )  # fmt: skip


def spread_of(feature: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each feature is divided by, (F,); infinite where it does not vary over the shots.

    Features of one unit share one spread: a voxel at the border of the brain, nearly constant over a
    few shots, would otherwise be magnified and decide on the next case.
    """
    spread = x.std(0)
    if feature in ONE_UNIT:
        spread = np.full_like(spread, np.sqrt(np.mean(spread**2)))
    return np.where(spread < LEAST_SPREAD, np.inf, spread)


def refuse_one_label(task: Task, labels: NDArray[np.float64]) -> None:
    """Raise VCMError where the shots show one class, or one value, only."""
    if task.kind == "segmentation":
        return
    values = np.unique(labels)
    if len(values) < 2:
        shown = task.classes[int(values[0])] if task.kind == "classification" else f"{values[0]:g}"
        raise VCMError(
            f"All {len(labels)} shots of {task.name} have the label {shown}: nothing can be learned from "
            "one, so draw more shots or another seed."
        )


def _ridge(
    x: NDArray[np.float64], y: NDArray[np.float64], _: int, w: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    model = RidgeCV(alphas=PENALTIES * x.shape[1]).fit(x, y, w)
    return model.coef_[:, None], np.array([model.intercept_]), float(model.alpha_)


def _logistic(
    x: NDArray[np.float64], y: NDArray[np.float64], classes: int, w: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Scores of all classes. The shots span few directions of many features: fit along these."""
    u, s, v = np.linalg.svd(x, full_matrices=False)
    rotated = u * s
    least = int(min(np.unique(y, return_counts=True)[1]))
    penalties = PENALTIES[::2] * x.shape[1]

    def model(penalty: float) -> LogisticRegression:
        return LogisticRegression(C=1 / penalty, max_iter=1000)

    if least < 2:
        # A class with one shot leaves nothing to choose by: the middle of the range.
        chosen = float(penalties[len(penalties) // 2])
    else:
        cut = StratifiedKFold(min(5, least), shuffle=True, random_state=0)
        losses = [
            -cross_val_score(
                model(p), rotated, y, cv=cut, scoring="neg_log_loss", params={"sample_weight": w}
            ).mean()
            for p in penalties
        ]
        chosen = float(penalties[int(np.argmin(losses))])
    fitted = model(chosen).fit(rotated, y, w)
    weights = np.zeros((x.shape[1], classes))
    bias = np.full(classes, -30.0)
    coefficients, intercepts = fitted.coef_, fitted.intercept_
    if len(fitted.classes_) == 2:
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    for row, label in enumerate(fitted.classes_):
        weights[:, int(label)] = v.T @ coefficients[row]
        bias[int(label)] = intercepts[row]
    return weights, bias, chosen


def _prior(task: Task, labels: NDArray[np.float64]) -> torch.Tensor:
    if task.kind == "regression":
        return torch.tensor([float(np.mean(labels))])
    counts = np.bincount(labels.astype(int), minlength=len(task.classes))
    return torch.from_numpy((counts / counts.sum()).astype(np.float32))
