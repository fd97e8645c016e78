"""The two-sample test: closed forms of the area, and sets that are, and are not, told apart."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from vcm.evaluation.two_sample import ClassifierSettings, area_under_curve, two_sample_test

pytestmark = pytest.mark.slow

SMALL = ClassifierSettings(
    steps=60, batch=4, crop=16, channels=(8, 8), scored=8, learning_rate=5e-3
)


def noises(count: int, seed: int, spread: float = 0.1) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [0.5 + spread * random.standard_normal((24, 24, 24)) for _ in range(count)]


def test_the_area_counts_pairs_and_halves_ties() -> None:
    assert area_under_curve(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 1.0
    assert area_under_curve(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 0.0
    assert area_under_curve(np.array([1.0, 1.0]), np.array([1.0, 1.0])) == 0.5
    assert area_under_curve(np.array([0.0, 2.0]), np.array([1.0, 3.0])) == 0.75


def test_the_area_is_that_of_scikit_learn() -> None:
    first, second = np.random.default_rng(0).integers(0, 9, (2, 30)).astype(float)
    expected = roc_auc_score(np.repeat([0, 1], 30), np.concatenate([first, second]))
    assert area_under_curve(first, second) == pytest.approx(expected)


def test_smooth_volumes_are_told_from_rough_ones() -> None:
    smooth = [(v + np.roll(v, 1, 0) + np.roll(v, 1, 1)) / 3 for v in noises(8, 1)]
    found = two_sample_test(noises(8, 0), smooth, settings=SMALL)
    assert found["auc"] > 0.95
    assert found["low"] <= found["auc"] <= found["high"]


def test_a_faint_blur_of_smooth_volumes_is_seen() -> None:
    """Most power lies at low frequencies, as in a scan, and the blur takes some of the little above."""
    broad = [sum(np.roll(v, s, a) for a in range(3) for s in range(4)) for v in noises(8, 0, 0.02)]
    sharp = [v / 12 * 4 + 0.3 * n for v, n in zip(broad, noises(8, 5, 0.02), strict=True)]
    blurred = [(2 * v + np.roll(v, 1, 0) + np.roll(v, -1, 0)) / 4 for v in sharp]
    assert two_sample_test(sharp, blurred, settings=SMALL)["auc"] > 0.9


def test_two_draws_of_one_kind_are_not_told_apart() -> None:
    found = two_sample_test(noises(12, 0), noises(12, 1), settings=SMALL)
    assert found["low"] < 0.5 < found["high"]


def test_the_same_seed_gives_the_same_area() -> None:
    first, second = noises(6, 0), noises(6, 1)
    assert two_sample_test(first, second, 3, SMALL) == two_sample_test(first, second, 3, SMALL)


def test_too_few_volumes_give_no_number() -> None:
    assert np.isnan(two_sample_test(noises(3, 0), noises(9, 1), settings=SMALL)["auc"])


def test_sets_of_different_sizes_have_an_interval_too() -> None:
    found = two_sample_test(noises(6, 0), noises(5, 1), settings=SMALL)
    assert 0 <= found["low"] <= found["high"] <= 1
    assert np.isfinite(found["auc"])


def test_volumes_that_cannot_be_compared_are_refused() -> None:
    holed = noises(4, 0)
    holed[2][3, 3, 3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        two_sample_test(noises(4, 1), holed, settings=SMALL)
    with pytest.raises(ValueError, match="shapes differ"):
        two_sample_test(noises(4, 1), [v[:-2] for v in noises(4, 0)], settings=SMALL)
