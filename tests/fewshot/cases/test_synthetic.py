import json

import nibabel as nib
import numpy as np
import pytest
from few_shot_brains import write_brains

from vcm.errors import VCMError
from vcm.fewshot import example, fitting
from vcm.fewshot.cases.layouts import Target, find_cases
from vcm.fewshot.cases.synthetic import Recipe, write_synthetic
from vcm.fewshot.cases.tasks import task_from
from vcm.fewshot.comparison.page import summary, write_page
from vcm.fewshot.comparison.samples import read_runs
from vcm.fewshot.configuration import FewShotStudy, SyntheticShots
from vcm.fewshot.methods.catalogue import find_method, known_method
from vcm.fewshot.methods.closed_form import fit_line
from vcm.fewshot.methods.pool import Pool
from vcm.fewshot.study import run_study

AGE = task_from({"kind": "regression", "inputs": ["t1"]})


def test_synthetic_brains_are_cases_that_say_what_they_are(tiny_model, tmp_path):
    recipe = Recipe(3, test=1, steps=1, model=str(tiny_model))
    folder = write_synthetic(tmp_path / "made", recipe)
    cases = find_cases(folder)
    assert [c.values["split"] for c in cases] == ["train", "train", "test"]
    assert [c.values["sex"] for c in cases] == ["F", "M", "F"]
    assert all(22 <= float(c.values["age"]) <= 80 for c in cases)
    path = cases[0].images["t1"]
    card = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
    assert card["Synthetic"] is True and card["Age"] == float(cases[0].values["age"])
    first = nib.load(path).get_fdata()
    path.unlink()
    write_synthetic(folder, recipe)
    assert np.array_equal(nib.load(path).get_fdata(), first)
    with pytest.raises(VCMError, match="were made otherwise"):
        write_synthetic(folder, Recipe(2, test=1, steps=1, model=str(tiny_model)))
    with pytest.raises(VCMError, match="holds no synthetic brains"):
        write_synthetic(tmp_path, recipe)


def test_a_weight_counts_as_so_many_shots():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(12, 3)), random.normal(size=12)
    weights = np.ones(12)
    weights[-4:] = 1e-9
    few = fit_line("m", AGE, "volumes", x, y, weights)
    row = few.answer_features(x[0]).value
    x[-4:] = x[-4:].mean(0)  # the spread is that of all shots, so only labels may not matter
    y[-4:] = 1e3
    assert fit_line("m", AGE, "volumes", x, y, weights).answer_features(x[0]).value < 100
    assert abs(row) < 100


def test_which_methods_take_synthetic_brains():
    method = find_method("volumes+synthetic", "regression")
    assert method.feature == "volumes" and method.synthetic and "ages" in method.parents
    assert known_method("mean+synthetic") is None
    with pytest.raises(VCMError, match="cannot do a segmentation"):
        find_method("mae+synthetic", "segmentation")
    with pytest.raises(VCMError, match="or one be followed by \\+synthetic"):
        find_method("mean+synthetic", "regression")


def test_a_study_adds_synthetic_brains_to_the_shots(tmp_path, monkeypatch):
    brains = write_brains(tmp_path / "brains")
    file = tmp_path / "age.yaml"
    source = {"data": str(brains)}
    file.write_text(json.dumps({
        "kind": "regression", "inputs": ["t1"], "label": "age",
        "train": source | {"split": "train"}, "tests": {"held out": source | {"split": "test"}},
    }))  # fmt: skip
    monkeypatch.setattr(fitting, "write_synthetic", lambda folder, recipe: write_brains(folder))
    config = FewShotStudy(
        tasks=[str(file)], methods=["mean", "voxels", "voxels+synthetic"], shots=[4], seeds=1,
        out=str(tmp_path / "study"), synthetic=16,
    )  # fmt: skip
    run_study(config)
    answers = {r.record["method"]: r.answers["held out"] for r in read_runs(tmp_path / "study")}
    errors = {
        m: np.mean([abs(float(a["answer"]) - float(a["truth"])) for a in rows])
        for m, rows in answers.items()
    }
    assert errors["voxels+synthetic"] < errors["voxels"]


def test_a_label_that_no_synthetic_brain_has_is_refused(tmp_path):
    pool = Pool(AGE, Target("depression"), [], "", tmp_path)
    with pytest.raises(VCMError, match="known age and sex: leave \\+synthetic out"):
        fitting.synthetic_pool(pool, SyntheticShots(), tmp_path / "made")
    with pytest.raises(VCMError, match="each must be above 0"):
        fitting.synthetic_pool(
            Pool(AGE, Target("age"), [], "", tmp_path), SyntheticShots(synthetic=0), tmp_path
        )


def test_the_example_needs_no_data_and_says_that_it_is_synthetic(tmp_path, monkeypatch):
    monkeypatch.setattr(example, "write_synthetic", lambda folder, recipe: write_brains(folder))
    config = FewShotStudy(
        tasks=["example"], methods=["mean", "voxels"], shots=[8], seeds=2, out=str(tmp_path / "s")
    )
    changed = example.with_example(config)
    assert example.with_example(changed) == changed
    page = write_page(run_study(changed)).read_text()
    assert "made by brain2mm" in page and "synthetic brains, age" in page
    assert list((tmp_path / "s").glob("synthetic-brains-age_*_mae.png"))
    lines = summary(tmp_path / "s")
    assert "8 shots: mae" in lines[0] and lines[2].split()[0] == "voxels"
