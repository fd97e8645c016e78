"""Whose scans the cases of two pools are, and which label maps can be used."""

import shutil
import warnings
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from vcm.errors import VCMError, VCMWarning
from vcm.fewshot.cases.identity import identity
from vcm.fewshot.cases.layouts import Source, Target
from vcm.fewshot.cases.tasks import task_from
from vcm.fewshot.methods.catalogue import METHODS
from vcm.fewshot.methods.parents import Parent, SeenScan
from vcm.fewshot.methods.pool import Pool, refuse_seen, refuse_seen_by_parents
from vcm.files import sha256

AGE = task_from({"kind": "regression", "inputs": ["t1"]})
SESSIONS = ((1, "train"), (2, "test"))


def scan(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(list(path.as_posix().encode()))
    values = random.random((8, 8, 8), dtype=np.float32)
    nib.save(nib.Nifti1Image(values, np.diag([4.0, 4, 4, 1])), path)
    return path


def bids(folder, linked=False):
    """Two subjects, of whom session 1 is of the split train and session 2 of the split test."""
    rows = ["participant_id\tsession_id\tage\tsplit"]
    for subject in ("sub-01", "sub-02"):
        for session, split in SESSIONS:
            name = f"{subject}_ses-{session}_T1w.nii.gz"
            file = folder / subject / f"ses-{session}" / "anat" / name
            if linked:
                file.parent.mkdir(parents=True)
                file.symlink_to(scan(folder / ".git" / "annex" / "objects" / "f7" / f"MD5E-{name}"))
            else:
                scan(file)
            rows.append(f"{subject}\tses-{session}\t40\t{split}")
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def table(file, rows):
    lines = ["case\tsequence\tpath\tage\tsplit", *rows]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


@pytest.fixture
def pool(tmp_path):
    def opened(data, split=None, task=AGE, label="age", parents=None):
        source = Source(str(data), split)
        return Pool.open(source, task, Target(label), tmp_path / "cache", parents or {})

    return opened


def refused(train, test, sentence):
    with pytest.raises(VCMError, match=sentence):
        refuse_seen(train, test)
    return True


@pytest.mark.parametrize("linked", [False, True])
def test_sessions_of_a_subject_in_two_splits_are_refused_in_a_folder_of_links_too(
    tmp_path, pool, linked
):
    data = bids(tmp_path / "data", linked)
    train, test = pool(data, "train"), pool(data, "test")
    assert refused(
        train, test, "sub-01_ses-2 is of the same subject as the training case sub-01_ses"
    )
    # Spelled in another way, it is the same folder.
    assert refused(train, pool(data / ".." / "data", "test"), "is of the same subject")
    row = "first\tt1\tdata/sub-02/ses-2/anat/sub-02_ses-2_T1w.nii.gz\t40\ttest"
    listed = pool(table(tmp_path / "cases.tsv", [row]))
    assert refused(train, listed, "first is of the same subject as the training case sub-02_ses-1")


def test_links_to_a_training_subject_under_another_name_are_refused(tmp_path, pool):
    data = bids(tmp_path / "data")
    there = data / "sub-01" / "ses-2" / "anat" / "sub-01_ses-2_T1w.nii.gz"
    link = tmp_path / "links" / "sub-A" / "anat" / "sub-A_T1w.nii.gz"
    link.parent.mkdir(parents=True)
    link.symlink_to(there)
    (tmp_path / "links" / "participants.tsv").write_text("participant_id\tage\nsub-A\t40\n")
    assert refused(pool(data, "train"), pool(tmp_path / "links"), "sub-A is of the same subject as")


def test_sessions_of_a_subject_in_a_table_are_known_by_their_names(tmp_path, pool):
    rows = []
    for person in ("P0", "P1"):
        for session, split in SESSIONS:
            name = f"{person}_ses-{session}"
            scan(tmp_path / "scans" / f"{name}.nii.gz")
            rows.append(f"{name}\tt1\tscans/{name}.nii.gz\t40\t{split}")
    file = table(tmp_path / "cases.tsv", rows)
    assert refused(pool(file, "train"), pool(file, "test"), "P0_ses-2 is of the same subject as")
    # In another table, P0 may be somebody else.
    refuse_seen(pool(file, "train"), pool(table(tmp_path / "more.tsv", rows), "test"))


def test_a_folder_that_holds_all_cases_is_no_subject(tmp_path, pool):
    study = tmp_path / "sub-cortical"
    for name in ("a", "b"):
        scan(study / "scans" / f"{name}.nii.gz")
    rows = [f"{n}\tt1\tscans/{n}.nii.gz\t40\t{s}" for n, s in (("a", "train"), ("b", "test"))]
    file = table(study / "cases.tsv", rows)
    refuse_seen(pool(file, "train"), pool(file, "test"))


@pytest.fixture
def two_sequences(tmp_path):
    for name in ("sub-1", "sub-2"):
        for sequence in ("T1w", "FLAIR"):
            scan(tmp_path / "two" / name / "anat" / f"{name}_{sequence}.nii.gz")
    rows = "participant_id\tage\tsplit\nsub-1\t30\ttrain\nsub-2\t40\ttest\n"
    (tmp_path / "two" / "participants.tsv").write_text(rows, encoding="utf-8")
    return tmp_path / "two"


@pytest.mark.parametrize("inputs", [["t1", "flair"], ["flair", "t1"]])
def test_every_scan_that_the_task_reads_is_known_by_its_content(two_sequences, pool, inputs):
    task = task_from({"kind": "regression", "inputs": inputs})
    flair = {n: next((two_sequences / n).rglob("*FLAIR.nii.gz")) for n in ("sub-1", "sub-2")}
    parents = {"mae": Parent(None, "x", (SeenScan("P7", "flair", sha256(flair["sub-2"])),))}
    with pytest.raises(VCMError, match="The test case sub-2 is the scan of P7 that the network"):
        refuse_seen_by_parents(pool(two_sequences, "test", task, parents=parents))
    refuse_seen_by_parents(pool(two_sequences, "train", task, parents=parents))
    refuse_seen_by_parents(pool(two_sequences, "test", AGE, parents=parents))
    shutil.copy(flair["sub-1"], flair["sub-2"])
    train, test = (pool(two_sequences, split, task) for split in ("train", "test"))
    assert refused(train, test, "The test case sub-2 is the training case sub-1")


def turned(path, target):
    """The same scan, stored uncompressed with its axes in another order."""
    image = nib.load(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image.as_reoriented(nib.orientations.axcodes2ornt("PSL")), target)
    return target


def test_a_scan_stored_in_another_way_under_another_name_is_known(two_sequences, pool, tmp_path):
    there = next((two_sequences / "sub-1").rglob("*T1w.nii.gz"))
    other = turned(there, tmp_path / "other" / "sub-9" / "anat" / "sub-9_T1w.nii")
    assert sha256(other) != sha256(there)
    (tmp_path / "other" / "participants.tsv").write_text("participant_id\tage\nsub-9\t30\n")
    train, test = pool(two_sequences, "train"), pool(tmp_path / "other")
    assert refused(train, test, "The test case sub-9 is the training case sub-1 .* same voxels")
    parents = {"mae": Parent(None, "x", (SeenScan("P7", "t1", *identity(there)),))}
    with pytest.raises(VCMError, match="The test case sub-9 is the scan of P7 that the network"):
        refuse_seen_by_parents(pool(tmp_path / "other", parents=parents))


def lesions(folder, labels, affine=None):
    """One case per label that the lesion of its map has; 0: there is none."""
    for number, label in enumerate(labels):
        anat = scan(folder / f"sub-{number}" / "anat" / f"sub-{number}_T1w.nii.gz").parent
        values = np.zeros((8, 8, 8), np.uint8)
        values[2:4, 2:4, 2:4] = label
        place = np.diag([4.0, 4, 4, 1]) if affine is None else affine
        nib.save(nib.Nifti1Image(values, place), anat / f"sub-{number}_dseg.nii.gz")
    return folder


LESION = task_from({"kind": "segmentation", "inputs": ["t1"], "classes": ["lesion"]})


def test_a_map_without_a_lesion_is_a_truth(tmp_path, pool):
    opened = pool(lesions(tmp_path / "data", [1, 0]), task=LESION, label="dseg")
    opened.refuse_unusable_maps()
    assert [int(opened.true_labels(place)[0].sum()) for place in (0, 1)] == [8, 0]
    assert not opened.label_map(1).data.any()


def test_maps_that_cannot_be_used_are_refused_before_anything_is_fitted(tmp_path, pool):
    unknown = pool(lesions(tmp_path / "unknown", [1, 4]), task=LESION, label="dseg")
    with pytest.raises(VCMError, match=r"sub-1_dseg.nii.gz holds the label 4, but the task has 1"):
        unknown.refuse_unusable_maps()
    moved = lesions(tmp_path / "moved", [1], np.diag([-4.0, 4, 4, 1]))
    with pytest.raises(VCMError, match=r"lies up to 56 mm beside its scan.*first scan of the task"):
        pool(moved, task=LESION, label="dseg").refuse_unusable_maps()
    full = lesions(tmp_path / "full", [1])
    dseg = full / "sub-0" / "anat" / "sub-0_dseg.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((8, 8, 8), np.uint8), np.diag([4.0, 4, 4, 1])), dseg)
    with pytest.raises(VCMError, match="is constant"):
        pool(full, task=LESION, label="dseg").refuse_unusable_maps()
    # A task of numbers has no label maps.
    pool(bids(tmp_path / "ages")).refuse_unusable_maps()


@pytest.mark.parametrize("groups", [{"core": [1, 3], "edema": [2]}, {"core": [1, 4], "edema": [2]}])
def test_labels_that_no_group_names_are_named(tmp_path, groups):
    anat = tmp_path / "sub-1" / "anat"
    anat.mkdir(parents=True)
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[0, 0, :3] = (1, 2, 4)
    for name in ("T1w", "dseg"):
        nib.save(nib.Nifti1Image(labels, np.eye(4)), anat / f"sub-1_{name}.nii.gz")
    task = task_from({"kind": "segmentation", "inputs": ["t1"], "classes": list(groups)})
    pool = Pool.open(Source(str(tmp_path)), task, Target("dseg", groups), tmp_path / "cache", {})
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        pool.warn_of_labels_without_a_class()
    wrong = [] if 4 in groups["core"] else ["hold 4, which no group"]
    assert [w for w in wrong if w in str(told[0].message)] == wrong and len(told) == len(wrong)


SEGMENTATION = task_from({"kind": "segmentation", "inputs": ["t1"], "classes": ["tumour"]})


def shown(folder, edge):
    """A case whose scan shows that many voxels of 1 cm along each axis on a black background, with a label map."""
    values = np.zeros((20, 20, 20), np.float32)
    values[2 : 2 + edge, 2 : 2 + edge, 2 : 2 + edge] = (
        np.random.default_rng(0).random((edge,) * 3) + 1
    )
    anat = folder / "sub-1" / "anat"
    anat.mkdir(parents=True)
    place = np.diag([10.0, 10, 10, 1])
    nib.save(nib.Nifti1Image(values, place), anat / "sub-1_T1w.nii.gz")
    nib.save(nib.Nifti1Image((values > 1.9).astype(np.uint8), place), anat / "sub-1_dseg.nii.gz")
    return folder


def test_heads_for_a_network_that_knows_brains_are_named(tmp_path, pool):
    head = pool(shown(tmp_path / "heads", 15), task=SEGMENTATION, label="dseg")
    known, scratch = METHODS["anysegmenter"], METHODS["scratch"]
    with pytest.warns(
        VCMWarning,
        match="1 of 1 scans .* show their skull, and anysegmenter learned .* mask: found",
    ):
        head.warn_of_skulls([scratch, known])
    brain = pool(shown(tmp_path / "brains", 11), task=SEGMENTATION, label="dseg")
    masked = replace(head, mask="found")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head.warn_of_skulls([scratch])
        brain.warn_of_skulls([known])
        masked.warn_of_skulls([known])
