import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from vcm.errors import VCMError
from vcm.fewshot import study as module
from vcm.fewshot.methods import METHODS, find_method
from vcm.fewshot.pool import Pool
from vcm.fewshot.ranks import rank_samples
from vcm.fewshot.samples import bias, estimate, groups, read_runs, sample_of
from vcm.fewshot.study import FewShotStudy, open_tasks, run_study
from vcm.files import read_table


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    """Cubes of noise whose core grows darker with age; a mask of the core beside each."""
    folder = tmp_path_factory.mktemp("brains")
    rows = ["participant_id\tage\tsex\tsplit"]
    random = np.random.default_rng(0)
    for n in range(16):
        age = 20 + 4 * n
        data = random.normal(800, 10, (16, 16, 16)).astype(np.float32)
        mask = np.zeros((16, 16, 16), np.uint8)
        mask[5:11, 5:11, 5:11] = 1
        data[mask > 0] = 600 - 6 * age
        name = f"sub-{n:02}"
        anat = folder / name / "anat"
        anat.mkdir(parents=True)
        affine = np.diag([4.0, 4, 4, 1])
        nib.save(nib.Nifti1Image(data, affine), anat / f"{name}_T1w.nii.gz")
        nib.save(nib.Nifti1Image(mask, affine), anat / f"{name}_dseg.nii.gz")
        rows.append(f"{name}\t{age}\t{'FM'[n % 2]}\t{'test' if n % 4 == 0 else 'train'}")
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def age_task(brains, **changes):
    return {
        "task": {"kind": "regression", "inputs": ["t1"]},
        "label": "age",
        "train": {"data": str(brains), "split": "train"},
        "tests": {"held out": {"data": str(brains), "split": "test"}},
    } | changes


def config(brains, out, **changes):
    base = FewShotStudy(
        tasks={"age": age_task(brains)},
        methods=["mean", "voxels"],
        shots=[8],
        seeds=3,
        out=str(out),
    )
    return replace(base, **changes)


def test_a_study_stores_every_run_and_goes_on_where_it_was_stopped(brains, tmp_path, monkeypatch):
    whole = run_study(config(brains, tmp_path / "whole"))
    calls = []
    once = module.run_once

    def stops(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        once(*arguments)

    monkeypatch.setattr(module, "run_once", stops)
    with pytest.raises(KeyboardInterrupt):
        run_study(config(brains, tmp_path / "parts"))
    run_study(config(brains, tmp_path / "parts"))
    assert len(calls) == 7

    def comparable(out):
        rows = read_table(out / "results.tsv")
        timed = ("cpu_seconds", "wall_seconds", "peak_bytes")
        return [{k: v for k, v in row.items() if k not in timed} for row in rows]

    assert comparable(tmp_path / "parts") == comparable(whole)
    assert len(comparable(whole)) == 6


def test_what_is_stored_gives_values_intervals_and_ranks(brains, tmp_path):
    out = run_study(config(brains, tmp_path))
    found = groups(read_runs(out))
    (methods,) = found.values()
    assert list(found) == [("age", "held out", 8)]
    mae = {m: sample_of(runs, "held out", "mae") for m, runs in methods.items()}
    assert mae["voxels"].value() < 6 < 12 < mae["mean"].value()
    assert abs(bias(mae["voxels"])) < 6
    difference = estimate(mae["voxels"], mae["mean"])
    assert difference.value < 0 and difference.both[0] < difference.value < difference.both[1]
    assert rank_samples({"age": {"mae": mae}}, repeats=100).methods[0] == "voxels"
    drawn = [r.record["drawn"] for r in methods["voxels"]]
    assert drawn == [r.record["drawn"] for r in methods["mean"]]
    assert len({json.dumps(d) for d in drawn}) > 1
    assert all(len(d[0]) == 8 for d in drawn)


def test_cross_validation_answers_every_case_once(brains, tmp_path):
    task = age_task(brains, train={"data": str(brains)}, folds=4)
    task.pop("tests")
    out = run_study(config(brains, tmp_path, tasks={"age": task}, seeds=1))
    for run in read_runs(out):
        (answers,) = run.answers.values()
        assert [row["case"] for row in answers] == [f"sub-{n:02}" for n in range(16)]
        for fold, drawn in enumerate(run.record["drawn"]):
            assert len(drawn) == 8, fold


def test_a_network_learns_to_find_the_core(brains, tmp_path):
    task = age_task(
        brains, label="dseg", task={"kind": "segmentation", "inputs": ["t1"], "classes": ["core"]}
    )
    training = {"steps": 40, "patch": 16, "mixed_precision": "no", "learning_rate": 5e-3}
    out = run_study(
        config(brains, tmp_path, tasks={"core": task}, methods=["mean", "scratch"], shots=[3],
               seeds=1, training=training)
    )  # fmt: skip
    (methods,) = groups(read_runs(out)).values()
    assert sample_of(methods["scratch"], "held out", "dice").value() > 0.7
    assert sample_of(methods["mean"], "held out", "dice").value() == 0
    assert not list((out / "runs").rglob("checkpoint.pt"))


def test_a_test_case_of_the_training_set_is_refused_by_its_content(brains, tmp_path):
    task = age_task(brains, tests={"again": {"data": str(brains)}})
    with pytest.raises(VCMError, match="The test case sub-01 is the training case sub-01"):
        open_tasks(config(brains, tmp_path, tasks={"age": task}))


def test_features_are_computed_once_per_scan(brains, tmp_path, monkeypatch):
    (task,) = open_tasks(config(brains, tmp_path))
    first = task.train.features("voxels")
    monkeypatch.setattr("vcm.fewshot.pool.features", None)
    assert np.array_equal(task.train.features("voxels"), first)
    assert isinstance(task.train, Pool) and len(first) == 12


def test_a_folder_of_another_study_is_refused_and_more_shots_are_not(brains, tmp_path):
    run_study(config(brains, tmp_path, methods=["mean"], seeds=1))
    run_study(config(brains, tmp_path, methods=["mean"], seeds=2, shots=[4, 8]))
    assert len(read_runs(tmp_path)) == 4
    other = {"age": age_task(brains, label="sex")}
    other["age"]["task"] = {"kind": "classification", "inputs": ["t1"], "classes": ["F", "M"]}
    with pytest.raises(VCMError, match="holds a study with other tasks"):
        run_study(config(brains, tmp_path, tasks=other, methods=["mean"]))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tasks": {}}, "has no tasks"),
        ({"seeds": 0}, "has no draws"),
        ({"reference": "volumes"}, "'volumes' is not among the methods"),
        ({"shots": [13]}, "has 12 labelled cases to draw from, fewer than the 13"),
        ({"training": {"epochs": 3}}, "'epochs' is not a key of training"),
    ],
)
def test_bad_studies_are_refused_before_anything_is_written(brains, tmp_path, changes, sentence):
    out = tmp_path / "study"
    with pytest.raises(VCMError, match=sentence):
        run_study(config(brains, out, **changes))
    assert not (out / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tests": {}}, "either tests or folds"),
        ({"folds": 3}, "either tests or folds"),
        ({"metric": "mae"}, "'metric' is not a key"),
        ({"train": {"split": "train"}}, "has no data"),
        ({"train": {"data": "x", "fold": 1}}, "'fold' is not a key of a source"),
        ({"task": {"kind": "embedding", "inputs": ["t1"]}}, "is an embedding"),
        (
            {"task": {"kind": "classification", "inputs": ["t1"], "classes": list("abc")}},
            "compares AUROC of two",
        ),
    ],
)
def test_bad_tasks_of_a_study_are_refused(brains, tmp_path, changes, sentence):
    with pytest.raises(VCMError, match=sentence):
        open_tasks(config(brains, tmp_path, tasks={"age": age_task(brains, **changes)}))


def test_a_missing_brain_mask_is_refused(brains, tmp_path):
    train = {"data": str(brains), "mask": "brainmask"}
    with pytest.raises(VCMError, match=r"sub-00 has no \*_brainmask"):
        open_tasks(config(brains, tmp_path, tasks={"age": age_task(brains, train=train)}))


def test_methods_say_what_they_can_do_and_what_their_parents_saw(brains, tmp_path):
    with pytest.raises(VCMError, match="'magic' is unknown: for a regression choose mean, voxels"):
        open_tasks(config(brains, tmp_path, methods=["mean", "magic"]))
    with pytest.raises(VCMError, match="'scratch' cannot do a regression"):
        find_method("scratch", "regression")
    assert "IXI training" in METHODS["volumes"].parents
    assert METHODS["voxels"].parents == "none"
