import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from few_shot_brains import write_brains

from vcm.errors import VCMError, VCMWarning
from vcm.fewshot import study as module
from vcm.fewshot.comparison.leaderboard import rank_study
from vcm.fewshot.comparison.ranks import rank_samples
from vcm.fewshot.comparison.samples import bias, estimate, groups, read_runs, sample_of
from vcm.fewshot.methods.catalogue import METHODS, find_method
from vcm.fewshot.methods.closed_form import fit_line
from vcm.fewshot.methods.model import Answer
from vcm.fewshot.methods.pool import Pool, refuse_seen
from vcm.fewshot.preflight import check_study
from vcm.fewshot.study import FewShotStudy, open_tasks, run_study
from vcm.files import read_table
from vcm.imaging.extraction import Brain
from vcm.imaging.volume import read_label_map, write_volume


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    return write_brains(tmp_path_factory.mktemp("brains"))


def age_task(brains, **changes):
    return {
        "kind": "regression",
        "inputs": ["t1"],
        "label": "age",
        "train": {"data": str(brains), "split": "train"},
        "tests": {"held out": {"data": str(brains), "split": "test"}},
    } | changes


@pytest.fixture
def config(brains, tmp_path):
    """A study of one task; what is changed in the task is given as `task`."""

    def made(out="study", task=None, **changes):
        file = tmp_path / "age.yaml"
        file.write_text(json.dumps(age_task(brains, **(task or {}))), encoding="utf-8")
        study = FewShotStudy(
            tasks=[str(file)], methods=["mean", "voxels"], shots=[8], seeds=3,
            out=str(tmp_path / out), steps=40, patch=16, mixed_precision="no", learning_rate=5e-3,
        )  # fmt: skip
        return replace(study, **changes)

    return made


def test_a_study_stores_every_run_and_resumes_where_it_was_stopped(config, monkeypatch):
    whole = run_study(config("whole"))
    calls = []
    once = module.run_once

    def stops(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        once(*arguments)

    monkeypatch.setattr(module, "run_once", stops)
    with pytest.raises(KeyboardInterrupt):
        run_study(config("parts"))
    parts = run_study(config("parts"))
    assert len(calls) == 7

    def comparable(out):
        rows = read_table(out / "results.tsv")
        timed = ("cpu_seconds", "wall_seconds", "peak_bytes")
        return [{k: v for k, v in row.items() if k not in timed} for row in rows]

    assert comparable(parts) == comparable(whole)
    assert len(comparable(whole)) == 6


def test_what_is_stored_gives_values_intervals_and_ranks(config):
    out = run_study(config())
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


def test_an_unfinished_study_is_not_ranked(config):
    """Without its runs the better method would be the worse one, or not be there at all."""
    out = run_study(config())
    with pytest.raises(VCMError, match="repeats is 0: choose 1 or more"):
        rank_study(out, repeats=0)
    assert rank_study(out, repeats=20).ranking.methods == ("voxels", "mean")
    shutil.rmtree(out / "runs" / "age" / "voxels" / "8" / "1")
    with pytest.raises(VCMError, match="of 8 shots there is no run of age, voxels, draw 1"):
        rank_study(out, repeats=20)
    shutil.rmtree(out / "runs" / "age" / "voxels")
    with pytest.raises(VCMError, match="draw 0, age, voxels, draw 1, age, voxels, draw 2"):
        rank_study(out, repeats=20)


def test_cross_validation_answers_every_case_once(brains, config):
    task = {"train": str(brains), "tests": None, "folds": 4}
    out = run_study(config(task=task, seeds=1))
    for run in read_runs(out):
        (answers,) = run.answers.values()
        assert [row["case"] for row in answers] == [f"sub-{n:02}" for n in range(16)]
        for fold, drawn in enumerate(run.record["drawn"]):
            assert len(drawn) == 8, fold


def test_a_network_learns_to_find_the_core(config):
    task = {"label": "dseg", "kind": "segmentation", "classes": ["core"]}
    out = run_study(config(task=task, methods=["mean", "scratch"], shots=[3], seeds=1))
    (methods,) = groups(read_runs(out)).values()
    assert sample_of(methods["scratch"], "held out", "dice").value() > 0.7
    assert sample_of(methods["mean"], "held out", "dice").value() == 0
    assert not list((out / "runs").rglob("checkpoint.pt"))


def test_a_test_case_of_the_training_set_is_refused_by_its_content(brains, config):
    task = {"tests": {"again": {"data": str(brains)}}}
    with pytest.raises(VCMError, match="The test case sub-01 is the training case sub-01"):
        open_tasks(config(task=task))


def test_sessions_of_a_subject_stay_together(brains, tmp_path, config):
    for n in range(6):
        for session in ("ses-1", "ses-2"):
            anat = tmp_path / "twice" / f"sub-{n:02}" / session / "anat"
            anat.mkdir(parents=True)
            scan = brains / f"sub-{n + (8 if session == 'ses-2' else 0):02}" / "anat"
            source = next(scan.glob("*_T1w.nii.gz"))
            (anat / f"sub-{n:02}_{session}_T1w.nii.gz").write_bytes(source.read_bytes())
    rows = [f"sub-{n:02}\t{20 + 9 * n}" for n in range(6)]
    text = "\n".join(["participant_id\tage", *rows])
    (tmp_path / "twice" / "participants.tsv").write_text(text + "\n", encoding="utf-8")
    task = {"train": str(tmp_path / "twice"), "tests": None, "folds": 3}
    (opened,) = open_tasks(config(task=task))
    for pool, tests in opened.rounds(0):
        (test,) = tests.values()
        assert not {c.subject for c in pool.cases} & {c.subject for c in test.cases}
        assert len(test.cases) == 4
    with pytest.raises(VCMError, match="sub-01_ses-2 is of the same subject as the training case"):
        refuse_seen(opened.train.subset([2]), opened.train.subset([3]))


def test_features_are_computed_once_per_scan(config, monkeypatch):
    (task,) = open_tasks(config())
    first = task.train.features("voxels")
    monkeypatch.setattr("vcm.fewshot.methods.pool.features", None)
    assert np.array_equal(task.train.features("voxels"), first)
    assert isinstance(task.train, Pool) and len(first) == 12


def test_a_folder_of_another_study_is_refused_and_more_shots_are_not(config):
    run_study(config(methods=["mean"], seeds=1))
    out = run_study(config(methods=["mean"], seeds=2, shots=[4, 8], workers=1))
    assert len(read_runs(out)) == 4
    other = {"inputs": ["t1", "t2"], "optional": ["t2"]}
    with pytest.raises(VCMError, match="holds a study with other tasks"):
        run_study(config(task=other, methods=["mean"]))


def test_the_random_network_of_another_encoder_is_another_method(config, monkeypatch):
    """Without an encoder it is the default one; beside an encoder it is one of its kind."""
    run_study(config(methods=["mean", "untrained"], reference="mean", seeds=1))
    given = config(methods=["mean", "untrained"], reference="mean", seeds=2, mae="encoder2mm")
    with pytest.raises(VCMError, match="holds a study with other untrained"):
        run_study(given)


def test_another_network_of_the_package_is_not_mixed_with_that_of_before(config):
    kept = run_study(config(methods=["mean"], seeds=1)) / "study.json"
    record = json.loads(kept.read_text(encoding="utf-8"))
    record["joined"]["network of volumes"] = "of an earlier version"
    kept.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(VCMError, match="holds a study with other network of volumes"):
        run_study(config(methods=["mean", "volumes"], seeds=1))


@pytest.mark.parametrize("change", ["label", "scan"])
def test_data_that_changed_since_a_run_are_noticed(brains, config, tmp_path, change):
    """Its runs would be mixed with those of before, each with numbers of other labels or scans."""
    data = tmp_path / "brains"
    shutil.copytree(brains, data)
    task = age_task(data)
    run_study(config(task=task, methods=["mean"], seeds=1))
    if change == "label":
        table = data / "participants.tsv"
        table.write_text(table.read_text().replace("sub-01\t24\t", "sub-01\t42\t"))
    else:
        scan = data / "sub-04" / "anat" / "sub-04_T1w.nii.gz"
        shutil.copy(data / "sub-05" / "anat" / "sub-05_T1w.nii.gz", scan)
        (data / "sub-05").rename(data / "other")
    with pytest.raises(VCMError, match="holds a study with other scans or labels of age"):
        run_study(config(task=task, methods=["mean"], seeds=2, shots=[8]))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tasks": []}, "has no tasks"),
        ({"tasks": ["no.yaml"]}, r"no\.yaml does not exist"),
        ({"seeds": 0}, "has no draws"),
        ({"reference": "volumes"}, "'volumes' is not among the methods"),
        ({"shots": [13]}, "has 12 labelled cases to draw from, fewer than the 13"),
    ],
)
def test_bad_studies_are_refused_before_anything_is_written(config, tmp_path, changes, sentence):
    with pytest.raises(VCMError, match=sentence):
        run_study(config(**changes))
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tests": {}}, "neither tests nor folds"),
        ({"folds": 3}, "has tests and folds"),
        ({"lable": "age"}, "'lable' is not a key of the task in age.yaml: did you mean 'label'"),
        ({"train": {"split": "train"}}, "have no data"),
        ({"train": {"data": "x", "fold": 1}}, "'fold' is not a key of cases"),
        ({"train": {"data": "x"}}, "x does not exist"),
        ({"kind": "embedding"}, "can do the kind embedding"),
        ({"kind": "classification", "label": "sex", "classes": list("FMX")}, "AUROC of two"),
        ({"classes": ["a"], "groups": {"b": [1]}}, "groups of age.yaml are b, its classes a"),
        ({"classes": "ab", "groups": {"a": [1], "b": [2]}}, "are a, b, its classes ab"),
        ({"groups": [1, 4]}, r"groups of age.yaml is \[1, 4\]: give labels for each class"),
        ({"groups": {"rim": [0, 4]}}, "The group rim of age.yaml holds 0: give labels"),
        ({"groups": {"rim": []}}, "The group rim of age.yaml holds no label"),
        ({"groups": {"core": [1, 4], "rim": 4}}, "The label 4 stands in the groups core and rim"),
        ({"tests": ["x"]}, r"tests of age.yaml is \['x'\]: give each a name"),
        ({"tests": {}, "folds": "five"}, "folds of age.yaml is five: give a whole number"),
        ({"classes": [True, False]}, "classes hold yes, no, true or false, which YAML reads as"),
        ({"classes": {"F": 1}}, "give a list, for instance classes: "),
        ({"classes": ["a", "a"]}, "has the class a twice"),
        ({"name": "a/b"}, "The task is called 'a/b', but its runs are folders"),
        ({"tests": {"1.5T/3T": {"data": "x"}}}, "A test of age.yaml is called '1.5T/3T'"),
        (
            {
                "kind": "segmentation",
                "classes": ["a"],
                "label": "dseg",
                "train": {"data": "x", "mask": "dseg"},
            },
            "The mask of age.yaml is dseg, which is its label too",
        ),
        ({"spacing": "two"}, r"spacing is \['two', 'two', 'two'\]: give one or three sizes"),
    ],
)
def test_bad_tasks_of_a_study_are_refused(config, changes, sentence):
    with pytest.raises(VCMError, match=sentence):
        open_tasks(config(task=changes))


def test_two_tasks_of_one_name_are_refused(config):
    with pytest.raises(VCMError, match="Two tasks have one name"):
        open_tasks(config(tasks=config().tasks * 2))


def test_a_missing_brain_mask_is_refused(brains, config):
    train = {"data": str(brains), "mask": "brainmask"}
    with pytest.raises(VCMError, match=r"sub-00 has no \*_brainmask"):
        open_tasks(config(task={"train": train}))


def test_methods_say_what_they_can_do_and_what_their_parents_saw(config):
    with pytest.raises(VCMError, match="'magic' is unknown: for a regression choose mean, voxels"):
        open_tasks(config(methods=["mean", "magic"]))
    with pytest.raises(VCMError, match="'segmenter' cannot do a regression"):
        find_method("segmenter", "regression")
    assert "IXI training" in METHODS["volumes"].parents
    assert METHODS["voxels"].parents == "none"


def test_a_test_map_that_cannot_be_used_is_refused_before_any_training(
    brains, tmp_path, config, monkeypatch
):
    data = shutil.copytree(brains, tmp_path / "changed")
    (path,) = (data / "sub-12").rglob("*_dseg.nii.gz")
    labels = read_label_map(path)
    write_volume(labels.with_data(labels.data * 3), path)
    monkeypatch.setattr(module, "fit", lambda *_: pytest.fail("trained"))
    task = {"label": "dseg", "kind": "segmentation", "classes": ["core"],
            "train": {"data": str(data), "split": "train"},
            "tests": {"held out": {"data": str(data), "split": "test"}}}  # fmt: skip
    with pytest.raises(
        VCMError, match=r"sub-\d\d_dseg.nii.gz holds the label 3, but the task has 1"
    ):
        run_study(config(task=task, methods=["scratch"], shots=[3], seeds=1, reference="scratch"))


def test_one_scan_of_two_subjects_is_refused_in_a_cross_validation(brains, tmp_path, config):
    data = shutil.copytree(brains, tmp_path / "twice")
    scan = data / "sub-04" / "anat" / "sub-04_T1w.nii.gz"
    shutil.copy(data / "sub-07" / "anat" / "sub-07_T1w.nii.gz", scan)
    task = {"train": {"data": str(data)}, "tests": {}, "folds": 3}
    with pytest.raises(VCMError, match="sub-07 and sub-04 hold the same scan"):
        open_tasks(config(task=task))


def test_a_test_of_one_class_is_refused(config, brains, tmp_path):
    rows = ["case\tsequence\tpath\tsex\tsplit"]
    for number, scan in enumerate(sorted(brains.glob("sub-*/anat/*_T1w.nii.gz"))):
        sex = "F" if number < 4 else "FM"[number % 2]
        rows.append(f"c{number}\tt1\t{scan}\t{sex}\t{'test' if number < 4 else 'train'}")
    table = tmp_path / "cases.tsv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    task = {
        "kind": "classification", "classes": ["F", "M"], "label": "sex",
        "train": {"data": str(table), "split": "train"},
        "tests": {"here": {"data": str(table), "split": "test"}},
    }  # fmt: skip
    with pytest.raises(VCMError, match="All 4 cases of the test 'here' of age are of the class F"):
        open_tasks(config(task=task))


def test_brains_that_are_not_found_are_named_before_anything_is_fitted(
    brains, config, tmp_path, monkeypatch
):
    def find_brain(image):
        raise VCMError(f"The brain of {image.source} was not found.")

    monkeypatch.setattr("vcm.fewshot.cases.brain_masks.find_brain", find_brain)
    tests = {"held out": {"data": str(brains), "split": "test", "mask": "found"}}
    with pytest.raises(
        VCMError, match=r"No brain was found in (\d+) of \1 cases .*mask.*Of the first: The brain"
    ):
        run_study(config(task={"tests": tests}))
    assert not (tmp_path / "study").exists()


def test_a_study_looks_for_the_brains_of_its_tests_and_of_the_shots_it_draws(config, brains):
    study = config(task={"train": {"data": str(brains), "split": "train", "mask": "found"}})
    (task,) = open_tasks(study)
    drawn, held_out = module._cases_read(task, study)
    read = {case.name for case in drawn.cases}
    labels = list(task.train.labels)
    strata = module.strata_of(task.task.kind, labels)
    expected = [task.train.subset(module.draw_shots(labels, strata, 8, s)) for s in range(3)]
    assert read == {case.name for pool in expected for case in pool.cases}
    assert held_out is task.tests["held out"]


def test_a_study_that_goes_on_does_not_look_for_the_same_brains_again(brains, config, monkeypatch):
    asked = []

    def find_brain(image):
        asked.append(image.source)
        return Brain(np.ones(image.data.shape, bool), "deepbet 1.0.2", 1000.0)

    monkeypatch.setattr("vcm.fewshot.cases.brain_masks.find_brain", find_brain)
    monkeypatch.setattr("vcm.fewshot.cases.brain_masks._masks", {})
    tests = {"held out": {"data": str(brains), "split": "test", "mask": "found"}}
    task = {"kind": "segmentation", "label": "dseg", "classes": ["core"], "tests": tests}
    run_study(config(task=task, methods=["mean"], seeds=1))
    first = len(asked)
    assert first == len(set(asked)) > 0
    monkeypatch.setattr("vcm.fewshot.cases.brain_masks._masks", {})
    run_study(config(task=task, methods=["mean"], seeds=2))
    assert len(asked) == first


def test_a_class_of_one_side_is_not_taught_on_mirror_images(config):
    task = {"label": "dseg", "kind": "segmentation", "classes": ["Left-Hippocampus"]}
    made = config(task=task, methods=["mean", "scratch"], shots=[3], seeds=1)
    with pytest.raises(VCMError, match="'Left-Hippocampus' of age belongs to one side") as refused:
        check_study(made)
    assert refused.value.argument == "mirror"
    assert check_study(replace(made, mirror=False))
    assert check_study(replace(made, methods=["mean"], reference="mean"))
    sides = {"label": "sex", "kind": "classification", "classes": ["F", "M"]}
    assert check_study(config(task=sides, methods=["mean", "scratch"]))
    sides["classes"] = ["left sided", "right sided"]
    with pytest.raises(VCMError, match="'left sided' of age belongs to one side"):
        check_study(config(task=sides, methods=["mean", "scratch"]))


def test_probabilities_near_one_are_told_apart(brains, config):
    """Scans of another study lie far from the line that was fitted: 1 - 1e-12 is not 1 - 1e-10."""
    task = {"label": "sex", "kind": "classification", "classes": ["F", "M"]}
    task |= {"train": str(brains), "tests": None, "folds": 4}
    (opened,) = open_tasks(config(task=task, methods=["mean"]))
    pool = opened.train
    model = fit_line("voxels", pool.task, "voxels", np.eye(4), np.array([0.0, 1, 0, 1]))
    probabilities = [1 - 10.0**-n for n in (9, 10, 11, 12)]
    model.answer_features = lambda x: Answer(probabilities=np.array([1 - x, x]))
    cases = replace(pool, cases=pool.cases[:4], _labels=np.array([0.0, 0, 1, 1]))
    object.__setattr__(cases, "features", lambda name: probabilities)
    answers = [float(row["answer"]) for row in module.answer_cases(model, cases)]
    assert answers == probabilities


def test_shots_that_a_later_draw_has_no_cases_for_are_refused_before_the_first(tmp_path, config):
    """Subjects of 1, 2, 3 and 4 sessions: which share a fold, and so how many are left, depends on the draw."""
    random = np.random.default_rng(0)
    for subject in range(1, 5):
        for session in range(subject):
            name = f"sub-{subject}_ses-{session}"
            anat = tmp_path / "cases" / f"sub-{subject}" / f"ses-{session}" / "anat"
            anat.mkdir(parents=True)
            data = random.random((8, 8, 8), dtype=np.float32)
            nib.save(nib.Nifti1Image(data, np.eye(4)), anat / f"{name}_T1w.nii.gz")
    rows = [f"sub-{subject}\t{30 + subject}" for subject in range(1, 5)]
    text = "\n".join(["participant_id\tage", *rows])
    (tmp_path / "cases" / "participants.tsv").write_text(text, encoding="utf-8")
    task = {"train": str(tmp_path / "cases"), "tests": None, "folds": 2}
    (opened,) = open_tasks(config(task=task, shots=[1]))
    left = [min(len(pool.cases) for pool, _ in opened.rounds(seed)) for seed in range(20)]
    later = next(seed for seed in range(20) if left[seed] < left[0])
    open_tasks(config(task=task, shots=[left[0]], seeds=later))
    with pytest.raises(VCMError, match=f"has {left[later]} labelled cases to draw from"):
        open_tasks(config(task=task, shots=[left[0]], seeds=later + 1))


def test_label_maps_of_all_cases_are_read_before_the_first_run(brains, tmp_path, config):
    """A wrong map of a later draw would end the study after hours; a label that the test alone has is no class."""
    copied = tmp_path / "copied"
    shutil.copytree(brains, copied)
    for name, value in (("sub-00", 3), ("sub-01", -1)):
        (file,) = copied.glob(f"{name}/anat/*_dseg.nii.gz")
        image = nib.load(file)
        labels = np.asarray(image.dataobj).astype(np.int16) * value
        nib.save(nib.Nifti1Image(labels, image.affine), file)
    task = {"kind": "segmentation", "label": "dseg", "classes": ["core"], "groups": {"core": [1]}}
    task |= {"train": {"data": str(copied), "split": "train"}}
    task |= {"tests": {"there": {"data": str(copied), "split": "test"}}}
    made = config(task=task, methods=["mean"], shots=[11], seeds=1)
    with pytest.raises(VCMError, match=r"sub-01_dseg\.nii\.gz holds the negative label -1"):
        run_study(made)
    assert not Path(made.out).exists()
    shutil.rmtree(copied / "sub-01")
    table = copied / "participants.tsv"
    table.write_text(table.read_text().replace("sub-01\t24\tM\ttrain\n", ""))
    with pytest.warns(VCMWarning, match="the test 'there' of age hold 3, which no group"):
        run_study(made)
