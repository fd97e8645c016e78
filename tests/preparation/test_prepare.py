import json

import numpy as np
import pytest
from command_line import vcm

from vcm.errors import VCMError
from vcm.imaging import dataset
from vcm.imaging.geometry import model_grid
from vcm.imaging.registration import common_template
from vcm.imaging.volume import Volume, write_volume


def bids(folder, moves):
    """The MNI152 brain shifted by known amounts [mm], as a BIDS folder."""
    rows = ["participant_id\tage\tsex\tsplit"]
    template = common_template()
    for n, move in enumerate(moves):
        affine = template.affine.copy()
        affine[:3, 3] += move
        name = f"sub-{n:02d}"
        values = np.where(template.data > 0.2, template.data * 200, 0).astype(np.float32)
        write_volume(Volume(values, affine), folder / name / "anat" / f"{name}_T1w.nii.gz")
        rows.append(f"{name}\t{30 + n}\tF\ttrain")
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n")
    return folder


def test_a_moved_brain_is_moved_back_and_a_rerun_is_the_same(tmp_path):
    moves = [(0, 0, 0), (8, -5, 3)]
    source, out = bids(tmp_path / "bids", moves), tmp_path / "out"
    arguments = ["prepare", str(source), "--out", str(out), "--workers", "1"]
    assert vcm(*arguments).exit_code == 0
    for subject, move in zip(dataset.load_prepared(out), moves, strict=True):
        record = json.loads((subject.folder / f"{subject.subject}_prepare.json").read_text())
        np.testing.assert_allclose(np.array(record["to_common"])[:3, 3], -np.array(move), atol=0.7)
        image = subject.image()
        assert image.shape == model_grid().shape
        assert image.min() == 0 and image.max() == 1
        assert not subject.has_classes
    assert (out / "qc.png").is_file()
    before = {p: p.read_bytes() for p in out.rglob("*.nii.gz")}
    stamps = {p: p.stat().st_mtime_ns for p in before}
    assert vcm(*arguments).exit_code == 0
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.nii.gz")} == stamps


def test_what_cannot_be_used_is_named_with_the_reason(tmp_path):
    source = bids(tmp_path / "bids", [(0, 0, 0), (0, 0, 0)])
    (source / "sub-01" / "anat" / "sub-01_T1w.nii.gz").write_bytes(b"nothing")
    from vcm.preparation.prepare import prepare

    assert [p.participant_id for p in prepare(source, tmp_path / "out", workers=1)] == ["sub-00"]
    rejected = dataset.read_table(tmp_path / "out" / "rejected.tsv")
    assert rejected[0]["participant_id"] == "sub-01"
    assert "NIfTI" in rejected[0]["reason"]
    with pytest.raises(VCMError, match=r"participants\.tsv"):
        prepare(tmp_path, tmp_path / "none")


def test_scans_without_labels_can_be_labelled(tmp_path):
    """On the fine grid too: ventricles and brain as large as a head's are, covariates then known."""
    from vcm.preparation.prepare import prepare

    source = bids(tmp_path / "bids", [(0, 0, 0)])
    done = prepare(
        source, tmp_path / "out", workers=1, grid=model_grid(1.0), segmenter="segmenter2mm"
    )
    assert done[0].labelled_by == "segmenter2mm"
    (subject,) = dataset.load_prepared(tmp_path / "out")
    assert 5 < subject.ventricular_volume < 120 and 800 < subject.brain_volume < 1900
    classes, image = subject.classes(), subject.image()
    assert classes.shape == image.shape == (160, 224, 160)
    assert set(np.unique(classes)) <= set(range(9)) and (classes[image <= 0] == 0).all()
    assert ((classes > 0) & (image > 0)).sum() > 0.9 * (image > 0).sum()
    before = subject.classes_file.stat().st_mtime_ns
    again = prepare(
        source, tmp_path / "out", workers=1, grid=model_grid(1.0), segmenter="segmenter2mm"
    )
    assert (
        again[0].labelled_by == "segmenter2mm" and subject.classes_file.stat().st_mtime_ns == before
    )


def test_a_check_lists_every_problem_and_prepares_nothing(tmp_path, head_map):
    from vcm.preparation.check import check_folder

    source = bids(tmp_path / "bids", [(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0)])
    classes, affine = head_map
    for n in (0, 1):
        name = f"sub-0{n}"
        image = dataset.read_volume(source / name / "anat" / f"{name}_T1w.nii.gz")
        place = image.affine if n == 0 else affine + np.diag([0, 0, 0.5, 0])
        label = Volume(classes.astype(np.int16), place)
        write_volume(label, source / name / "anat" / f"{name}_dseg.nii.gz")
    constant = np.full((9, 9, 9), 3.0, np.float32)
    write_volume(Volume(constant, affine), source / "sub-02" / "anat" / "sub-02_T1w.nii.gz")
    copy = (source / "sub-00" / "anat" / "sub-00_T1w.nii.gz").read_bytes()
    (source / "sub-03" / "anat" / "sub-03_T1w.nii.gz").write_bytes(copy)
    (source / "sub-77").mkdir()
    table = source / "participants.tsv"
    rows = table.read_text().replace("33\tF\ttrain", "33\tF\ttest") + "sub-88\t50\tM\ttrain\n"
    table.write_text(rows + "sub-00\t30\tF\tvalid\n")
    found = {(p.subject, p.what) for p in check_folder(source)}
    expected = {
        "sub-00": ["2 rows", "'valid': choose train, validation, test"],
        "sub-01": ["or at another place"],
        "sub-02": ["no *_dseg", "one value 3"],
        "sub-03": ["no *_dseg", "same scan as sub-00, across train and test"],
        "sub-77": ["no row"],
        "sub-88": ["no *_T1w"],
    }
    for subject, words in expected.items():
        for word in words:
            assert any(s == subject and word in what for s, what in found), (subject, word, found)
    result = vcm("prepare", source, "--check")
    assert result.exit_code == 2 and "sub-77" in result.output
