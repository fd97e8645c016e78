import nibabel as nib
import numpy as np
import pytest

from vcm.errors import VCMError, VCMWarning
from vcm.fewshot.cases.layouts import Target, find_cases, label_class, label_number, with_labels
from vcm.fewshot.cases.tasks import task_from


@pytest.fixture
def write():
    def scan(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), path)

    return scan


AGE = task_from({"kind": "regression", "inputs": ["t1"]})
SEX = task_from({"kind": "classification", "inputs": ["t1"], "classes": ["F", "M"]})


def bids(folder, write, rows=("sub-1\t30\tF\ttrain", "sub-2\tn/a\tM\ttest")):
    for row in rows:
        name = row.split("\t")[0]
        write(folder / name / "anat" / f"{name}_T1w.nii.gz")
        write(folder / name / "anat" / f"{name}_ce-gd_T1w.nii.gz")
        write(folder / name / "anat" / f"{name}_desc-x_dseg.nii.gz")
    text = "\n".join(["participant_id\tage\tsex\tsplit", *rows])
    (folder / "participants.tsv").write_text(text + "\n", encoding="utf-8")


def test_bids(tmp_path, write):
    bids(tmp_path, write)
    one, two = find_cases(tmp_path)
    assert (one.name, set(one.images), set(one.maps)) == ("sub-1", {"t1", "t1ce"}, {"dseg"})
    assert label_number(one, Target("age")) == 30
    assert label_number(two, Target("age")) is None
    assert label_class(two, Target("sex"), SEX) == 1
    assert [c.name for c in find_cases(tmp_path, "test")] == ["sub-2"]
    assert [c.name for c in with_labels([one, two], Target("age"), AGE)] == ["sub-1"]


@pytest.mark.parametrize(
    ("case", "mark", "scans", "subject"),
    [
        ("BraTS-GLI-00001-001", "-", ("t1c", "t1n", "t2f", "t2w"), "BraTS-GLI-00001"),
        ("BraTS20_Training_001", "_", ("t1ce", "t1", "flair", "t2"), "BraTS20_Training_001"),
        ("UPENN-GBM-00001_11", "_", ("T1GD", "T1", "FLAIR", "T2"), "UPENN-GBM-00001"),
    ],
)
def test_a_folder_per_case(tmp_path, write, case, mark, scans, subject):
    label = "segm" if case.startswith("UPENN") else "seg"
    for name in (*scans, label):
        write(tmp_path / case / f"{case}{mark}{name}.nii.gz")
    write(tmp_path / case / "other_T1w.nii.gz")
    (found,) = find_cases(tmp_path)
    assert (found.name, found.subject) == (case, subject)
    assert found.images.keys() == {"t1", "t1ce", "t2", "flair"} and found.maps.keys() == {label}


def test_a_folder_of_a_subject_of_bids_is_no_folder_of_cases(tmp_path, write):
    write(tmp_path / "sub-1" / "anat" / "sub-1_T1w.nii.gz")
    with pytest.raises(VCMError, match="No case was found"):
        find_cases(tmp_path / "sub-1")


def test_bids_sessions_are_cases_of_their_own(tmp_path, write):
    for session in ("ses-1", "ses-2"):
        write(tmp_path / "sub-1" / session / "anat" / f"sub-1_{session}_T1w.nii.gz")
    assert [c.name for c in find_cases(tmp_path)] == ["sub-1_ses-1", "sub-1_ses-2"]


def test_the_table_of_sessions_goes_before_that_of_participants(tmp_path, write):
    for subject in ("sub-1", "sub-2"):
        for session in ("ses-1", "ses-2", "ses-3"):
            write(tmp_path / subject / session / "anat" / f"{subject}_{session}_T1w.nii.gz")
    rows = "participant_id\tage\tsex\nsub-1\t30\tF\nsub-2\t50\tM\n"
    (tmp_path / "participants.tsv").write_text(rows, encoding="utf-8")
    told = tmp_path / "sub-1" / "sub-1_sessions.tsv"
    rows = (
        "session_id\tage\tscore\tsplit\nses-1\t31\t7\ttraining\n2\t38\tn/a\tTest\nses-3\tn/a\t9\t\n"
    )
    told.write_text(rows, encoding="utf-8")
    with pytest.warns(
        VCMWarning, match=r"age is empty in the \*_sessions.tsv of sub-1_ses-3: what part"
    ):
        cases = find_cases(tmp_path)
    assert [label_number(c, Target("age")) for c in cases] == [31, 38, 30, 50, 50, 50]
    assert [label_number(c, Target("score")) for c in cases] == [7, None, 9, None, None, None]
    assert {c.values["sex"] for c in cases[:3]} == {"F"}
    assert [c.name for c in find_cases(tmp_path, "test")] == ["sub-1_ses-2"]
    told.write_text(rows + "ses-1\t32\t7\ttrain\n", encoding="utf-8")
    with pytest.raises(VCMError, match=r"ses-1 has rows in .*sub-1_sessions.tsv that differ"):
        find_cases(tmp_path)


def test_a_subject_of_no_split_is_named_where_the_table_tells_splits(tmp_path, write):
    bids(tmp_path, write, ["sub-01\t30\tF\ttrain", "sub-02\t40\tM\ttest", "sub-10\t50\tM\ttest"])
    table = tmp_path / "participants.tsv"
    rows = table.read_text(encoding="utf-8")
    table.write_text(rows.replace("sub-0", ""), encoding="utf-8")
    with pytest.raises(
        VCMError, match=r"sub-01, sub-02 have no row .*, and sub-1, sub-2 there no folder: name"
    ):
        find_cases(tmp_path)
    table.write_text(rows.replace("sub-02\t40\tM\ttest\n", ""), encoding="utf-8")
    with pytest.warns(VCMWarning, match=r"sub-02 has no row .*: it counts as train\.$"):
        assert len(find_cases(tmp_path, "train")) == 2
    # A row without scans says nothing wrong, nor does a folder without them.
    table.write_text(rows + "sub-11\t60\tF\ttest\n", encoding="utf-8")
    (tmp_path / "sub-12").mkdir()
    assert len(find_cases(tmp_path, "test")) == 2
    table.write_text("participant_id\tage\nsub-01\t30\n", encoding="utf-8")
    assert len(find_cases(tmp_path)) == 3


@pytest.mark.parametrize("depth", ["sub_1", "sub_1/ses_1"])
@pytest.mark.parametrize("root", ["", "preprocessed"])
def test_fomo(tmp_path, write, depth, root):
    write(tmp_path / root / "sub_1" / "ses_1" / "dwi_b1000.nii.gz")
    write(tmp_path / root / "sub_1" / "ses_1" / "swi.nii.gz")
    write(tmp_path / "labels" / depth / "seg.nii.gz")
    (tmp_path / "labels" / depth / "label.txt").write_text("1\n", encoding="utf-8")
    (case,) = find_cases(tmp_path)
    assert (case.name, set(case.images)) == ("sub_1_ses_1", {"dwi", "swi"})
    assert case.values == {"label": "1"} and case.maps["seg"].parent.name == depth[-5:]


def test_a_table(tmp_path, write):
    for name in ("a1", "b1", "am"):
        write(tmp_path / f"{name}.nii.gz")
    rows = ["case\tsequence\tpath\tlabel", "a\tT1w\ta1.nii.gz\t4", "b\tt1\tb1.nii.gz\t5",
            "a\tmask\tam.nii.gz\t"]  # fmt: skip
    table = tmp_path / "cases.tsv"
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    a, _ = find_cases(table)
    assert (label_number(a, Target("label")), set(a.maps)) == (4, {"mask"})
    table.write_text("\n".join([*rows, "c\tmask\tam.nii.gz\t"]) + "\n", encoding="utf-8")
    with pytest.raises(VCMError, match="no scan of it"):
        find_cases(table)
    table.write_text("\n".join([*rows, "b\tt7\tam.nii.gz\t"]) + "\n", encoding="utf-8")
    with pytest.raises(VCMError, match="'t7' is unknown"):
        find_cases(table)
    table.write_text("\n".join([*rows, "b\tt2\tno.nii.gz\t"]) + "\n", encoding="utf-8")
    with pytest.raises(VCMError, match="does not exist"):
        find_cases(table)
    table.write_text("\n".join([*rows, "a\tMASK\tb1.nii.gz\t"]) + "\n", encoding="utf-8")
    with pytest.raises(VCMError, match="a has two files of mask"):
        find_cases(table)


def test_maps_of_all_kinds_are_no_scans(tmp_path, write):
    for name in ("T1w", "T1w_segmentation", "space-T1w_roi", "T1w_label-GM_probseg", "dseg"):
        write(tmp_path / "sub-1" / "anat" / f"sub-1_{name}.nii.gz")
    (case,) = find_cases(tmp_path)
    assert case.images["t1"].name == "sub-1_T1w.nii.gz"
    assert set(case.maps) == {"segmentation", "dseg"}


def test_cases_without_a_label_are_named(tmp_path, write):
    for name in ("sub-1/anat/sub-1_T1w", "sub-2/anat/sub-2_T1w", "sub-1/anat/sub-1_mask"):
        write(tmp_path / f"{name}.nii.gz")
    vessels = task_from({"kind": "segmentation", "inputs": "t1", "classes": "vessels"})
    assert vessels.classes == ("vessels",) and vessels.slots == ("t1",)
    with pytest.warns(VCMWarning, match=r"1 of 2 cases have no mask and are left out: sub-2\.$"):
        kept = with_labels(find_cases(tmp_path), Target("mask"), vessels)
    assert [case.name for case in kept] == ["sub-1"]
    with pytest.raises(VCMError, match=r"No case has a label 'seg'.*maps beside the scans: mask\)"):
        with_labels(find_cases(tmp_path), Target("seg"), vessels)


def test_two_scans_of_one_name_are_refused(tmp_path, write):
    bids(tmp_path, write)
    write(tmp_path / "sub-1" / "anat" / "sub-1_run-2_T1w.nii.gz")
    with pytest.raises(VCMError, match="sub-1 has two files of t1"):
        find_cases(tmp_path)


def test_a_label_file_may_begin_with_a_byte_order_mark_and_has_to_be_utf8(tmp_path, write):
    write(tmp_path / "sub_1" / "ses_1" / "t1.nii.gz")
    label = tmp_path / "labels" / "sub_1" / "label.txt"
    label.parent.mkdir(parents=True)
    label.write_text("1\n", encoding="utf-8-sig")
    assert find_cases(tmp_path)[0].values == {"label": "1"}
    label.write_text("oui, guéri", encoding="latin-1")
    with pytest.raises(VCMError, match="no text in UTF-8"):
        find_cases(tmp_path)


def test_a_label_without_a_case_is_refused(tmp_path, write):
    write(tmp_path / "sub_1" / "ses_1" / "t1.nii.gz")
    (tmp_path / "labels" / "sub_9").mkdir(parents=True)
    (tmp_path / "labels" / "sub_9" / "label.txt").write_text("1", encoding="utf-8")
    with pytest.raises(VCMError, match="label of no case"):
        find_cases(tmp_path)


def test_what_is_missing_is_said(tmp_path, write):
    with pytest.raises(VCMError, match="does not exist"):
        find_cases(tmp_path / "no")
    with pytest.raises(VCMError, match="No case was found"):
        find_cases(tmp_path)
    bids(tmp_path, write)
    with pytest.raises(VCMError, match="split 'validation': it has test, train"):
        find_cases(tmp_path, "validation")
    cases = find_cases(tmp_path)
    with pytest.raises(VCMError, match="no column 'iq'"):
        with_labels(cases, Target("iq"), AGE)
    with pytest.raises(VCMError, match="is 'F', but a regression needs a number"):
        with_labels(cases, Target("sex"), AGE)
    with pytest.raises(VCMError, match="sex of sub-2 is 'M', but the classes are F, X"):
        with_labels(cases, Target("sex"), task_from(SEX.as_dict() | {"classes": ["F", "X"]}))
    flair = task_from({"kind": "regression", "inputs": ["flair"]})
    with pytest.raises(VCMError, match="sub-1 has no flair"):
        with_labels(cases, Target("age"), flair)
    vessels = task_from({"kind": "segmentation", "inputs": ["t1"], "classes": ["a"]})
    with pytest.raises(VCMError, match="No case has a label 'mask'"):
        with_labels(cases, Target("mask"), vessels)


def test_linked_folders_of_a_subject_are_read(tmp_path, write):
    write(tmp_path / "store" / "sub-1_T1w.nii.gz")
    (tmp_path / "bids" / "sub-1").mkdir(parents=True)
    (tmp_path / "bids" / "sub-1" / "anat").symlink_to(tmp_path / "store")
    (case,) = find_cases(tmp_path / "bids")
    assert (case.name, set(case.images)) == ("sub-1", {"t1"})


def table_of(folder, write, *rows, columns="case\tsequence\tpath\tage\tsplit"):
    write(folder / "scan.nii.gz")
    lines = [columns, *("\t".join(row) for row in rows)]
    (folder / "cases.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "cases.tsv"


def test_a_table_spells_splits_as_bids_does_and_an_empty_cell_is_unknown(tmp_path, write):
    table = table_of(
        tmp_path, write,
        ("a", "t1", "scan.nii.gz", "30", "Training"), ("b", "t1", "scan.nii.gz", "", "trn"),
        ("c", "t1", "scan.nii.gz", "40", ""), ("c", "seg", "scan.nii.gz", "", "Test"),
    )  # fmt: skip
    assert [c.name for c in find_cases(table, "train")] == ["a", "b"]
    assert [c.name for c in find_cases(table, "test")] == ["c"]
    with pytest.warns(VCMWarning, match="1 of 3 cases have no age and are left out: b"):
        assert len(with_labels(find_cases(table), Target("age"), AGE)) == 2


@pytest.mark.parametrize("name", ["../scan", "site/scan", "", ".scan"])
def test_a_case_whose_answer_would_lie_elsewhere_is_refused(tmp_path, write, name):
    table = table_of(tmp_path, write, (name, "t1", "scan.nii.gz", "30", "train"))
    with pytest.raises(VCMError, match=f"is called '{name}', but its answer is a file"):
        find_cases(table)


def test_cases_without_a_row_or_a_label_are_left_out_as_others_without_one(tmp_path, write):
    for subject in ("sub-1", "sub-2"):
        write(tmp_path / "bids" / subject / "anat" / f"{subject}_T1w.nii.gz")
        write(tmp_path / "fomo" / subject.replace("-", "_") / "ses_1" / "t1.nii.gz")
    (tmp_path / "bids" / "participants.tsv").write_text("participant_id\tage\nsub-1\t30\n")
    label = tmp_path / "fomo" / "labels" / "sub_1" / "ses_1" / "label.txt"
    label.parent.mkdir(parents=True)
    label.write_text("30\n")
    for folder, column in (("bids", "age"), ("fomo", "label")):
        with pytest.warns(VCMWarning, match=f"1 of 2 cases have no {column} and are left out"):
            with_labels(find_cases(tmp_path / folder), Target(column), AGE)


@pytest.mark.parametrize("value", ["999", "-1", "121"])
def test_a_code_for_an_unknown_age_is_no_age(tmp_path, write, value):
    bids(tmp_path, write, (f"sub-1\t{value}\tF\ttrain",))
    (case,) = find_cases(tmp_path)
    with pytest.raises(VCMError, match=f"The age of sub-1 is {value}, but ages are 0 to 120 years"):
        label_number(case, Target("Age"))


def test_ages_are_in_years_whatever_the_unit_of_their_table(tmp_path, write):
    bids(tmp_path, write, ("sub-1\t150\tF\ttrain", "sub-2\tn/a\tM\ttest"))
    (tmp_path / "participants.json").write_text('{"age": {"Units": "months"}}', encoding="utf-8")
    write(tmp_path / "sub-3" / "ses-1" / "anat" / "sub-3_ses-1_T1w.nii.gz")
    told = tmp_path / "sub-3" / "sub-3_sessions.tsv"
    told.write_text("session_id\tage\nses-1\t365.25\n", encoding="utf-8")
    told.with_suffix(".json").write_text('{"age": {"Units": "days"}}', encoding="utf-8")
    with pytest.warns(VCMWarning, match="sub-3 has no row"):
        cases = find_cases(tmp_path)
    assert [label_number(c, Target("age")) for c in cases] == [12.5, None, 1]


def test_images_that_are_not_read_are_named(tmp_path, write):
    for n, ending in enumerate((".nii.gz", ".NII.GZ", ".hdr", ".mgz"), start=1):
        write(tmp_path / f"sub-{n}" / "anat" / f"sub-{n}_T1w.nii.gz")
        (tmp_path / f"sub-{n}" / "anat" / f"sub-{n}_T1w.nii.gz").rename(
            tmp_path / f"sub-{n}" / "anat" / f"sub-{n}_T1w{ending}"
        )
    with pytest.warns(VCMWarning) as warned:
        assert [case.name for case in find_cases(tmp_path)] == ["sub-1"]
    files, subjects = (str(warning.message) for warning in warned)
    assert "2 images" in files and "sub-2_T1w.NII.GZ, sub-3_T1w.hdr" in files
    assert "3 folders of subjects" in subjects and "left out: sub-2, sub-3, sub-4." in subjects
