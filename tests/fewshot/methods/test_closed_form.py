from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from vcm.errors import VCMError
from vcm.fewshot.cases.tasks import task_from
from vcm.fewshot.methods.closed_form import fit_constant, fit_line

AGE = task_from({"kind": "regression", "inputs": ["t1"]})
SEX = task_from({"kind": "classification", "inputs": ["t1"], "classes": ["F", "M"]})
THREE = task_from({"kind": "classification", "inputs": ["t1"], "classes": ["a", "b", "c"]})


def made(n=24, width=40, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(3, 2, (n, width))
    x[:, 1] = 7.0
    return x, x[:, 0] * 4 + random.normal(0, 1, n) + 50


def standard(x):
    spread = x.std(0)
    return (x - x.mean(0)) / np.where(spread < 1e-6, np.inf, spread)


def test_a_regression_is_ridge_on_standardised_features():
    x, y = made()
    model = fit_line("m", AGE, "volumes", x, y)
    direct = Ridge(alpha=model.settings["penalty"]).fit(standard(x), y)
    for row, expected in zip(x, direct.predict(standard(x)), strict=True):
        assert model.answer_features(row).value == pytest.approx(expected, abs=1e-3)


def test_a_feature_that_is_constant_in_the_shots_is_ignored():
    x, y = made()
    model = fit_line("m", AGE, "volumes", x, y)
    moved = x[0].copy()
    moved[1] += 1e6
    assert model.answer_features(moved).value == pytest.approx(model.answer_features(x[0]).value)


@pytest.mark.parametrize("task", [SEX, THREE])
def test_a_classification_is_logistic_regression_on_standardised_features(task):
    x, y = made(width=60)
    labels = np.digitize(y, np.quantile(y, [0.5] if task is SEX else [0.33, 0.66])).astype(float)
    model = fit_line("m", task, "volumes", x, labels)
    direct = LogisticRegression(C=1 / model.settings["penalty"], max_iter=5000, tol=1e-8)
    expected = direct.fit(standard(x), labels).predict_proba(standard(x))
    found = np.array([model.answer_features(row).probabilities for row in x])
    assert np.allclose(found, expected, atol=5e-3)


def test_a_class_with_one_shot_is_fitted_and_one_class_is_refused():
    x, _ = made(6)
    model = fit_line("m", SEX, "volumes", x, np.array([0, 0, 0, 0, 0, 1.0]))
    assert (
        model.answer_features(x[5]).probabilities[1] > model.answer_features(x[0]).probabilities[1]
    )
    with pytest.raises(VCMError, match="All 6 shots of task have the label F"):
        fit_line("m", SEX, "volumes", x, np.zeros(6))
    with pytest.raises(VCMError, match="have the label 30"):
        fit_line("m", AGE, "volumes", x, np.full(6, 30.0))
    with pytest.raises(VCMError, match="have the label 30"):
        fit_line("m", replace(AGE, classes=("a",)), "volumes", x, np.full(6, 30.0))


def test_a_class_that_no_shot_shows_is_all_but_impossible():
    x, y = made()
    model = fit_line("m", THREE, "volumes", x, (y > np.median(y)).astype(float))
    assert model.answer_features(x[0]).probabilities[2] < 1e-6


def test_a_voxel_that_hardly_varies_over_the_shots_decides_nothing():
    x, y = made()
    x[:, 1] += 1e-4 * np.random.default_rng(1).normal(size=24)
    moved = x[0].copy()
    moved[1] += 3
    change = {
        feature: abs(m.answer_features(moved).value - m.answer_features(x[0]).value)
        for feature in ("voxels", "volumes")
        for m in [fit_line("m", AGE, feature, x, y)]
    }
    assert change["voxels"] < 5 < 50 < change["volumes"]


def test_the_mean_looks_at_nothing():
    assert fit_constant(AGE, np.array([20.0, 40.0])).answer({}).value == 30
    answer = fit_constant(SEX, np.array([0.0, 1, 1, 1])).answer({})
    assert answer.probabilities == pytest.approx([0.25, 0.75])


def test_other_features_are_refused():
    x, y = made()
    with pytest.raises(VCMError, match="3 features and the model 40"):
        fit_line("m", AGE, "volumes", x, y).answer_features(x[0, :3])
