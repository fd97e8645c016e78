"""The measures of a few-shot task, with the edge cases that the FOMO challenge prescribes.

Knows true and predicted values; nothing of files, methods or draws. The definitions are those of
the organisers' package (fomo-metrics, 2026): a missing prediction counts as the worst one, never
as a case left out. What is undefined for everybody (AUROC of one class) is NaN.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from monai.metrics.surface_dice import compute_surface_dice
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import f1_score, roc_auc_score

from vcm.errors import VCMError

#: What a regression gets that did not answer, or whose correlation is undefined.
WORST_MAE, WORST_CORRELATION = 100.0, -100.0
#: Surfaces nearer than this [mm] agree.
NSD_TOLERANCE = 1.0

Kind = Literal["classification", "regression", "segmentation", "embedding"]


@dataclass(frozen=True)
class Metric:
    """Name of a measure, which direction is better, and whether it is a mean over cases."""

    name: str
    higher_is_better: bool
    mean_over_cases: bool


METRICS = {
    m.name: m
    for m in (
        Metric("auroc", True, False),
        Metric("f1", True, False),
        Metric("mae", False, True),
        Metric("r", True, False),
        Metric("dice", True, True),
        Metric("nsd", True, True),
    )
}
#: What each kind of task is ranked by.
METRICS_OF: dict[Kind, tuple[str, ...]] = {
    "classification": ("auroc",),
    "regression": ("mae", "r"),
    "segmentation": ("dice", "nsd"),
    "embedding": ("auroc", "f1"),
}


def auroc(truth: ArrayLike, score: ArrayLike) -> float:
    """Area under the ROC curve; a missing score becomes 0 for a positive and 1 for a negative.

    Args:
        truth: (N,) labels, 0 or 1.
        score: (N,) scores, higher for 1; NaN where there is none.

    Returns:
        0 to 1, NaN where only one class occurs.
    """
    y = np.asarray(truth, dtype=int)
    s = np.asarray(score, dtype=float)
    s = np.where(np.isfinite(s), s, 1.0 - y)
    return float(roc_auc_score(y, s)) if len(np.unique(y)) == 2 else float("nan")


def ovr_auroc(truth: ArrayLike, scores: ArrayLike) -> float:
    """Mean over the classes of the one-versus-rest AUROC; of two classes, the AUROC of class 1.

    Args:
        truth: (N,) labels 0..C-1.
        scores: (N, C); a row with a missing value becomes 0 for its class and 1/(C-1) elsewhere.

    Returns:
        Mean over the classes that have both positives and negatives; NaN where none has.
    """
    y, s = np.asarray(truth, dtype=int), np.asarray(scores, dtype=float)
    classes = s.shape[1]
    worst = (1.0 - np.eye(classes)[y]) / (classes - 1)
    s = np.where(np.isfinite(s).all(1, keepdims=True), s, worst)
    if classes == 2:
        return auroc(y, s[:, 1])
    usable = [c for c in range(classes) if 0 < (y == c).sum() < len(y)]
    values = [float(roc_auc_score(y == c, s[:, c])) for c in usable]
    return float(np.mean(values)) if values else float("nan")


def chosen_classes(truth: ArrayLike, scores: ArrayLike) -> NDArray[np.int_]:
    """The most probable class per row of (N, C), the first of equals; missing rows are wrong."""
    y, s = np.asarray(truth, dtype=int), np.asarray(scores, dtype=float)
    missing = ~np.isfinite(s).all(1)
    found: NDArray[np.int_] = np.where(missing, (y + 1) % s.shape[1], np.argmax(s, axis=1))
    return found


def macro_f1(truth: ArrayLike, chosen: ArrayLike) -> float:
    """Mean over the classes, true or predicted, of F1; 0 for a class never predicted.

    A missing prediction (NaN) becomes a wrong class: 0, or 1 where 0 is true.
    """
    y, p = np.asarray(truth, dtype=int), np.asarray(chosen, dtype=float)
    p = np.where(np.isfinite(p), p, np.where(y != 0, 0, 1)).astype(int)
    return float(f1_score(y, p, average="macro", zero_division=0))


def mean_absolute_error(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Mean of |truth - predicted|; 100 where a value is missing, lengths differ or nothing came."""
    t, p = np.asarray(truth, dtype=float), np.asarray(predicted, dtype=float)
    if t.shape != p.shape or not t.size or not np.isfinite(p).all():
        return WORST_MAE
    return float(np.abs(t - p).mean())


def correlation(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Pearson's r; -100 where it is undefined: a constant, a missing value, fewer than two cases."""
    t, p = np.asarray(truth, dtype=float), np.asarray(predicted, dtype=float)
    if t.shape != p.shape or t.size < 2 or not np.isfinite(p).all():
        return WORST_CORRELATION
    if np.ptp(t) == 0 or np.ptp(p) == 0:
        return WORST_CORRELATION
    return float(np.corrcoef(t, p)[0, 1])


def dice(found: NDArray, truth: NDArray) -> float:
    """2 |A and B| / (|A| + |B|) of two masks; 1 where both are empty."""
    a, b = found.astype(bool), truth.astype(bool)
    total = int(a.sum()) + int(b.sum())
    return 1.0 if total == 0 else 2.0 * int((a & b).sum()) / total


def normalized_surface_distance(
    found: NDArray,
    truth: NDArray,
    spacing: Sequence[float],
    tolerance: float = NSD_TOLERANCE,
) -> float:
    """Share of both surfaces that lies within `tolerance` [mm] of the other.

    Source: Nikolov et al. 2018 (arXiv 1809.04430). Surface elements between voxels, as in
    DeepMind's surface-distance; MONAI's default counts border voxels and gives other numbers.

    Args:
        found: (X, Y, Z) mask.
        truth: (X, Y, Z) mask on the same voxels.
        spacing: Voxel edges [mm].
        tolerance: Distance [mm].

    Returns:
        0 to 1; 0 where either mask is empty, also where both are (unlike Dice).
    """
    a, b = found.astype(bool), truth.astype(bool)
    if not a.any() or not b.any():
        return 0.0
    both = np.argwhere(a | b)
    window = tuple(
        slice(max(low - 2, 0), high + 3) for low, high in zip(both.min(0), both.max(0), strict=True)
    )
    # A border of background, so that a mask at the edge of the volume has a surface there too.
    a, b = (np.pad(m[window], 1) for m in (a, b))
    with warnings.catch_warnings():
        # MONAI 1.5 calls its own function with an argument that it has deprecated.
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
        value = compute_surface_dice(
            torch.from_numpy(a)[None, None], torch.from_numpy(b)[None, None],
            class_thresholds=[tolerance], include_background=True,
            spacing=[float(s) for s in spacing], use_subvoxels=True,
        )  # fmt: skip
    return float(value[0, 0])


def segmentation_scores(
    found: NDArray, truth: NDArray, spacing: Sequence[float], labels: Sequence[int] | None = None
) -> dict[str, float]:
    """Dice and NSD of one case, the mean over labels, background left out.

    Args:
        found: (X, Y, Z) label map.
        truth: (X, Y, Z) label map on the same voxels.
        spacing: voxel edges [mm].
        labels: which to score; those of `truth` if none are given.

    Raises:
        VCMError: the maps differ in shape, or there is no label to score.
    """
    if found.shape != truth.shape:
        raise VCMError(
            f"The prediction has shape {found.shape} and the true map {truth.shape}: write it on the "
            "voxels of the input."
        )
    scored = [int(v) for v in np.unique(truth) if v] if labels is None else list(labels)
    if not scored:
        raise VCMError("The true map is empty, so its labels are unknown: say which are scored.")
    pairs = [(found == label, truth == label) for label in scored]
    return {
        "dice": float(np.mean([dice(a, b) for a, b in pairs])),
        "nsd": float(np.mean([normalized_surface_distance(a, b, spacing) for a, b in pairs])),
    }


def per_group(
    metric: Callable[..., float], groups: ArrayLike, *values: NDArray
) -> dict[str, float]:
    """The metric of each group of cases, NaN where it is undefined there; cases of no group, "", are left out."""
    names = np.asarray(groups)
    return {str(g): metric(*(v[names == g] for v in values)) for g in np.unique(names) if g != ""}


def fairness_score(variables: Mapping[str, Mapping[str, float]]) -> float:
    """Mean over variables of 1 - (largest - smallest group value).

    Groups whose value is undefined (NaN) are dropped; a variable with one valid group has no gap,
    one with none is left out. NaN where no variable is left.
    """
    gaps = []
    for groups in variables.values():
        valid = [v for v in groups.values() if np.isfinite(v)]
        if valid:
            gaps.append(1 - (max(valid) - min(valid)))
    return float(np.mean(gaps)) if gaps else float("nan")
