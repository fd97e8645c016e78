import numpy as np
import pytest
from few_shot_brains import write_brains

from vcm.fewshot import features, fitting
from vcm.fewshot.configuration import FewShotStudy
from vcm.fewshot.features import VIEWS
from vcm.fewshot.layouts import Target, find_cases
from vcm.fewshot.methods import find_method
from vcm.fewshot.pool import Pool
from vcm.fewshot.study import answer_cases
from vcm.fewshot.tasks import task_from

AGE = task_from({"kind": "regression", "inputs": ["t1"]})


@pytest.fixture
def pool(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SEGMENTER_SHAPE", (16, 16, 16))
    monkeypatch.setattr(features, "SEGMENTER_SPACING", (4.0,) * 3)
    brains = write_brains(tmp_path / "brains")

    def made(split="train", cache="features"):
        return Pool(AGE, Target("age"), find_cases(brains, split), "", tmp_path / cache)

    return made


def test_views_are_of_the_scan_alone_and_begin_with_it(pool):
    found = pool().views()
    assert found.shape == (12, 1 + VIEWS, 8**3)
    assert found[:, 0] == pytest.approx(pool().features("coarse"), abs=1e-6)
    assert np.array_equal(pool(cache="other").subset([5, 2]).views(), found[[5, 2]])
    assert all(np.abs(found[0, 0] - view).max() > 0.01 for view in found[0, 1:])


def test_a_method_with_views_is_fitted_to_them_and_answers_the_scan(pool, tmp_path, monkeypatch):
    seen = {}
    fit_line = fitting.fit_line

    def watched(*given):
        seen["x"], seen["labels"] = given[3], given[4]
        return fit_line(*given)

    monkeypatch.setattr(fitting, "fit_line", watched)
    shots = pool()
    model = fitting.fit(find_method("views", "regression"), shots, FewShotStudy(), tmp_path, 0)
    assert seen["x"].shape == (12 * (1 + VIEWS), 8**3)
    assert seen["labels"].tolist() == np.repeat(shots.labels, 1 + VIEWS).tolist()
    row = answer_cases(model, pool("test"))[0]
    scans, mask = pool("test").scans(0)
    assert float(row["answer"]) == pytest.approx(model.answer(scans, mask).value, abs=1e-2)
