import numpy as np
import pytest
import torch
from few_shot_brains import write_brains

from vcm.errors import VCMError
from vcm.fewshot import fitting
from vcm.fewshot.cases.layouts import Target, find_cases
from vcm.fewshot.cases.tasks import task_from
from vcm.fewshot.configuration import Encoders, FewShotStudy
from vcm.fewshot.methods import features
from vcm.fewshot.methods.catalogue import find_method, for_task
from vcm.fewshot.methods.features import VIEWS
from vcm.fewshot.methods.parents import parent_name
from vcm.fewshot.methods.pool import Pool
from vcm.fewshot.study import answer_cases
from vcm.imaging.volume import Volume

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


@pytest.mark.parametrize(
    ("slot", "feature", "parent"),
    [
        ("t1", "volumes", "segmenter2mm"),
        ("t1ce", "volumes", "segmenter2mm"),
        ("flair", "anyvolumes", "anysegmenter2mm"),
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


def test_a_mask_of_the_first_scan_serves_scans_of_other_voxels():
    """As the brain that is found in the first one does for a task of several sequences."""
    random = np.random.default_rng(0)
    fine = Volume(random.random((40, 44, 40)).astype(np.float32) + 0.5, np.diag([4.0, 4, 4, 1]))
    coarse = Volume(fine.data[::2, ::2, ::2].copy(), np.diag([8.0, 8, 8, 1]))
    inside = np.zeros(fine.data.shape, np.uint8)
    inside[8:32, 8:36, 8:32] = 1
    mask = fine.with_data(inside)
    found = features.features("coarse", {"t1": fine, "t2": coarse}, ("t1", "t2"), mask)
    own = coarse.with_data(inside[::2, ::2, ::2].copy())
    expected = features.features("coarse", {"t2": coarse}, ("t2",), own)
    assert np.abs(found[len(expected) :] - expected).mean() < 0.02 < expected.mean()
    elsewhere = Volume(own.data, np.diag([9.0, 8, 8, 1]))
    with pytest.raises(VCMError, match="does not lie on the voxels"):
        features.features("coarse", {"t1": fine, "t2": coarse}, ("t1", "t2"), elsewhere)
