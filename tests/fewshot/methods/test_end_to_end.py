import nibabel as nib
import numpy as np
import pytest
import torch
from few_shot_brains import write_brains

from vcm.errors import VCMError
from vcm.fewshot.cases.layouts import Target, find_cases
from vcm.fewshot.cases.tasks import task_from
from vcm.fewshot.configuration import FewShotStudy
from vcm.fewshot.fitting import is_tuned
from vcm.fewshot.methods import end_to_end, features
from vcm.fewshot.methods.catalogue import find_method
from vcm.fewshot.methods.end_to_end import (
    LabelledViews,
    TunedNetwork,
    TuningObjective,
    fit_end_to_end,
)
from vcm.fewshot.methods.features import SEGMENTER_SPACING
from vcm.fewshot.methods.model import FittedModel
from vcm.fewshot.methods.pool import Pool
from vcm.fewshot.study import answer_cases

AGE = task_from({"kind": "regression", "inputs": ["t1"]})
SEX = task_from({"kind": "classification", "inputs": ["t1"], "classes": ["F", "M"]})


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for module in (end_to_end, features):
        monkeypatch.setattr(module, "SEGMENTER_SHAPE", (16, 16, 16))
        monkeypatch.setattr(module, "SEGMENTER_SPACING", (4.0,) * 3)
    monkeypatch.setattr(end_to_end, "ENCODER", {"channels": (4, 8), "groups": 2, "patch": 2})
    monkeypatch.setattr(end_to_end, "seen_otherwise", lambda image, random: image)
    assert SEGMENTER_SPACING == (2.0,) * 3


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    """Brains whose dark part grows with age."""
    folder = write_brains(tmp_path_factory.mktemp("brains"))
    for n in range(16):
        path = folder / f"sub-{n:02}" / "anat" / f"sub-{n:02}_T1w.nii.gz"
        data = np.full((16, 16, 16), 800, np.float32)
        data[:, :, : 2 + 3 * n // 4] = 200
        nib.save(nib.Nifti1Image(data, np.diag([4.0, 4, 4, 1])), path)
    return folder


@pytest.fixture
def pool(brains, tmp_path):
    def made(task=AGE, label="age", split="train"):
        return Pool(task, Target(label), find_cases(brains, split), "", tmp_path / "features")

    return made


def training(**changes):
    settings = {
        "tune_steps": 60,
        "tune_learning_rate": 5e-3,
        "mixed_precision": "no",
        "batch_size": 4,
    }
    return FewShotStudy(**(settings | changes))


def test_the_head_begins_at_the_closed_form_solution(pool, tmp_path):
    shots = end_to_end.read_shots(pool())
    network = end_to_end.FewShotUNet(1, 1, (4, 8), 2, 2)
    closed = end_to_end._closed(
        find_method("scratch", "regression"), pool(), "network", network, shots
    )
    with torch.inference_mode():
        start = TunedNetwork(network, closed)(shots.images, shots.present)[:, 0]
        x = end_to_end.pooled(network, shots.images, shots.present)
    expected = [closed.answer_features(row.double().numpy()).value for row in x]
    assert start.numpy() == pytest.approx(np.array(expected), abs=0.05)


def test_a_fine_tuned_model_answers_by_itself_and_says_what_decided(pool, tmp_path):
    method = find_method("scratch", "regression")
    model = fit_end_to_end(method, pool(), training(), tmp_path / "work", 0)
    assert set(model.settings["held back"]) == {"frozen", "tuned"}
    assert model.settings["tuned"] == (
        model.settings["held back"]["tuned"] < model.settings["held back"]["frozen"]
    )
    assert not (tmp_path / "work").exists()
    model.save(tmp_path / "model")
    rows = answer_cases(model, pool(split="test"))
    again = answer_cases(FittedModel.load(tmp_path / "model"), pool(split="test"))
    assert rows == again
    errors = [abs(float(r["answer"]) - float(r["truth"])) for r in rows]
    assert np.median(errors) < 10 < 15 < np.std(pool().labels)


def test_frozen_stays_frozen_where_tuning_makes_it_worse(pool, tmp_path):
    method = find_method("scratch", "regression")
    given = training(tune_steps=8, tune_learning_rate=3.0)
    model = fit_end_to_end(method, pool(), given, tmp_path / "work", 0)
    assert model.settings["tuned"] is False
    rows = answer_cases(model, pool(split="test"))
    assert all(0 < float(r["answer"]) < 120 for r in rows)


def test_classes_are_learned_too(pool, tmp_path):
    method = find_method("scratch", "classification")
    model = fit_end_to_end(
        method, pool(SEX, "sex"), training(tune_steps=2), tmp_path / "work", 0
    )  # fmt: skip
    rows = answer_cases(model, pool(SEX, "sex", "test"))
    assert all(0 <= float(r["answer"]) <= 1 for r in rows)


def test_the_loss_of_a_regression_is_in_units_of_the_spread():
    class Constant(torch.nn.Module):
        def forward(self, images, present):
            return torch.full((len(images), 1), 50.0)

    batch = LabelledViews(torch.zeros(2, 1, 2, 2, 2), torch.ones(2, 1), torch.tensor([50.0, 80.0]))
    loss = TuningObjective(Constant(), 10.0)(batch)["loss"]
    assert loss.item() == pytest.approx((0 + 2.5) / 2)


def test_what_is_fine_tuned():
    mae = find_method("mae", "regression")
    assert not is_tuned(mae, "regression", training())
    assert is_tuned(mae, "regression", training(tune="all"))
    assert not is_tuned(mae, "segmentation", training(tune="all"))
    assert is_tuned(find_method("scratch", "regression"), "regression", training())
    assert not is_tuned(find_method("volumes", "regression"), "regression", training(tune="all"))
    with pytest.raises(VCMError, match="tune is 'both': choose head or all"):
        is_tuned(mae, "regression", training(tune="both"))
