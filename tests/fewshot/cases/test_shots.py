import numpy as np
import pytest

from vcm.errors import VCMError
from vcm.fewshot.cases.shots import draw_shots, folds_of, strata_of

AGES = np.random.default_rng(0).uniform(20, 80, 60)


def test_a_draw_depends_on_seed_and_pool_alone_and_spreads_over_decades():
    strata = strata_of("regression", AGES)
    one, two = (draw_shots(AGES, strata, 12, seed) for seed in (0, 1))
    assert one == draw_shots(AGES, strata, 12, 0) != two
    assert len(set(one)) == 12
    share = {s: strata.count(s) / 5 for s in set(strata)}
    for s, expected in share.items():
        assert abs(sum(strata[i] == s for i in one) - expected) <= 1


@pytest.mark.parametrize("shots", range(2, 12))
def test_every_class_is_shown_where_there_are_shots_for_it(shots):
    labels = [0.0] * 40 + [1.0] * 2
    drawn = draw_shots(labels, strata_of("classification", labels), shots, 3)
    assert len(drawn) == shots and {labels[i] for i in drawn} == {0.0, 1.0}


def test_all_can_be_drawn_and_no_more():
    assert draw_shots([1, 2, 3], [0, 0, 0], 3, 0) == [0, 1, 2]
    with pytest.raises(VCMError, match="4 shots are asked of a pool of 3"):
        draw_shots([1, 2, 3], [0, 0, 0], 4, 0)
    with pytest.raises(VCMError, match="0 shots"):
        draw_shots([1, 2, 3], [0, 0, 0], 0, 0)


def test_folds_hold_every_case_once_and_spread_the_classes():
    strata = [0] * 31 + [1] * 9
    folds = folds_of(strata, 5, 0)
    assert sorted(np.bincount(folds)) == [8] * 5
    ones = [sum(f == k and s == 1 for f, s in zip(folds, strata, strict=True)) for k in range(5)]
    assert sorted(ones) == [1, 2, 2, 2, 2]
    assert folds != folds_of(strata, 5, 1)
    with pytest.raises(VCMError, match="50 folds are asked of 40"):
        folds_of(strata, 50, 0)
