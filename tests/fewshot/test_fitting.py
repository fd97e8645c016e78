"""An unfinished fit goes on as what it was begun, and as nothing else."""

import json

import pytest
from few_shot_brains import write_brains

from vcm.errors import VCMError
from vcm.fewshot import fitting
from vcm.fewshot.configuration import FineTuning
from vcm.fewshot.fitting import finetune


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def fine_tuning(tmp_path):
    """What begins a fit of the core of generated brains; keys of the task, and of the command, may be changed."""
    brains = write_brains(tmp_path / "brains")

    def made(task=None, **changes):
        file = tmp_path / "core.yaml"
        given = {"kind": "segmentation", "inputs": ["t1"], "classes": ["core"], "label": "dseg",
                 "train": {"data": str(brains), "split": "train"}}  # fmt: skip
        file.write_text(json.dumps(given | (task or {})), encoding="utf-8")
        options = {"method": "scratch", "shots": 2, "steps": 2, "patch": 8, "mixed_precision": "no"}
        return FineTuning(task=str(file), out=str(tmp_path / "run"), **(options | changes))

    return made


@pytest.fixture
def killed(fine_tuning, monkeypatch):
    """A fit that ended after its network was trained, and before its model was written."""

    def stop(method, shots, training, work, seed, synthetic=None):
        work.mkdir()
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(fitting, "fit", stop)
        with pytest.raises(KilledError):
            finetune(fine_tuning())


@pytest.mark.parametrize(
    ("task", "changes", "named"),
    [
        ({}, {"method": "anysegmenter"}, "method, pretrained networks"),
        ({}, {"shots": 3}, "scans or labels"),
        ({}, {"seed": 1}, "seed"),
        ({}, {"mirror": False}, "mirror"),
        ({"groups": {"core": [2]}}, {}, "groups"),
    ],
)
def test_an_unfinished_fit_of_something_else_is_refused(
    killed, fine_tuning, tmp_path, task, changes, named
):
    with pytest.raises(VCMError, match=f"holds an unfinished fit with other .*{named}"):
        finetune(fine_tuning(task, **changes))
    assert not (tmp_path / "run" / "model").exists()


def test_an_unfinished_fit_is_finished(killed, fine_tuning):
    model = finetune(fine_tuning(workers=0))
    assert (model / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"members": 0}, "members is 0: choose 1 or more"),
        ({"steps": 0}, "steps is 0"),
        ({"patch": -8}, "patch is -8: choose 8 voxels or more"),
        ({"learning_rate": -1.0}, "learning_rate is -1"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(fine_tuning, tmp_path, changes, sentence):
    with pytest.raises(VCMError, match=sentence):
        finetune(fine_tuning(**changes))
    assert not (tmp_path / "run").exists()
