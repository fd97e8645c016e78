"""Answers of a folder of cases, and what they are measured by."""

import json
import re
import warnings

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from vcm.errors import VCMError, VCMWarning
from vcm.fewshot.batch import evaluate_answers, predict_cases
from vcm.fewshot.cases.tasks import task_from
from vcm.fewshot.container.contracts import load_contract
from vcm.fewshot.methods.closed_form import fit_constant
from vcm.fewshot.methods.features import VOXELS_SHAPE, features
from vcm.fewshot.methods.model import FittedModel
from vcm.files import read_table
from vcm.imaging.extraction import Brain
from vcm.imaging.volume import read_volume

PLACE = np.diag([4.0, 4, 4, 1])


def scan(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(list(path.name.encode())).random((8, 8, 8), dtype=np.float32)
    nib.save(nib.Nifti1Image(values, PLACE), path)


def save_map(path, has_lesion=True):
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[1:3, 1:3, 1:3] = has_lesion
    nib.save(nib.Nifti1Image(labels, PLACE), path)


@pytest.fixture
def lesions(tmp_path):
    """Cases with and without a lesion, and answers of no lesion to both."""
    for name, has_lesion in (("sub-1", True), ("sub-2", False)):
        anat = tmp_path / "cases" / name / "anat"
        scan(anat / f"{name}_T1w.nii.gz")
        save_map(anat / f"{name}_dseg.nii.gz", has_lesion)
    task = task_from({"kind": "segmentation", "inputs": ["t1"], "classes": ["lesion"]})
    model = fit_constant(task, np.zeros(1))
    model.record = {"label": "dseg"}
    model.save(tmp_path / "model")
    predict_cases(tmp_path / "model", str(tmp_path / "cases"), tmp_path / "answers")
    return tmp_path / "cases", tmp_path / "answers"


def test_a_truth_without_a_lesion_is_measured(lesions):
    cases, answers = lesions
    save_map(answers / "sub-1.nii.gz")
    found = evaluate_answers(answers, str(cases))
    assert found.values == {"dice": 1.0, "nsd": 0.5}
    assert [row["nsd"] for row in read_table(answers / "cases.tsv")] == ["1.0", "0.0"]


def test_a_truth_in_another_place_than_the_answer_is_refused(lesions):
    cases, answers = lesions
    save_map(answers / "sub-1.nii.gz")
    truth = cases / "sub-1" / "anat" / "sub-1_dseg.nii.gz"
    here = nib.load(truth)
    turn = ornt_transform(io_orientation(here.affine), axcodes2ornt("LPS"))
    nib.save(here.as_reoriented(turn), truth)
    with pytest.raises(
        VCMError, match=r"sub-1_dseg.nii.gz lies up to .* mm beside its scan.*sub-1 that"
    ):
        evaluate_answers(answers, str(cases))
    nib.save(nib.Nifti1Image(np.eye(9, dtype=np.uint8)[..., None].repeat(9, -1), PLACE), truth)
    with pytest.raises(VCMError, match=r"has shape \(9, 9, 9\) and its scan \(8, 8, 8\)"):
        evaluate_answers(answers, str(cases))


@pytest.fixture
def embed(tmp_path):
    """Vectors of cases that have these sequences, by case."""
    length = int(np.prod(VOXELS_SHAPE))
    arrays = {"mean": torch.zeros(length), "scale": torch.ones(length)}
    task = load_contract("fomo26:task6_and_7").task
    FittedModel("voxels", task, "embedding", arrays, feature="voxels").save(tmp_path / "model")

    def embedded(sequences):
        for name, of in sequences.items():
            for sequence in of:
                scan(tmp_path / "cases" / name / "anat" / f"{name}_{sequence}.nii.gz")
        predict_cases(tmp_path / "model", str(tmp_path / "cases"), tmp_path / "answers")
        return {
            name: [q for q in of if np.allclose(np.load(tmp_path / "answers" / f"{name}.npy"), vector(name, q))]
            for name, of in sequences.items()
        }  # fmt: skip

    def vector(name, sequence):
        file = tmp_path / "cases" / name / "anat" / f"{name}_{sequence}.nii.gz"
        return features("voxels", {"input": read_volume(file)}, ("input",))

    return embedded


def test_embeddings_are_of_one_sequence_that_all_cases_have(embed, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = embed({"sub-1": ["T2w"], "sub-2": ["FLAIR", "T1w", "T2w"]})
    assert read == {"sub-1": ["T2w"], "sub-2": ["T2w"]}
    assert "Every embedding is of the sequence t2." in capsys.readouterr().err


def test_embeddings_of_several_sequences_are_told(embed):
    with pytest.warns(
        VCMWarning, match=r"in all 3 cases, so embeddings are of t1 \(2\), flair \(1\)"
    ):
        read = embed({"sub-1": ["T1w"], "sub-2": ["FLAIR", "T1w"], "sub-3": ["FLAIR"]})
    assert read == {"sub-1": ["T1w"], "sub-2": ["T1w"], "sub-3": ["FLAIR"]}


def test_a_case_that_cannot_be_answered_is_named_and_the_others_are_answered(
    lesions, tmp_path, monkeypatch
):
    cases, _ = lesions
    given = (tmp_path / "model", str(cases), tmp_path / "more")
    answer, refused = FittedModel.answer, ["sub-2"]

    def some(self, scans, mask=None):
        name = next(iter(scans.values())).source[:5]
        if name in refused:
            raise VCMError(f"{name} shows no brain.")
        return answer(self, scans, mask)

    monkeypatch.setattr(FittedModel, "answer", some)
    with pytest.raises(VCMError, match=r"^1 of 2 cases have no answer in .*sub-2 shows no brain"):
        predict_cases(*given)
    assert [row["case"] for row in read_table(tmp_path / "more" / "answers.tsv")] == ["sub-1"]
    assert not (tmp_path / "more" / "sub-2.nii.gz").exists()
    refused.append("sub-1")
    with pytest.raises(VCMError, match=r"No case of .* can be answered: sub-1"):
        predict_cases(*given[:2], tmp_path / "none")
    assert not [*(tmp_path / "none").iterdir()]


def test_no_file_of_the_user_is_replaced_by_an_answer(lesions, tmp_path):
    cases, _ = lesions
    mine = tmp_path / "labelsTs" / "sub-2.nii.gz"
    mine.parent.mkdir()
    save_map(mine)
    before = mine.read_bytes()
    with pytest.raises(VCMError, match=r"labelsTs holds sub-2.nii.gz already, which an answer"):
        predict_cases(tmp_path / "model", str(cases), mine.parent)
    assert mine.read_bytes() == before and len(list(mine.parent.iterdir())) == 1


def test_embeddings_are_not_evaluated(embed, tmp_path):
    embed({"sub-1": ["T1w"]})
    with pytest.raises(VCMError, match="holds embeddings, which have no truth"):
        evaluate_answers(tmp_path / "answers", str(tmp_path / "cases"))


def test_cases_whose_brain_is_not_found_are_named_before_any_is_answered(
    lesions, tmp_path, monkeypatch
):
    bad = {"sub-1_T1w.nii.gz"}

    def find_brain(image):
        if image.source in bad:
            raise VCMError("The brain was not found.")
        return Brain(np.ones(image.data.shape, bool), "background", 1.0)

    monkeypatch.setattr("vcm.fewshot.cases.brain_masks.find_brain", find_brain)
    monkeypatch.setattr("vcm.fewshot.cases.brain_masks._masks", {})
    model = FittedModel.load(tmp_path / "model")
    model.record = {"label": "dseg", "mask": "found"}
    model.save(tmp_path / "masked")
    words = tmp_path / "masked", str(lesions[0]), tmp_path / "other"
    with pytest.raises(
        VCMError, match=r"in 1 of 2 cases of .*, sub-1: .* Of the first: The brain was not"
    ):
        predict_cases(*words)
    assert not (tmp_path / "other").exists()
    bad.clear()
    assert not predict_cases(*words).fallbacks


@pytest.mark.parametrize(
    ("learned", "said"),
    [
        (0, "1 of 2 .* have t2, sub-2, and none of the 3"),
        (3, "1 of 2 .* lack t2, sub-1, and all of the 3"),
        (2, ""),
    ],
)
def test_a_sequence_that_all_shots_had_or_none_is_named_where_cases_differ(tmp_path, learned, said):
    for name in ("sub-1", "sub-2"):
        scan(tmp_path / "cases" / name / "anat" / f"{name}_T1w.nii.gz")
    scan(tmp_path / "cases" / "sub-2" / "anat" / "sub-2_T2w.nii.gz")
    task = task_from({"kind": "regression", "inputs": ["t1", "t2"], "optional": ["t2"]})
    model = fit_constant(task, np.array([30.0]))
    model.record = {"optional": {"t2": learned}, "shots": ["a", "b", "c"]}
    model.save(tmp_path / "model")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        predict_cases(tmp_path / "model", str(tmp_path / "cases"), tmp_path / "answers")
    told = [str(w.message) for w in warned if "shots" in str(w.message)]
    assert len(told) == bool(said) and re.search(said, "".join(told))


def test_a_label_of_the_truth_that_no_group_names_is_told(lesions):
    cases, answers = lesions
    card = json.loads((answers / "answers.json").read_text(encoding="utf-8"))
    card["record"]["groups"] = {"lesion": [1, 4]}
    (answers / "answers.json").write_text(json.dumps(card), encoding="utf-8")
    truth = cases / "sub-1" / "anat" / "sub-1_dseg.nii.gz"
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[1:3, 1:3], labels[5, 5] = 1, 3
    nib.save(nib.Nifti1Image(labels, PLACE), truth)
    with pytest.warns(
        VCMWarning, match=r"maps of .*cases hold 3, which no group of the task names"
    ):
        evaluate_answers(answers, str(cases))
