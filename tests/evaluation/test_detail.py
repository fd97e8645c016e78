"""Rows of detail against closed forms."""

from dataclasses import dataclass

import numpy as np
import pytest

from vcm.evaluation.detail import spectrum, spread_over, two_sample
from vcm.evaluation.summary import summarise_detail
from vcm.evaluation.two_sample import ClassifierSettings
from vcm.imaging.spectrum import band_names

FEW_STEPS = ClassifierSettings(steps=3, batch=2, crop=16, channels=(8, 8), scored=2)


@dataclass
class Case:
    name: str


CASES = [Case(name) for name in "abc"]


def noises(count: int, seed: int, edge: int = 24) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.random((edge, edge, edge), dtype=np.float32) for _ in range(count)]


def test_rows_hold_each_subjects_ratio_and_the_summary_their_mean() -> None:
    real = noises(3, 0)
    faded = [0.5 + (v - 0.5) * f for v, f in zip(real, (0.5, 1.0, 0.5), strict=True)]
    rows = spectrum(CASES, real, {"real": real, "faded": faded}, (2.0, 2.0, 2.0))
    assert [(r["arm"], r["subject"]) for r in rows[2:4]] == [("real", "c"), ("faded", "a")]
    summary = summarise_detail(rows, 0)
    for band in band_names():
        assert summary["real"][band]["value"] == pytest.approx(1)
        assert summary["faded"][band]["value"] == pytest.approx((0.25 + 1 + 0.25) / 3, rel=1e-4)
        assert summary["faded"][band]["low"] <= 0.5 <= summary["faded"][band]["high"]


def test_a_band_that_the_grid_does_not_hold_has_no_value() -> None:
    rows = spectrum(CASES[:1], noises(1, 0), {"other": noises(1, 1)}, (5.0, 5.0, 5.0))
    assert rows[0]["0.175-0.2"] is None
    assert summarise_detail(rows, 0)["other"]["0.175-0.2"]["value"] is None


def test_each_set_gives_a_row_with_its_counts() -> None:
    rows = two_sample(noises(5, 0), {"scans": noises(4, 1)}, 0, settings=FEW_STEPS)
    assert [(r["compared"], r["real"], r["others"]) for r in rows] == [("scans", 5, 4)]
    assert 0 <= rows[0]["low"] <= rows[0]["high"] <= 1


def test_too_few_volumes_have_no_value() -> None:
    rows = two_sample(noises(2, 0), {"scans": noises(4, 1)}, 0, settings=FEW_STEPS)
    assert rows[0]["auc"] is None


def test_picks_are_spread_over_all_and_never_more_than_there_are() -> None:
    volumes = [np.full((1, 1, 1), n, np.float32) for n in range(9)]
    assert [int(v.item()) for v in spread_over(volumes, 3)] == [0, 4, 8]
    assert len(spread_over(volumes, 20)) == 9
