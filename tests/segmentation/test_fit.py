"""What `vcm segment fit` writes beside a segmenter."""

import json
from pathlib import Path

import pytest

from vcm.errors import VCMError
from vcm.files import sha256
from vcm.segmentation import fit
from vcm.segmentation.classifier_fit import FitSettings
from vcm.segmentation.labelled import LabelledBrain
from vcm.segmentation.segmenter import FewShotSegmenter


def test_scans_of_one_name_are_each_in_the_record(tmp_path, tiny_denoiser, phantom, monkeypatch):
    monkeypatch.setattr(fit, "load_denoisers", lambda folder: [tiny_denoiser])
    monkeypatch.setattr(fit, "label_table", lambda *a: {0: "background", 1: "one"})
    brain = phantom()
    read = LabelledBrain(brain.image, brain.labels)
    monkeypatch.setattr(fit, "read_labelled", lambda *a: read)
    monkeypatch.setattr(FewShotSegmenter, "fit", lambda *a: None)
    monkeypatch.setattr(FewShotSegmenter, "save_pretrained", lambda self, folder: folder.mkdir())
    scans, labels = (
        [tmp_path / subject / name for subject in ("sub-1", "sub-2")]
        for name in ("T1w.nii.gz", "dseg.nii.gz")
    )
    for path in scans + labels:
        path.parent.mkdir(exist_ok=True)
        path.write_text(str(path))
    fit.fit_segmenter(scans, labels, tmp_path / "model", tmp_path, voices=["features"])
    record = json.loads((tmp_path / "model" / fit.RECORD).read_text())
    for key, paths in (("Scans", scans), ("Labels", labels)):
        assert record[key] == [{"name": path.name, "sha256": sha256(path)} for path in paths]


@pytest.mark.parametrize(
    ("scan", "labels", "sentence"),
    [
        ("sub-2_T1w.nii.gz", "sub-10_dseg.nii.gz", "tell sub-10 and sub-2"),
        ("sub-2_ses-1_T1w.nii.gz", "sub-2_ses-02_dseg.nii.gz", "tell ses-02 and ses-1"),
    ],
)
def test_a_label_map_of_another_subject_is_refused(tmp_path, scan, labels, sentence):
    """Where all scans lie on one grid, as in a common space, it would be learned from."""
    given = [Path("sub-1_T1w.nii.gz"), Path(scan)], [Path("sub-1_dseg.nii.gz"), Path(labels)]
    with pytest.raises(VCMError, match=f"{labels} is given as the .* {sentence}") as refused:
        fit.fit_segmenter(*given, tmp_path / "model", tmp_path)
    assert refused.value.argument == "labels" and not list(tmp_path.iterdir())


def test_a_label_map_that_tells_less_of_its_subject_is_taken():
    scans = [Path("sub-01_ses-1_T1w.nii.gz"), Path("sub-02_T1w.nii.gz"), Path("brain.nii.gz")]
    labels = [Path("sub-01_desc-manual_dseg.nii.gz"), Path("labels.nii.gz"), Path("sub-3_dseg.nii")]
    fit.refuse_other_subjects(scans, labels)


@pytest.mark.parametrize(
    ("settings", "numbers", "sentence"),
    [
        ({"steps": 0}, (12, 1000, 2), "steps is 0: choose a whole number from 1"),
        ({"members": 0}, (12, 1000, 2), "members is 0"),
        ({"seed": -1}, (12, 1000, 2), "seed is -1"),
        ({"patience": 0.0}, (12, 1000, 2), "patience is 0"),
        ({}, (-1, 1000, 2), "copies is -1"),
        ({}, (12, 0, 2), "voxels is 0"),
        ({}, (12, 1000, -2), "judged is -2"),
    ],
)
def test_numbers_that_nothing_is_learned_with_are_refused(settings, numbers, sentence):
    """Without a step the perceptrons would be written as they began."""
    with pytest.raises(VCMError, match=sentence):
        fit.check_numbers(FitSettings(**settings), *numbers)
    fit.check_numbers(FitSettings(steps=1, members=1), 0, 1, 0)
