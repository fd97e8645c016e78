import numpy as np
import pytest
from scipy.stats import kstest

from vcm.errors import VCMError
from vcm.fewshot.comparison import metrics
from vcm.fewshot.comparison.resampling import (
    Sample,
    draw_cases,
    holm,
    over_both,
    over_cases,
    over_draws,
    permutation_p,
    weighted_metric,
)  # fmt: skip

DIRECT = {
    "auroc": metrics.auroc,
    "f1": metrics.macro_f1,
    "mae": metrics.mean_absolute_error,
    "r": metrics.correlation,
    "dice": lambda _, values: float(np.mean(values)),
}


def made(metric, seed, cases=30, draws=4, skill=1.0):
    random = np.random.default_rng(seed)
    if metric in ("auroc", "f1"):
        truth = np.r_[0, 1, random.integers(0, 2, cases - 2)].astype(float)
        answers = (skill * truth + random.normal(size=(draws, cases))).round(1)
        return Sample(metric, truth, (answers > 0.5).astype(float) if metric == "f1" else answers)
    truth = random.normal(50, 10, cases)
    answers = skill * truth + random.normal(0, 10, (draws, cases))
    return Sample(metric, truth, answers / 100 if metric == "dice" else answers)


@pytest.mark.parametrize("metric", DIRECT)
def test_a_resampling_is_the_metric_of_the_repeated_cases(metric):
    sample = made(metric, 3)
    counts = draw_cases(sample.truth, 20, 1, metric in ("auroc", "f1"))
    assert (counts.sum(1) == len(sample.truth)).all()
    for row, found in zip(
        counts, weighted_metric(metric, sample.truth, sample.answers[0], counts), strict=True
    ):
        again = np.repeat(np.arange(len(row)), row.astype(int))
        direct = DIRECT[metric](sample.truth[again], sample.answers[0][again])
        assert found == pytest.approx(direct, abs=1e-9)


def test_a_constant_answer_has_the_worst_correlation_in_every_resampling():
    sample = Sample("r", np.arange(5.0), np.full((1, 5), 33.3))
    assert (sample.resampled(draw_cases(sample.truth, 9, 0, False)) == -100).all()


def test_classes_keep_their_numbers_of_cases():
    truth = np.array([0.0] * 7 + [1.0])
    assert (draw_cases(truth, 50, 0, True)[:, -1] == 1).all()
    assert not (draw_cases(truth, 50, 0, False)[:, -1] == 1).all()


def test_the_interval_over_cases_of_a_mean_is_that_of_the_normal_distribution():
    sample = made("dice", 0, cases=400, draws=1)
    values = sample.answers[0]
    low, high = over_cases(sample)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=half / 8)


def test_the_interval_over_draws_is_students():
    sample = Sample("dice", np.zeros(2), np.array([[0.1, 0.1], [0.2, 0.2], [0.6, 0.6]]))
    half = 4.302653 * np.std([0.1, 0.2, 0.6], ddof=1) / np.sqrt(3)
    assert over_draws(sample) == pytest.approx((0.3 - half, 0.3 + half))


def test_both_together_are_wider_than_either():
    one = made("mae", 1)
    two = Sample("mae", one.truth, one.answers + np.random.default_rng(2).normal(0, 9, (4, 30)))
    widths = [np.diff(f(one, two))[0] for f in (over_cases, over_both)]
    assert widths[1] > widths[0] > 0
    assert np.ptp(over_both(Sample("dice", np.zeros(9), np.ones((3, 9))))) == 0


def test_a_paired_difference_of_a_method_and_itself_is_nothing():
    sample = made("r", 5)
    assert over_cases(sample, sample) == over_both(sample, sample) == (0, 0)


def test_one_draw_or_case_has_no_interval():
    assert np.isnan(over_draws(made("mae", 0, draws=1))).all()
    assert np.isnan(over_cases(Sample("mae", np.ones(1), np.ones((2, 1))))).all()


@pytest.mark.parametrize("metric", ["mae", "auroc", "r", "f1"])
def test_p_is_uniform_where_methods_are_alike(metric):
    found = []
    for seed in range(100):
        sample = made(metric, seed, cases=24, draws=2)
        one, two = (Sample(metric, sample.truth, row[None]) for row in sample.answers)
        found.append(permutation_p(one, two, repeats=199, seed=seed))
    # F1 takes few values, so its p is at least, not exactly, uniform.
    against = {"alternative": "greater"} if metric == "f1" else {}
    assert kstest(found, "uniform", **against).pvalue > 0.01


def test_p_is_small_where_one_method_is_better():
    truth = np.random.default_rng(0).normal(50, 10, 40)
    good = Sample("mae", truth, truth[None] + 1)
    bad = Sample("mae", truth, truth[None] + 5)
    assert permutation_p(good, bad, repeats=999) == 0.001
    assert permutation_p(good, good, repeats=99) == 1


def test_what_does_not_notice_scale_is_not_told_apart_by_it():
    truth = np.random.default_rng(1).normal(50, 10, 30)
    answers = truth + np.random.default_rng(2).normal(0, 10, 30)
    same = Sample("r", truth, 0.01 * answers[None])
    assert permutation_p(Sample("r", truth, answers[None]), same, repeats=199) == 1


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx(
        {"a": 0.03, "c": 0.06, "b": 0.06}
    )


def test_other_cases_or_draws_are_not_compared():
    one = made("mae", 0)
    with pytest.raises(VCMError, match="same draws and cases"):
        over_cases(one, made("mae", 0, draws=2))
    with pytest.raises(VCMError, match="different cases"):
        over_cases(one, made("mae", 9))
    with pytest.raises(VCMError, match="missing"):
        Sample("mae", np.zeros(2), np.array([[1.0, np.nan]]))


def test_an_undefined_difference_tells_nothing_apart():
    random = np.random.default_rng(0)
    one, two = (Sample("auroc", np.zeros(9), random.normal(size=(2, 9))) for _ in range(2))
    assert permutation_p(one, two, 100) == 1
