import numpy as np
import pytest
import torch
from few_shot_brains import write_brains

from vcm.fewshot import features, fitting
from vcm.fewshot.configuration import Encoders, FewShotStudy
from vcm.fewshot.features import VIEWS
from vcm.fewshot.layouts import Target, find_cases
from vcm.fewshot.methods import find_method, for_task, known_method
from vcm.fewshot.parents import open_parents, parent_name, untrained_encoder
from vcm.fewshot.pool import Pool
from vcm.fewshot.study import answer_cases
from vcm.fewshot.tasks import task_from
from vcm.imaging.volume import Volume

AGE = task_from({"kind": "regression", "inputs": ["t1"]})


@pytest.fixture
def pool(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SEGMENTER_SHAPE", (16, 16, 16))
    monkeypatch.setattr(features, "SEGMENTER_SPACING", (4.0,) * 3)
    brains = write_brains(tmp_path / "brains")

    def made(split="train", cache="features", parents=None):
        cases = find_cases(brains, split)
        return Pool(AGE, Target("age"), cases, "", tmp_path / cache, parents or {})

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


def test_views_of_what_a_network_pools_begin_with_the_scan(pool, tmp_path):
    method = find_method("untrained+views", "regression")
    assert method.views and method.feature == "untrained" and not method.start
    parents = open_parents([method], Encoders())
    shots = pool("test", parents=parents)
    found = shots.views("untrained")
    assert found.shape == (4, 1 + VIEWS, parents["untrained"].network.feature_count)
    assert found[:, 0] == pytest.approx(shots.features("untrained"), rel=1e-3, abs=1e-4)
    assert all(np.abs(found[0, 0] - view).max() > 1e-3 for view in found[0, 1:])
    model = fitting.fit(method, shots, FewShotStudy(tune="all"), tmp_path / "work", 0)
    assert model.method == "untrained+views" and "parent" in model.settings
    for wrong in ("volumes+views", "latents+views", "views+views", "nothing+views"):
        assert known_method(wrong) is None


def test_the_views_of_a_scan_that_a_case_lacks_are_zero():
    one = task_from({"kind": "regression", "inputs": ["t1", "flair"], "optional": ["flair"]})
    data = np.random.default_rng(0).random((24, 24, 24), np.float32)
    scans = {"t1": Volume(data, np.diag([4.0, 4, 4, 1]))}
    network = untrained_encoder().network
    with torch.inference_mode():
        found = features.views_of_shot(scans, one.slots, None, "untrained", network)
    half = network.feature_count
    assert found.shape == (1 + VIEWS, 2 * half)
    assert np.abs(found[:, :half]).max() > 0 and not found[:, half:].any()


@pytest.mark.parametrize(
    ("slot", "feature", "parent"),
    [
        ("t1", "volumes", "segmenter2mm"),
        ("t1ce", "volumes", "segmenter2mm"),
        ("flair", "anyvolumes", "anysegmenter2mm"),
        ("input", "anyvolumes", "anysegmenter2mm"),
    ],
)
def test_tissues_are_measured_by_the_network_that_knows_the_sequence(slot, feature, parent):
    task = task_from({"kind": "regression", "inputs": [slot]})
    method = for_task(find_method("volumes", "regression"), task)
    assert (method.name, method.feature) == ("volumes", feature)
    assert method.parents.startswith(parent)
    assert parent_name(method.feature, Encoders()) == parent


def test_a_channel_of_lesions_is_no_tissue():
    """It would be the brightest of all here, and a tenth class has no volume."""
    logits = torch.zeros(1, 10, 40, 40, 40)
    logits[:, 1], logits[:, 9] = 1, 2

    class Segmenter:
        device = torch.device("cpu")

        def __call__(self, image):
            return logits

    fractions = features._volumes(torch.zeros(1, 1, 40, 40, 40), Segmenter())
    assert fractions[0] == 1 and len(fractions) == 8
