import errno
import json
import os
import signal

import numpy as np
import pytest
from command_line import vcm
from source_folders import FREESURFER, GRID, bids

from vcm.errors import VCMError
from vcm.files import read_table
from vcm.imaging.geometry import model_grid
from vcm.imaging.prepared_set import UNFINISHED, load_prepared
from vcm.imaging.volume import Volume, read_volume, write_volume
from vcm.preparation import scan
from vcm.preparation.check import check_folder
from vcm.preparation.prepare import _unfinished, prepare, refuse_place


@pytest.mark.slow
def test_a_moved_brain_is_moved_back_and_a_rerun_is_the_same(tmp_path):
    moves = [(0, 0, 0), (8, -5, 3)]
    source, out = bids(tmp_path / "bids", moves), tmp_path / "out"
    image = source / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    brain = read_volume(image)
    brain.data[40, 50, 40] += 1  # moved back, it would be the same scan
    write_volume(brain, image)
    arguments = ["prepare", str(source), "--out", str(out), "--workers", "1"]
    assert vcm(*arguments).exit_code == 0
    for subject, move in zip(load_prepared(out), moves, strict=True):
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


@pytest.mark.slow
def test_scans_without_labels_can_be_labelled(tmp_path):
    """On the fine grid too: ventricles and brain as large as a head's are, covariates then known."""
    source = bids(tmp_path / "bids", [(0, 0, 0)])
    done = prepare(
        source, tmp_path / "out", workers=1, grid=model_grid(1.0), segmenter="segmenter2mm"
    )
    assert done.scans[0].labelled_by == "segmenter2mm"
    (subject,) = load_prepared(tmp_path / "out")
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
        again.scans[0].labelled_by == "segmenter2mm"
        and subject.classes_file.stat().st_mtime_ns == before
    )


def test_a_check_lists_every_problem_and_prepares_nothing(tmp_path, head_map):
    source = bids(tmp_path / "bids", [(n, 0, 0) for n in range(5)])
    classes, affine = head_map
    freesurfer = FREESURFER[classes]
    for n in (0, 1, 4):
        name = f"sub-0{n}"
        image = read_volume(source / name / "anat" / f"{name}_T1w.nii.gz")
        place = affine + np.diag([0, 0, 0.5, 0]) if n == 1 else image.affine
        label = Volume(classes.astype(np.int16) if n == 4 else freesurfer, place)
        write_volume(label, source / name / "anat" / f"{name}_dseg.nii.gz")
    constant = np.full((9, 9, 9), 3.0, np.float32)
    write_volume(Volume(constant, affine), source / "sub-02" / "anat" / "sub-02_T1w.nii.gz")
    copy = (source / "sub-00" / "anat" / "sub-00_T1w.nii.gz").read_bytes()
    (source / "sub-03" / "anat" / "sub-03_T1w.nii.gz").write_bytes(copy)
    (source / "sub-77").mkdir()
    table = source / "participants.tsv"
    rows = table.read_text().replace("33\tF\ttrain", "33\tF\ttest") + "sub-88\t50\tM\ttrain\n"
    table.write_text(rows.replace("34\tF", "89+\t1"))
    found = [(p.subject, p.what) for p in check_folder(source)]
    expected = {
        "sub-00": ["no voxel of deep grey matter, hippocampus, amygdala, brainstem"],
        "sub-01": ["its scan"],
        "sub-02": ["no *_dseg", "3"],
        "sub-03": ["no *_dseg", "same scan as sub-00, across train and test"],
        "sub-04": ["few labels", "89+", "sex '1' is not understood"],
        "sub-77": ["no T1w"],
        "sub-88": ["no T1w"],
    }
    for subject, words in expected.items():
        for word in words:
            assert any(s == subject and word in what for s, what in found), (subject, word, found)
    result = vcm("prepare", source, "--check")
    assert result.exit_code == 2 and "sub-77" in result.output


def prepared(source, out, **settings):
    settings = {"workers": 1, "grid": GRID} | settings
    return {s.participant_id: s for s in prepare(source, out, **settings).scans}


def stamps(out):
    return {p.name: p.stat().st_mtime_ns for p in out.rglob("*.nii.gz")}


@pytest.mark.usefixtures("no_registration")
def test_one_bad_scan_is_one_row_and_stops_no_other(tmp_path, monkeypatch):
    source, out = bids(tmp_path / "bids", [(n, 0, 0) for n in range(4)]), tmp_path / "out"
    (source / "sub-01" / "anat" / "sub-01_T1w.nii.gz").write_bytes(b"nothing")
    real = scan.align_brain

    def align(image, *rest):
        if "sub-02" in image.source:
            raise RuntimeError("what nobody thought of")
        if "sub-03" in image.source:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(image, *rest)

    monkeypatch.setattr(scan, "align_brain", align)
    assert list(prepared(source, out)) == ["sub-00"]
    rejected = {r["participant_id"]: r["reason"] for r in read_table(out / "rejected.tsv")}
    assert "NIfTI" in rejected["sub-01"] and "nobody thought of" in rejected["sub-02"]
    assert "ended its process" in rejected["sub-03"] and len(rejected) == 3
    assert [s.subject for s in load_prepared(out)] == ["sub-00"]


@pytest.mark.slow
@pytest.mark.usefixtures("no_registration")
def test_a_second_run_notices_every_change_by_content(tmp_path, head_map):
    source, out = bids(tmp_path / "bids", [(0, 0, 0), (8, 0, 0)]), tmp_path / "out"
    before = prepared(source, out)
    first = stamps(out)
    assert prepared(source, out) == before and stamps(out) == first

    table = source / "participants.tsv"
    table.write_text(table.read_text().replace("30\tF\ttrain", "31\tM\ttest"))
    changed = prepared(source, out)["sub-00"]
    assert (changed.age, changed.sex, changed.split) == (31, "M", "test") and stamps(out) == first
    assert [(s.age, s.split) for s in load_prepared(out)] == [(31, "test"), (31, "train")]

    image = source / "sub-00" / "anat" / "sub-00_T1w.nii.gz"
    size, brain = image.stat().st_size, read_volume(image)
    brain.data[40, 50, 40] += 1  # of the same name, and whatever its size
    write_volume(brain, image)
    prepared(source, out)
    second = stamps(out)
    assert second["sub-00_T1w.nii.gz"] != first["sub-00_T1w.nii.gz"] and size
    assert second["sub-01_T1w.nii.gz"] == first["sub-01_T1w.nii.gz"]

    classes, affine = head_map
    labels = source / "sub-00" / "anat" / "sub-00_dseg.nii.gz"
    write_volume(Volume(FREESURFER[classes], affine), labels)
    with_map = prepared(source, out)["sub-00"]
    assert with_map.ventricular_volume > 1 and load_prepared(out)[0].has_classes
    write_volume(Volume(np.where(classes == 3, 2, FREESURFER[classes]), affine), labels)
    assert prepared(source, out)["sub-00"].ventricular_volume is None
    labels.unlink()
    prepared(source, out)
    assert not load_prepared(out)[0].has_classes

    # A file of the set that was damaged is made again, and so is the whole for another setting.
    (out / "sub-01" / "sub-01_T1w.nii.gz").write_bytes(b"half")
    prepared(source, out)
    assert load_prepared(out)[1].image().max() == 1
    third = stamps(out)
    prepared(source, out, grid=model_grid(2.0))
    assert all(third[name] != stamp for name, stamp in stamps(out).items())


@pytest.mark.usefixtures("no_registration")
def test_a_table_of_classes_is_known_by_its_content(tmp_path, head_map):
    source, out = bids(tmp_path / "bids", [(0, 0, 0)]), tmp_path / "out"
    classes, affine = head_map
    labels = source / "sub-00" / "anat" / "sub-00_dseg.nii.gz"
    write_volume(Volume(classes.astype(np.int16), affine), labels)
    with pytest.raises(VCMError, match=r"few labels.*Name its vocabulary"):
        prepared(source, out)
    own = tmp_path / "own.yaml"
    own.write_text("name: own\nclasses:\n  1: [1]\n  2: [2]\n  3: [3]\n  7: [7]\n")
    before = prepared(source, out, labels=str(own))["sub-00"]
    own.write_text("name: own\nclasses:\n  1: [1]\n  2: [2, 3]\n  7: [7]\n")
    after = prepared(source, out, labels=str(own))["sub-00"]
    assert before.ventricular_volume > 1 and after.ventricular_volume is None
    masked = prepared(source, out, labels="mask")["sub-00"]
    assert masked.brain_volume is None and not load_prepared(out)[0].has_classes


@pytest.mark.slow
@pytest.mark.usefixtures("no_registration")
def test_ten_plain_scans_are_split_so_that_they_train(tmp_path):
    source = tmp_path / "plain"
    full = bids(tmp_path / "bids", [(n, 0, 0) for n in range(10)])
    source.mkdir()
    for path in full.rglob("*_T1w.nii.gz"):
        path.rename(source / path.name.replace("sub-", "scan"))
    result = vcm("prepare", source, "--out", tmp_path / "out", "--workers", 1)
    assert result.exit_code == 0 and "8 train, 1 validation, 1 test, by seed 0" in result.output
    splits = [s.split for s in load_prepared(tmp_path / "out")]
    assert {k: splits.count(k) for k in set(splits)} == {"train": 8, "validation": 1, "test": 1}
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["split"] == "seed 0"


@pytest.mark.usefixtures("no_registration")
def test_the_same_scan_twice_is_prepared_once(tmp_path):
    source = bids(tmp_path / "bids", [(0, 0, 0), (0, 0, 0), (1, 0, 0)])
    found = prepare(source, tmp_path / "out", workers=1, grid=GRID)
    assert [s.participant_id for s in found.scans] == ["sub-00", "sub-02"]
    assert "same scan as sub-00" in found.rejected[0].what


def test_nothing_is_written_among_the_scans_or_over_other_files(tmp_path):
    source = bids(tmp_path / "bids", [(0, 0, 0)])
    other = tmp_path / "other"
    other.mkdir()
    (other / "participants.tsv").write_text("mine")
    file = tmp_path / "file"
    file.write_text("x")
    before = sorted(p for p in tmp_path.rglob("*"))
    for out, word in {
        source: "among the scans", source / "sub-00": "among the scans", tmp_path: "holds them",
        source / "prepared": "among the scans", source / "derivatives": "among the scans",
        tmp_path / "bids" / ".." / "bids": "among the scans",
        other: "did not write", file: "it is a file", file / "x": "it is a file",
    }.items():  # fmt: skip
        result = vcm("prepare", source, "--out", out)
        assert result.exit_code == 2 and word in result.error, (out, result)
    assert sorted(p for p in tmp_path.rglob("*")) == before
    refuse_place(source, source / "derivatives" / "vcm")


@pytest.mark.usefixtures("no_registration")
def test_a_set_that_is_not_finished_is_not_read_and_two_runs_do_not_meet(tmp_path, monkeypatch):
    source, out = bids(tmp_path / "bids", [(0, 0, 0)]), tmp_path / "out"
    prepared(source, out)
    monkeypatch.setattr("vcm.preparation.prepare._LOCK_TRIES", 1)
    with _unfinished(out), pytest.raises(VCMError, match="Another vcm prepare"):
        prepared(source, out)
    (out / UNFINISHED).touch()
    with pytest.raises(VCMError, match="run the same vcm prepare again"):
        load_prepared(out)
    prepared(source, out)
    assert load_prepared(out)


@pytest.mark.usefixtures("no_registration")
def test_a_full_disk_ends_the_run_and_rejects_nobody(tmp_path, monkeypatch):
    source, out = bids(tmp_path / "bids", [(n, 0, 0) for n in range(2)]), tmp_path / "out"

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(scan, "write_volume", full)
        with pytest.raises(VCMError, match="No space left on device"):
            prepared(source, out)
    assert not (out / "rejected.tsv").exists() and not list(out.glob("sub-*"))
    assert len(prepared(source, out)) == 2
