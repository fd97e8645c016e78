"""How far a difference between methods may be chance: over test cases and over draws of the shots.

Knows numbers only. A `Sample` is what one method answered in one task: one row per draw of the
shots, one column per test case. The two kinds of chance are kept apart, and joined on request.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, t

from vcm.errors import VCMError
from vcm.fewshot.comparison.metrics import METRICS, WORST_CORRELATION

Floats = NDArray[np.float64]
Interval = tuple[float, float]
#: Numbers held at once while resampling: bounds the memory.
_AT_ONCE = 20_000_000


@dataclass(frozen=True)
class Sample:
    """Answers of one method to one task, by one metric.

    metric:    a name of METRICS
    truth:     (N,) true values; for dice and nsd unused
    answers:   (D, N) one row per draw of the shots: scores for auroc, classes for f1, values for mae
               and r; for dice and nsd the case's own measure
    """

    metric: str
    truth: Floats
    answers: Floats

    def __post_init__(self) -> None:
        if self.answers.ndim != 2 or self.answers.shape[1] != len(self.truth):
            raise VCMError(
                f"Answers have shape {self.answers.shape}, but one row per draw and {len(self.truth)} "
                "columns, one per test case, are needed."
            )
        if not np.isfinite(self.answers).all():
            raise VCMError("An answer is missing: give it the worst value before it is compared.")

    def value(self) -> float:
        """The metric, averaged over the draws."""
        return float(self.per_draw().mean())

    def per_draw(self) -> Floats:
        """The metric of each draw (D,)."""
        everybody = np.ones((1, len(self.truth)))
        return np.array([self._weighted(row, everybody)[0] for row in self.answers])

    def resampled(self, counts: Floats) -> Floats:
        """The metric, averaged over the draws, of each resampling of the cases.

        Args:
            counts: (B, N) how often each case was drawn.

        Returns:
            (B,)
        """
        return np.mean([self._weighted(row, counts) for row in self.answers], axis=0)

    def _weighted(self, answers: Floats, counts: Floats) -> Floats:
        return weighted_metric(self.metric, self.truth, answers, counts)


def weighted_metric(metric: str, truth: Floats, answers: Floats, counts: Floats) -> Floats:
    """A metric on cases that count several times: (N,), (N,), (B, N) -> (B,).

    Equal to the function of that name in metrics.py on the cases repeated, in closed form. NaN
    where an AUROC meets one class only.
    """
    total = counts.sum(1)
    if metric in ("dice", "nsd"):
        return np.asarray(counts @ answers / total)
    if metric == "mae":
        return np.asarray(counts @ np.abs(truth - answers) / total)
    if metric == "r":
        return _weighted_correlation(truth, answers, counts)
    if metric == "auroc":
        return _weighted_auroc(truth, answers, counts)
    if metric == "f1":
        return _weighted_f1(truth, answers, counts)
    raise VCMError(f"The metric '{metric}' is unknown: choose one of {', '.join(METRICS)}.")


def _weighted_correlation(truth: Floats, answers: Floats, counts: Floats) -> Floats:
    x, y = truth - truth.mean(), answers - answers.mean()
    total = counts.sum(1)
    mean_x, mean_y = counts @ x / total, counts @ y / total
    variance_x = counts @ x**2 / total - mean_x**2
    variance_y = counts @ y**2 / total - mean_y**2
    covariance = counts @ (x * y) / total - mean_x * mean_y
    tiny_x, tiny_y = 1e-12 * max(float(x @ x), 1e-300), 1e-12 * max(float(y @ y), 1e-300)
    constant = (variance_x <= tiny_x) | (variance_y <= tiny_y)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = covariance / np.sqrt(variance_x * variance_y)
    return np.asarray(np.where(constant, WORST_CORRELATION, np.clip(r, -1, 1)))


def _weighted_auroc(truth: Floats, scores: Floats, counts: Floats) -> Floats:
    """Share of pairs (positive, negative) in order, a tie counting half."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    sorted_counts, positive = counts[:, order], truth[order] == 1
    positives = np.add.reduceat(sorted_counts * positive, starts, axis=1)
    negatives = np.add.reduceat(sorted_counts * ~positive, starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives
    won = (positives * (below + 0.5 * negatives)).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(won / (positives.sum(1) * negatives.sum(1)))


def _weighted_f1(truth: Floats, chosen: Floats, counts: Floats) -> Floats:
    """Mean over the classes that occur in the resampling, true or chosen, of F1."""
    total, seen = np.zeros(len(counts)), np.zeros(len(counts))
    for label in np.union1d(truth, chosen):
        true, found = truth == label, chosen == label
        both = counts @ (true & found).astype(float)
        either = counts @ true.astype(float) + counts @ found.astype(float)
        occurs = either > 0
        total += np.where(occurs, 2 * both / np.where(occurs, either, 1), 0)
        seen += occurs
    return np.asarray(total / seen)


def draw_cases(truth: Floats, repeats: int, seed: int, within_classes: bool) -> Floats:
    """Resamplings of the cases with replacement: (repeats, N) how often each was drawn.

    With `within_classes` every class keeps its number of cases, so AUROC stays defined.
    """
    random = np.random.default_rng(seed)
    counts = np.zeros((repeats, len(truth)))
    groups = [np.flatnonzero(truth == c) for c in np.unique(truth)] if within_classes else []
    for members in groups or [np.arange(len(truth))]:
        equal = np.full(len(members), 1 / len(members))
        counts[:, members] = random.multinomial(len(members), equal, size=repeats)
    return counts


def over_cases(sample: Sample, other: Sample | None = None, repeats: int = 2000) -> Interval:
    """95 % percentile bootstrap interval over the test cases, of a value or a paired difference.

    The draws of the shots stay as they are. NaN with fewer than two cases.
    """
    if len(sample.truth) < 2:
        return float("nan"), float("nan")
    counts = draw_cases(sample.truth, repeats, 0, sample.metric in ("auroc", "f1"))
    values = sample.resampled(counts)
    if other is not None:
        values = values - _paired(sample, other).resampled(counts)
    return _percentiles(values)


def over_draws(sample: Sample, other: Sample | None = None) -> Interval:
    """95 % Student interval over the draws of the shots, of a value or a paired difference.

    The test cases stay as they are. NaN with fewer than two draws.
    """
    values = sample.per_draw()
    if other is not None:
        values = values - _paired(sample, other).per_draw()
    if len(values) < 2:
        return float("nan"), float("nan")
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half


def over_both(sample: Sample, other: Sample | None = None, repeats: int = 2000) -> Interval:
    """95 % interval over test cases and draws together: each is drawn anew in every repeat.

    NaN with fewer than two cases or draws.
    """
    draws = len(sample.answers)
    if draws < 2 or len(sample.truth) < 2:
        return float("nan"), float("nan")
    counts = draw_cases(sample.truth, repeats, 0, sample.metric in ("auroc", "f1"))
    table = np.stack([sample._weighted(row, counts) for row in sample.answers])
    if other is not None:
        paired = _paired(sample, other)
        table = table - np.stack([paired._weighted(row, counts) for row in paired.answers])
    equal = np.full(draws, 1 / draws)
    picks = np.random.default_rng(1).multinomial(draws, equal, size=repeats)
    return _percentiles((picks * table.T).sum(1) / draws)


def permutation_p(
    one: Sample, two: Sample, repeats: int = 10_000, seed: int = 0
) -> float:  # fmt: skip
    """Probability, were the two methods alike, of a difference at least as large as found.

    The two answers to a case are exchanged, for all draws of the shots at once, with probability
    1/2. What does not notice the scale of answers is compared without it: before they are
    exchanged, scores become ranks for AUROC (Venkatraman & Begg 1996) and z-scores for r. Two-sided,
    p = (1 + hits) / (1 + repeats); 1 where the difference is undefined, as of an AUROC of one class.
    """
    two = _paired(one, two)
    random = np.random.default_rng(seed)
    a, b = (_on_common_scale(s) for s in (one, two))
    observed = abs(a.value() - b.value())
    if not np.isfinite(observed):
        return 1.0
    hits = 0
    step = max(1, _AT_ONCE // max(1, a.answers.size))
    for start in range(0, repeats, step):
        swap = random.random((min(step, repeats - start), 1, len(a.truth))) < 0.5
        difference = _values(a, np.where(swap, b.answers, a.answers)) - _values(
            b, np.where(swap, a.answers, b.answers)
        )
        hits += int((np.abs(difference) >= observed - 1e-12).sum())
    return (1 + hits) / (1 + repeats)


def _on_common_scale(sample: Sample) -> Sample:
    answers = sample.answers
    if sample.metric == "auroc":
        answers = rankdata(answers, axis=1)
    elif sample.metric == "r":
        spread = answers.std(axis=1, keepdims=True)
        answers = (answers - answers.mean(axis=1, keepdims=True)) / np.where(spread > 0, spread, 1)
    return Sample(sample.metric, sample.truth, answers)


def _values(sample: Sample, answers: Floats) -> Floats:
    """The metric of (B, D, N) answers, averaged over the draws: (B,)."""
    metric, truth = sample.metric, sample.truth
    if metric in ("dice", "nsd"):
        found = answers.mean(-1)
    elif metric == "mae":
        found = np.abs(answers - truth).mean(-1)
    elif metric == "r":
        x = truth - truth.mean()
        y = answers - answers.mean(-1, keepdims=True)
        norm = np.sqrt((x**2).sum() * (y**2).sum(-1))
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.where(norm > 0, (x * y).sum(-1) / norm, WORST_CORRELATION)
    elif metric == "auroc":
        positive = truth == 1
        p, n = int(positive.sum()), int((~positive).sum())
        ranks = rankdata(answers, axis=-1)
        found = (ranks[..., positive].sum(-1) - p * (p + 1) / 2) / (p * n)
    else:
        found = _f1(truth, answers)
    return np.asarray(found.mean(-1))


def _f1(truth: Floats, chosen: Floats) -> Floats:
    """Mean over the classes, true or chosen, of F1 of (..., N) chosen classes: (...)."""
    total, seen = np.zeros(chosen.shape[:-1]), np.zeros(chosen.shape[:-1])
    for label in np.union1d(truth, chosen):
        true, found = truth == label, chosen == label
        either = true.sum() + found.sum(-1)
        total += np.where(either > 0, 2 * (true & found).sum(-1) / np.maximum(either, 1), 0)
        seen += either > 0
    return total / seen


def holm(p: dict[str, float]) -> dict[str, float]:
    """p-values adjusted by the step-down method of Holm (1979), by the same names."""
    adjusted, largest = {}, 0.0
    for place, name in enumerate(sorted(p, key=lambda n: p[n])):
        largest = max(largest, min(1.0, (len(p) - place) * p[name]))
        adjusted[name] = largest
    return adjusted


def _paired(one: Sample, two: Sample) -> Sample:
    if one.metric != two.metric or one.answers.shape != two.answers.shape:
        raise VCMError(
            f"Two methods have {one.answers.shape} and {two.answers.shape} answers (draws, cases), but a "
            "paired comparison needs the same draws and cases for both: run what is missing."
        )
    if not np.array_equal(one.truth, two.truth):
        raise VCMError("Two methods answered different cases: compare them on the same test set.")
    return two


def _percentiles(values: Floats) -> Interval:
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)
