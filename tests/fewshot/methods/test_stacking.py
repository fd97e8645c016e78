import numpy as np
import pytest
import torch
from few_shot_brains import write_brains

from vcm.errors import VCMError
from vcm.fewshot.cases.tasks import task_from
from vcm.fewshot.configuration import FineTuning
from vcm.fewshot.fitting import finetune
from vcm.fewshot.methods.catalogue import find_method, for_task, known_method
from vcm.fewshot.methods.closed_form import fit_line
from vcm.fewshot.methods.model import FittedModel
from vcm.fewshot.methods.stacking import fit_stack, mixtures
from vcm.imaging.volume import read_volume

AGE = task_from({"kind": "regression", "inputs": ["t1"]})
SEX = task_from({"kind": "classification", "inputs": ["t1"], "classes": ["F", "M"]})


def seen_by_two(n=40, seed=0):
    """What two features say of one thing, each with noise of its own, and what a third says: nothing."""
    random = np.random.default_rng(seed)
    truth = random.normal(0, 10, n)
    told = [(truth + random.normal(0, 6, n))[:, None] for _ in range(2)]
    return [*told, random.normal(0, 1, (n, 5))], truth + 50


def answers(model, x):
    return np.array([model.answer_features(row).value for row in x])


def test_the_weights_of_a_mixture_sum_to_one():
    found = list(mixtures(3))
    assert len(found) == len(set(found)) == 66
    assert all(sum(w) == pytest.approx(1) and min(w) >= 0 for w in found)


def test_two_that_know_different_things_are_mixed_and_are_better_than_each():
    (a, b, _), y = seen_by_two(400)
    model = fit_stack("m", AGE, {"volumes": a[:40], "local": b[:40]}, y[:40])
    weights = model.settings["weights"]
    assert min(weights.values()) > 0 and sum(weights.values()) == pytest.approx(1)
    lines = [fit_line("m", AGE, n, x[:40], y[:40]) for n, x in (("volumes", a), ("local", b))]
    each = [answers(line, x[40:]) for line, x in zip(lines, (a, b), strict=True)]
    both = answers(model, np.concatenate([a, b], 1)[40:])
    shares = list(weights.values())
    assert both == pytest.approx(shares[0] * each[0] + shares[1] * each[1], abs=1e-3)
    error, alone = (
        np.abs(found - y[40:]).mean(-1) for found in (both, np.stack(each))
    )  # fmt: skip
    assert error < alone.min()


@pytest.mark.parametrize("seed", range(5))
def test_one_that_says_nothing_is_hardly_heard(seed):
    (a, _, nothing), y = seen_by_two(30, seed)
    model = fit_stack("m", AGE, {"volumes": a, "local": nothing}, y)
    assert model.settings["weights"]["volumes"] >= 0.9
    assert model.settings["out of fold"]["volumes"] < model.settings["out of fold"]["local"]
    model = fit_stack("m", AGE, {"local": nothing, "volumes": a}, y)
    assert model.settings["weights"]["volumes"] >= 0.8


def test_the_first_is_kept_where_another_says_the_same():
    (a, _, _), y = seen_by_two(30)
    model = fit_stack("m", AGE, {"volumes": a, "local": a.copy()}, y)
    assert model.settings["weights"] == {"volumes": 1, "local": 0}


def test_probabilities_are_mixed_by_their_logarithms():
    (a, b, _), y = seen_by_two(60)
    labels = (y > 50).astype(float)
    parts = {"volumes": a, "network": b}
    model = fit_stack("m", SEX, parts, labels)
    lines = [fit_line("m", SEX, n, x, labels) for n, x in parts.items()]
    for row in range(5):
        each = [
            line.answer_features(x[row]).probabilities
            for line, x in zip(lines, (a, b), strict=True)
        ]
        weights = list(model.settings["weights"].values())
        pooled = np.prod([p**w for p, w in zip(each, weights, strict=True)], 0)
        found = model.answer_features(np.concatenate([a[row], b[row]])).probabilities
        assert found == pytest.approx(pooled / pooled.sum(), abs=1e-4)


def test_where_nothing_can_be_left_out_all_weigh_the_same():
    (a, b, _), y = seen_by_two(6)
    labels = np.array([0, 0, 0, 0, 0, 1.0])
    model = fit_stack("m", SEX, {"volumes": a, "local": b}, labels)
    assert model.settings["weights"] == {"volumes": 0.5, "local": 0.5}
    model = fit_stack("m", AGE, {"volumes": a[:2], "local": b[:2]}, y[:2])
    assert model.settings["weights"] == {"volumes": 0.5, "local": 0.5}
    with pytest.raises(VCMError, match="All 6 shots of task have the label F"):
        fit_stack("m", SEX, {"volumes": a, "local": b}, np.zeros(6))


def test_names_joined_by_plus_are_a_method():
    method = find_method("volumes+local", "regression")
    assert method.features == ("volumes", "local") and "segmenter2mm" in method.parents
    assert known_method("voxels+local").parents == "none"
    flair = task_from({"kind": "regression", "inputs": ["flair"]})
    assert for_task(method, flair).features == ("anyvolumes", "local")
    for wrong in ("volumes+nothing", "volumes+volumes", "volumes+views", "latents+denoiser", "+"):
        assert known_method(wrong) is None
    with pytest.raises(VCMError, match=r"joined \(volumes\+local\)"):
        find_method("volumes+nothing", "regression")
    with pytest.raises(VCMError, match="cannot do a segmentation"):
        find_method("volumes+local", "segmentation")


def test_a_fitted_one_answers_alone_as_it_did_through_the_cache(tmp_path):
    brains = write_brains(tmp_path / "brains")
    task = tmp_path / "age.yaml"
    task.write_text(
        f"kind: regression\ninputs: [t1]\nlabel: age\ntrain: {{data: {brains}, split: train}}\n",
        encoding="utf-8",
    )
    folder = finetune(
        FineTuning(task=str(task), method="network+voxels", out=str(tmp_path / "fitted"))
    )
    model = FittedModel.load(folder)
    assert model.feature == "network+voxels" and set(model.settings["parents"]) == {"network"}
    scans = {"t1": read_volume(brains / "sub-01" / "anat" / "sub-01_T1w.nii.gz")}
    cached = [
        np.load(next((tmp_path / "fitted" / "features" / name).glob("*.npy")))
        for name in model.feature.split("+")
    ]
    assert sum(map(len, cached)) == len(model.arrays["mean"])
    assert model.answer(scans).value == pytest.approx(24, abs=15)
    assert torch.equal(model.arrays["weights"], FittedModel.load(folder).arrays["weights"])
