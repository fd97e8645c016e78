import numpy as np
import pytest

from vcm.errors import VCMError
from vcm.fewshot.comparison.probe import probe, split_cases


def made(scale=1.0, width=20, classes=3, n=150):
    random = np.random.default_rng(0)
    labels = np.arange(n) % classes
    x = random.normal(size=(n, width))
    x[:, :classes] += 2.5 * np.eye(classes)[labels]
    return scale * x, labels


def test_a_split_has_its_shares_of_every_class_and_stratum():
    _, labels = made()
    strata = np.arange(150) // 3 % 5
    split = split_cases(labels, strata)
    assert [len(p) for p in (split.train, split.validation, split.test)] == [60, 15, 75]
    assert len({*split.train, *split.validation, *split.test}) == 150
    for part in (split.train, split.test):
        assert (np.bincount(labels[part]) == len(part) / 3).all()
        assert np.ptp(np.bincount(strata[part])) <= 3
    assert np.array_equal(split.test, split_cases(labels, strata).test)
    assert not np.array_equal(split.test, split_cases(labels, strata, seed=1).test)
    with pytest.raises(VCMError, match="The class 1 has 4 subjects"):
        split_cases([0] * 9 + [1] * 4, [0] * 13)


def test_the_cases_of_a_subject_stay_together():
    _, labels = made()
    subjects = [f"sub-{n}" for n in range(150)]
    alone = split_cases(labels, [0] * 150, subjects=subjects)
    assert np.array_equal(alone.test, split_cases(labels, [0] * 150).test)
    twice = split_cases(np.tile(labels, 2), [0] * 300, subjects=subjects * 2)
    for one, both in zip(vars(alone).values(), vars(twice).values(), strict=True):
        assert np.array_equal(both, [*one, *(one + 150)])


def test_what_is_there_is_read_out_and_what_is_not_is_not():
    x, labels = made()
    split = split_cases(labels, labels)
    found = probe(x, labels, split)
    assert found.auroc > 0.9 and found.f1 > 0.75
    noise = np.random.default_rng(1).normal(size=x.shape)
    assert 0.3 < probe(noise, labels, split).auroc < 0.7


def test_the_scale_of_an_embedding_decides():
    x, labels = made(scale=1e-3)
    split = split_cases(labels, labels)
    small = probe(x, labels, split)
    standardised = probe((x - x.mean(0)) / x.std(0), labels, split)
    assert standardised.f1 > small.f1 + 0.2


def test_it_is_repeatable_and_fairness_compares_groups():
    x, labels = made()
    x[:, :3] += 5 * np.eye(3)[labels]  # so clear that the clean site is read well
    split = split_cases(labels, labels)
    random = np.random.default_rng(2)
    spoiled = random.random(150) < 0.5
    x[spoiled] = random.normal(size=(int(spoiled.sum()), 20))
    variables = {"site": ["b" if s else "a" for s in spoiled]}
    one, two = (probe(x, labels, split, variables, seed=3) for _ in range(2))
    assert one == two
    site = one.groups["auroc"]["site"]
    assert site["a"] > site["b"] + 0.2
    assert one.fairness["auroc"] == pytest.approx(1 - (site["a"] - site["b"]))
