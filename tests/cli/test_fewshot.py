"""The commands of few-shot work, one after the other, as docs/fewshot.md has them."""

import json

import nibabel as nib
import numpy as np
import pytest
from command_line import vcm
from few_shot_brains import write_brains

from vcm.fewshot.container import sandbox
from vcm.files import read_table
from vcm.imaging import extraction


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    return write_brains(tmp_path_factory.mktemp("brains"))


def task_file(folder, brains, **changes):
    task = {
        "kind": "regression",
        "inputs": ["t1"],
        "label": "age",
        "train": {"data": str(brains), "split": "train"},
        "tests": {"held out": {"data": str(brains), "split": "test"}},
    } | changes
    file = folder / "task.yaml"
    file.write_text(json.dumps(task), encoding="utf-8")
    return file


def refused(done, code, sentence):
    assert done.exit_code == code and sentence in done.error
    assert len(done.error.strip().splitlines()) == 1
    return True


def test_a_regression_from_shots_to_container(brains, tmp_path, monkeypatch):
    run = tmp_path / "run"
    task = task_file(tmp_path, brains)
    assert vcm("fewshot", "finetune", "--task", task, "--shots", 8, "--out", run).exit_code == 0
    card = json.loads((run / "model" / "model.json").read_text("utf-8"))
    assert len(card["record"]["shots"]) == 8
    # Of the file and of the voxels of each.
    assert len(card["record"]["checksums"]) == 16
    again = vcm("fewshot", "finetune", "--task", task, "--out", run)
    assert refused(again, 2, "holds a fitted model")

    answers = tmp_path / "answers"
    words = ("fewshot", "predict", run / "model", brains, "--split")
    assert refused(vcm(*words, "train", "--out", answers), 2, "is one of the shots")
    shot = next((brains / card["record"]["shots"][0]).rglob("*_T1w.nii.gz"))
    copy = tmp_path / "others" / "sub-X" / "anat" / "sub-X_T1w.nii"
    copy.parent.mkdir(parents=True)
    nib.save(nib.load(shot), copy)
    renamed = ("fewshot", "predict", run / "model", tmp_path / "others", "--out", answers)
    assert refused(vcm(*renamed), 2, "sub-X is one of the shots")
    assert vcm(*words, "test", "--out", answers).exit_code == 0
    rows = read_table(answers / "answers.tsv")
    assert [r["case"] for r in rows] == ["sub-00", "sub-04", "sub-08", "sub-12"]
    number = float((answers / "sub-04.txt").read_text("utf-8"))
    assert number == float(rows[1]["answer"]) == pytest.approx(36, abs=12)
    assert refused(vcm(*words, "test", "--out", answers), 2, "holds answers already")

    shown = vcm("fewshot", "evaluate", answers, "--truth", brains, "--split", "test")
    assert "mae " in shown.output and "4 cases, 0 without an answer." in shown.output
    truths = [float(r["truth"]) for r in read_table(answers / "cases.tsv")]
    mae = np.mean([abs(t - float(r["answer"])) for t, r in zip(truths, rows, strict=True)])
    assert f"mae {mae:.3f} [" in shown.output
    everybody = vcm("fewshot", "evaluate", answers, "--truth", brains)
    assert "mae 100.000\n" in everybody.output and "12 without an answer" in everybody.output

    packed = tmp_path / "packed"
    words = ("fewshot", "package", run / "model", "--out", packed, "--contract")
    assert refused(vcm(*words, "fomo26:task5"), 2, "asks for a classification")
    assert vcm(*words, "fomo26:task3").exit_code == 0
    monkeypatch.setattr(sandbox, "works", lambda runtime: runtime == "process")
    missing = vcm("fewshot", "check", packed, "--runtime", "bubblewrap")
    assert refused(missing, 3, "apt-get install bubblewrap")


def test_a_model_of_masked_brains_finds_the_brain_of_a_head(brains, tmp_path, monkeypatch):
    train = {"data": str(brains), "split": "train", "mask": "dseg"}
    task, run = task_file(tmp_path, brains, train=train), tmp_path / "run"
    assert vcm("fewshot", "finetune", "--task", task, "--out", run).exit_code == 0
    words = ("fewshot", "predict", run / "model")
    done = vcm(*words, brains, "--split", "test", "--out", tmp_path / "answers")
    assert done.exit_code == 0
    rows = read_table(tmp_path / "answers" / "answers.tsv")
    assert [float(r["answer"]) for r in rows] == pytest.approx([20, 36, 52, 68], abs=40)
    anat = tmp_path / "heads" / "sub-1" / "anat"
    anat.mkdir(parents=True)
    head = brains / "sub-04" / "anat" / "sub-04_T1w.nii.gz"
    (anat / "sub-1_T1w.nii.gz").write_bytes(head.read_bytes())
    asked: list[str] = []

    def network(image):
        asked.append(image.source)
        return image.data > np.inf

    monkeypatch.setattr(extraction, "_deepbet", network)
    done = vcm(*words, tmp_path / "heads", "--out", tmp_path / "other")
    assert asked and refused(done, 2, "The brain of sub-1_T1w.nii.gz was not found (0 mL")


def test_check_tells_its_runtime_and_what_is_wrong(tmp_path):
    app = tmp_path / "app"
    app.mkdir()
    program = "import sys; open(sys.argv[-1], 'w').write(sys.argv[-1][-3:])"
    (app / "predict.py").write_text(program, encoding="utf-8")
    words = ("fewshot", "check", tmp_path, "--quick", "--runtime", "process")
    assert refused(vcm(*words), 2, "does not tell its contract")
    done = vcm(*words, "--contract", "fomo26:task3")
    assert done.exit_code == 1 and "run with process (nothing is isolated)" in done.output
    assert done.error.count("'txt', which is no number") == 3
    (app / "predict.py").write_text(program.replace("sys.argv[-1][-3:]", "'45'"), encoding="utf-8")
    assert vcm(*words, "--contract", "fomo26:task3").exit_code == 0


def test_a_segmentation_lies_on_the_voxels_of_its_scan(brains, tmp_path):
    task = task_file(tmp_path, brains, kind="segmentation", label="dseg", classes=["core"])
    run, answers = tmp_path / "run", tmp_path / "answers"
    done = vcm("fewshot", "finetune", "--task", task, "--shots", 2, "--method", "scratch", "--out", run,
               "steps=3", "patch=16", "mixed_precision=no")  # fmt: skip
    assert done.exit_code == 0
    kept = json.loads((run / "model" / "model.json").read_text("utf-8"))
    assert kept["settings"]["window"] == 16
    vcm("fewshot", "predict", run / "model", brains, "--split", "test", "--out", answers)
    image = nib.load(answers / "sub-04.nii.gz")
    scan = nib.load(brains / "sub-04" / "anat" / "sub-04_T1w.nii.gz")
    assert image.shape == scan.shape and np.allclose(image.affine, scan.affine)
    shown = vcm("fewshot", "evaluate", answers, "--truth", brains, "--split", "test")
    assert "dice " in shown.output and "nsd " in shown.output


def test_a_classification(brains, tmp_path):
    task = task_file(tmp_path, brains, kind="classification", label="sex", classes=["F", "M"])
    run, answers = tmp_path / "run", tmp_path / "answers"
    assert vcm("fewshot", "finetune", "--task", task, "--shots", 8, "--out", run).exit_code == 0
    vcm("fewshot", "predict", run / "model", brains, "--out", answers, "--split", "test")
    row = read_table(answers / "answers.tsv")[0]
    assert float(row["p F"]) + float(row["p M"]) == pytest.approx(1)
    shown = vcm("fewshot", "evaluate", answers, "--truth", brains, "--split", "test")
    assert "f1 " in shown.output
    wrong = vcm(
        "fewshot", "finetune", "--task", task, "--method", "segmenter", "--out", tmp_path / "x"
    )
    assert refused(wrong, 2, "cannot do a classification")


def test_a_study_writes_its_page_and_is_ranked(brains, tmp_path):
    task, out = task_file(tmp_path, brains), tmp_path / "study"
    words = (
        "fewshot",
        "study",
        "--tasks",
        task,
        "methods=[mean,voxels]",
        "shots=[4,8]",
        "seeds=2",
        f"out={out}",
    )
    done = vcm(*words)
    assert done.exit_code == 0, done.error
    page = (out / "study.md").read_text("utf-8")
    assert "## task: held out (4 cases)" in page and "| 8 | 2 | voxels |" in page
    assert "minus mean" in page and "undefined" in page
    assert (out / "task_held-out_mae.png").is_file()
    rows = read_table(out / "comparisons.tsv")
    assert {(r["shots"], r["metric"], r["method"]) for r in rows} == {
        ("4", "mae", "voxels"), ("8", "mae", "voxels"),
    }  # fmt: skip
    ranked = vcm("fewshot", "rank", out, "--repeats", 99)
    assert ranked.exit_code == 0 and "Ranks at 8 shots" in ranked.output
    assert ranked.output.splitlines()[1].split()[0] == "voxels"
    assert refused(vcm("fewshot", "rank", out, "--shots", 5), 2, "it has 4, 8")
    assert refused(vcm("fewshot", "rank", tmp_path), 2, "holds no complete run")
    assert refused(vcm("fewshot", "rank", out, "--weights", "x"), 2, "'x' are unknown")


def test_index_lists_scans_and_says_what_differs(brains, tmp_path):
    other = tmp_path / "other" / "sub-1" / "anat"
    other.mkdir(parents=True)
    data = np.zeros((20, 20, 20), np.float32)
    data[5:15, 5:15, 5:15] = np.random.default_rng(0).normal(100, 5, (10, 10, 10))
    nib.save(nib.Nifti1Image(data, np.diag([2.0, 2, 2, 1])), other / "sub-1_T1w.nii.gz")
    nib.save(nib.Nifti1Image(data * 0, np.eye(4)), other / "sub-1_FLAIR.nii.gz")
    table = tmp_path / "cases.tsv"
    done = vcm("fewshot", "index", tmp_path / "other", "--out", table, "--against", brains)
    assert done.exit_code == 0
    assert "voxels are 4 x 4 x 4 mm in training and 2 x 2 x 2 mm in the test" in done.output
    assert "with their surroundings in training and brain-extracted in the test" in done.output
    assert "1 readable scans" in done.output and "rejected: sub-1_FLAIR" in done.error
    assert {r["sequence"]: r["masked"] for r in read_table(table)} == {"t1": "yes", "flair": "n/a"}
    again = vcm("fewshot", "index", tmp_path / "other", "--out", table)
    assert refused(again, 2, "exists: give another name")


def test_an_embedding_is_standardised_over_unlabelled_scans(brains, tmp_path):
    run, out = tmp_path / "run", tmp_path / "vectors"
    done = vcm("fewshot", "embed", brains, "--feature", "voxels", "--out", run)
    assert done.exit_code == 0, done.error
    vcm("fewshot", "predict", run / "model", brains, "--out", out)
    vectors = np.stack([np.load(p) for p in sorted(out.glob("*.npy"))])
    assert len(vectors) == 16
    varying = vectors.std(0) > 0.1
    assert varying.sum() > 100
    assert np.allclose(vectors[:, varying].mean(0), 0, atol=1e-2)
    assert np.allclose(vectors[:, varying].std(0), 1, atol=1e-2)
    assert refused(vcm("fewshot", "embed", f"out={tmp_path / 'x'}"), 2, "No scans are given")

    words = ("fewshot", "probe", out, "--labels", brains / "participants.tsv", "--label")
    done = vcm(*words, "sex", "--groups", "split")
    assert done.exit_code == 0, done.error
    assert "macro F1" in done.output and "fairness of auroc" in done.output
    assert refused(vcm(*words, "iq"), 2, "has no column 'iq'")
