import numpy as np
import pytest
from scipy.stats import rankdata

from vcm.errors import VCMError
from vcm.fewshot.comparison.ranks import (
    FOMO26_WEIGHTS,
    Comparison,
    compare,
    rank,
    rank_samples,
    ranks_of,
    tiers,
)  # fmt: skip
from vcm.fewshot.comparison.resampling import Sample

#: FOMO25, track "method": team, overall rank, AUROC, Dice, NSD, r, MAE, as its page prints them.
METHOD_TRACK = """
FOMO2JOMO 2.7 0.782 0.095 0.071 0.651 10.96
Dolphins_creators 4.8 0.684 0.261 0.232 0.448 12.67
TUKE 5.2 0.75 0.046 0.043 0.602 11.96
MaastrichtU-CDS 5.2 0.688 0.181 0.126 0.599 16.17
FARM 5.3 0.715 0.148 0.113 0.531 13.41
DKFZ_MIC 5.8 0.569 0.171 0.155 0.557 13.31
MIPLAB 6.0 0.473 0.065 0.053 0.632 11.48
prenuvo 6.2 0.649 0.064 0.047 0.626 12.53
fomo25_brain 6.8 0.76 0.006 0.005 0.409 14.85
ashash 7.2 0.789 0.003 0.004 0.37 17.62
biopet 11.5 0.44 0.005 0.002 0.137 18.21
"""
#: Track "open".
OPEN_TRACK = """
LatentCampus 2.7 0.659 0.275 0.243 0.558 16.5
FOMO2JOMO 3.7 0.625 0.039 0.04 0.861 6.8
DKFZ_MIC 4.17 0.569 0.252 0.227 0.556 13.67
MIPLAB 4.50 0.639 0.048 0.046 0.32 14.21
FOMO_HSEE 4.7 0.491 0.184 0.141 0.633 12.27
Raidium 4.8 0.593 0.11 0.093 0.357 14.31
CAMI_SIAT 5.5 0.671 0.007 0.004 0.229 16.42
McGill_PVG 7.3 0.56 0.014 0.007 0.444 18.03
TeamTigerAtFOMO2025 7.5 0.58 0.006 0.007 -0.032 16.79
"""


def published(track):
    rows = [line.split() for line in track.strip().splitlines()]
    columns = {
        "task1": {"auroc": 2}, "task2": {"dice": 3, "nsd": 4}, "task3": {"r": 5, "mae": 6},
    }  # fmt: skip
    values = {
        task: {name: {r[0]: float(r[at]) for r in rows} for name, at in metrics.items()}
        for task, metrics in columns.items()
    }
    return values, {r[0]: r[1] for r in rows}


@pytest.mark.parametrize("track", [METHOD_TRACK, OPEN_TRACK])
def test_overall_ranks_are_those_published(track):
    values, overall = published(track)
    found = rank(values, absent="after last").overall
    for team, printed in overall.items():
        if team == "biopet":
            # Printed with rank 13 among 11 teams in task 1; 11 by its score.
            assert found[team] == pytest.approx((11 + 10.5 + 11) / 3)
            continue
        # The page truncates or rounds to the digits it prints.
        unit = 10.0 ** -len(printed.split(".")[1])
        assert found[team] == pytest.approx(float(printed), abs=0.51 * unit)


def test_ties_share_the_lowest_rank():
    values = np.random.default_rng(0).integers(0, 5, (20, 8)).astype(float)
    assert np.array_equal(ranks_of(values, False), rankdata(values, method="min", axis=-1))
    assert np.array_equal(ranks_of(values, True), rankdata(-values, method="min", axis=-1))


def test_a_method_that_lacks_a_task_is_last_there():
    values = {"task1": {"auroc": {"a": 0.9, "b": 0.8, "c": 0.7}}, "task2": {"dice": {"a": 1.0}}}
    assert rank(values).tasks["task2"] == {"a": 1, "b": 3, "c": 3}
    assert rank(values, absent="after last").tasks["task2"] == {"a": 1, "b": 4, "c": 4}


def test_tasks_weigh_as_the_challenge_says():
    assert sum(FOMO26_WEIGHTS.values()) == pytest.approx(1)
    values = {"task1": {"auroc": {"a": 0.9, "b": 0.8}}, "task2": {"dice": {"a": 0.1, "b": 0.2}}}
    found = rank(values, FOMO26_WEIGHTS)
    assert found.overall == pytest.approx({"a": (1 * 0.1 + 2 * 0.25) / 0.35, "b": 0.45 / 0.35})
    assert found.methods == ("b", "a")
    with pytest.raises(VCMError, match="has no weight"):
        rank({"task9": values["task1"]}, FOMO26_WEIGHTS)
    with pytest.raises(VCMError, match="no method"):
        rank({})
    with pytest.raises(VCMError, match="choose one of"):
        rank({"task1": {"accuracy": {"a": 1.0}}})


def samples(methods=10, sizes=(320, 107, 800)):
    random = np.random.default_rng(0)
    classes, ages = random.integers(0, 2, sizes[0]).astype(float), random.normal(50, 15, sizes[2])
    names = [f"m{i}" for i in range(methods)]
    skills = {m: 1 - i / methods for i, m in enumerate(names)}

    def dices(skill):
        return Sample("dice", np.zeros(sizes[1]), random.normal(skill, 0.2, (1, sizes[1])))

    def scores(skill):
        return Sample("auroc", classes, skill * classes + random.normal(size=(1, sizes[0])))

    age = {m: ages + random.normal(0, 20 - 10 * s, (1, sizes[2])) for m, s in skills.items()}
    return {
        "task1": {"auroc": {m: scores(s) for m, s in skills.items()}},
        "task2": {"dice": {m: dices(s) for m, s in skills.items()}},
        "task3": {
            name: {m: Sample(name, ages, a) for m, a in age.items()} for name in ("mae", "r")
        },
    }


def test_intervals_hold_the_rank():
    found = rank_samples(samples(), repeats=1000)
    assert found.methods[0] == "m0"
    for method in found.methods:
        low, high = found.intervals[method]
        assert 1 <= low <= high <= 10
        assert low - 0.5 <= found.overall[method] <= high + 0.5
    assert sum(found.first.values()) == pytest.approx(1)
    assert found.first["m0"] > 0.8


def test_methods_that_do_not_differ_share_a_tier():
    truth = np.random.default_rng(3).normal(50, 10, 40)
    noise = np.random.default_rng(4).normal(0, 5, (3, 40))
    methods = {
        "a": Sample("mae", truth, truth + noise[:1]),
        "b": Sample("mae", truth, truth + noise[1:2]),
        "c": Sample("mae", truth, truth + noise[2:] + 30),
    }
    comparisons = compare({"mae": methods}, repeats=999)
    assert [(c.one, c.two) for c in comparisons] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert all(c.adjusted >= c.p for c in comparisons)
    assert tiers(["a", "b", "c"], comparisons) == [["a", "b"], ["c"]]


def test_a_tier_is_led_by_its_first():
    pairs = [Comparison("mae", "a", "c", 1.0, 0.001, 0.003)]
    assert tiers(["a", "b", "c", "d"], pairs) == [["a", "b"], ["c", "d"]]
