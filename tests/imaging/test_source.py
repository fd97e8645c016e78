"""Folders of scans: only names and tables count here, so the files are empty."""

import pytest

from vcm.errors import VCMError, VCMWarning
from vcm.imaging.source import find_scans, read_source, split_by_seed

HEADER = "participant_id\tage\tsex\tsplit"


@pytest.fixture
def folder(tmp_path):
    def make(*names, table=None, plain=False):
        for name in names:
            path = tmp_path / "source" / (name if plain else f"{_place(name)}/{name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        if table is not None:
            (tmp_path / "source" / "participants.tsv").write_text("\n".join(table) + "\n")
        return tmp_path / "source"

    return make


def _place(name):
    parts = dict(p.split("-", 1) for p in name.removeprefix("._").split("_") if "-" in p)
    session = f"/ses-{parts['ses']}" if "ses" in parts else ""
    return f"sub-{parts['sub']}{session}/anat"


def told(source):
    return {f.subject: f.what for f in source.rejected}


def test_sessions_are_units_of_their_own_with_their_own_label_map(folder):
    names = [f"sub-1_ses-{n}_T1w.nii.gz" for n in (1, 2)] + ["sub-1_ses-2_desc-aseg_dseg.nii.gz"]
    source = read_source(folder(*names, table=["participant_id\tage\tsex", "sub-1\t39\tM"]))
    one, two = source.scans
    assert (one.subject, two.subject) == ("sub-1_ses-1", "sub-1_ses-2")
    assert one.labels is None and two.labels.name == names[2] and two.image.name == names[1]
    assert one.participant == two.participant == "sub-1" and one.split == two.split
    assert not source.rejected and not source.notes


def test_a_row_per_session_and_the_ages_of_sessions_tsv(folder):
    names = [f"sub-1_ses-{n}_T1w.nii.gz" for n in (1, 2)]
    table = ["participant_id\tsession_id\tage", "sub-1\tses-1\t39", "sub-1\t2\t42"]
    here = folder(*names, table=table)
    assert [scan.age for scan in read_source(here).scans] == [39, 42]
    (here / "participants.tsv").write_text("participant_id\tage\nsub-1\t39\n")
    sessions = "session_id\tage\nses-1\t39.5\nses-2\t41,5\n"
    (here / "sub-1" / "sub-1_sessions.tsv").write_text(sessions)
    source = read_source(here)
    assert [scan.age for scan in source.scans] == [39.5, 41.5] and not source.notes
    (here / "sub-1" / "sub-1_sessions.tsv").write_text(sessions.replace("41,5", "n/a"))
    source = read_source(here)
    assert [scan.age for scan in source.scans] == [39.5, 39]
    (note,) = source.notes
    assert note.subject == "sub-1_ses-2" and "no age in sub-1_sessions.tsv: 39 years" in note.what


def test_an_age_of_a_session_that_is_not_understood_is_unknown_not_that_of_the_subject(folder):
    names = [f"sub-1_ses-{n}_T1w.nii.gz" for n in (1, 2, 3, 4)]
    here = folder(*names, table=["participant_id\tage", "sub-1\t60"])
    rows = ["ses-1\t60 y 1 m", "ses-2\t89+", "ses-3\t75", "ses-3\t65", "ses-4\t70", "ses-4\t70"]
    table = here / "sub-1" / "sub-1_sessions.tsv"
    table.write_text("session_id\tage\n" + "\n".join(rows) + "\n")
    source = read_source(here)
    assert [scan.age for scan in source.scans] == [None, 89, None, 70]
    assert [(note.subject, note.what) for note in source.notes] == [
        ("sub-1_ses-1", "age '60 y 1 m' is not understood, so it is unknown"),
        ("sub-1_ses-2", "age '89+' is taken for 89"),
        ("sub-1_ses-3", "has the ages 75 and 65 in sub-1_sessions.tsv, so it is unknown: keep one"),
    ]


def test_the_sessions_of_a_subject_are_in_one_split(folder):
    names = [f"sub-{s}_ses-{n}_T1w.nii.gz" for s in (1, 2) for n in (1, 2)]
    table = ["participant_id\tsession_id\tsplit", "sub-1\tses-1\ttrain", "sub-1\tses-2\ttest"]
    table += ["sub-2\tses-1\ttest", "sub-2\tses-2\tn/a"]
    source = read_source(folder(*names, table=table))
    assert [(s.subject, s.split) for s in source.scans] == [
        ("sub-2_ses-1", "test"), ("sub-2_ses-2", "test"),
    ]  # fmt: skip
    assert list(told(source)) == ["sub-1_ses-1", "sub-1_ses-2"]
    assert "test and train: keep all in one" in told(source)["sub-1_ses-1"]


def test_a_file_in_the_folder_of_another_session_is_named(folder):
    here = folder("sub-1_ses-1_T1w.nii.gz", "sub-2_ses-1_T1w.nii.gz")
    (here / "sub-1" / "ses-1").rename(here / "sub-1" / "ses-2")
    source = read_source(here)
    assert [scan.subject for scan in source.scans] == ["sub-2_ses-1"]
    what = "lies in the folder of ses-2, but is named sub-1_ses-1_T1w.nii.gz: rename one"
    assert told(source) == {"sub-1": what}


def test_the_phase_of_a_scan_is_no_scan(folder):
    names = [f"sub-1_part-{part}_T1w.nii.gz" for part in ("mag", "phase", "imag")]
    source = read_source(folder(*names))
    assert [scan.subject for scan in source.scans] == ["sub-1_part-mag"] and not source.rejected


def test_scans_in_files_that_are_not_read_are_named(folder):
    here = folder(
        "sub-1_T1w.hdr", "sub-1_T1w.img", "sub-1_T2w.hdr", "sub-2_T1w.nii", "sub-2_T2w.NII"
    )
    assert told(read_source(here)) == {
        "sub-1": "has sub-1_T1w.hdr, which is not read: make it a file that ends in .nii or .nii.gz"
    }
    (here / "ann_T1w.NII.GZ").write_bytes(b"x")
    (here / "ann_T2w.NII.GZ").write_bytes(b"x")
    source = read_source(here)
    assert [s.subject for s in source.scans] == ["sub-2"] and list(told(source)) == [
        "sub-ann",
        "sub-1",
    ]


def test_hidden_files_and_other_folders_are_left_out(folder):
    names = ["sub-1_T1w.nii.gz", "._sub-1_T1w.nii.gz", "sub-1_T2w.nii.gz", "sub-1_mask.nii.gz"]
    here = folder(*names)
    for other in ("derivatives/sub-1/anat", ".git/sub-2", "sub-1/.hidden", "sub-1/__MACOSX"):
        (here / other).mkdir(parents=True)
        (here / other / "sub-1_T1w.nii.gz").write_bytes(b"x")
    (scan,) = read_source(here).scans
    assert scan.image == here / "sub-1" / "anat" / "sub-1_T1w.nii.gz" and scan.age is None


def test_a_plain_folder_of_files(folder):
    names = ["ann.nii.gz", "ben_T1w.nii", "ben_dseg.nii.gz", "sub-cyd_T1w.nii.gz", "cyd_T2w.nii"]
    source = read_source(folder(*names, "._ann.nii.gz", "a_b_mask.nii", plain=True))
    assert [(s.subject, s.labels and s.labels.name) for s in source.scans] == [
        ("sub-ann", None), ("sub-ben", "ben_dseg.nii.gz"), ("sub-cyd", None),
    ]  # fmt: skip
    assert {s.split for s in source.scans} == {"train", "validation", "test"}


def test_plain_names_end_in_the_contrast_after_any_sign(folder):
    brats = [f"BraTS-GLI-00000-000-{kind}.nii.gz" for kind in ("t1n", "t2w", "t2f", "seg")]
    ixi = [f"IXI002-Guys-0828-{kind}.nii.gz" for kind in ("T1", "T2", "PD", "MRA")]
    source = read_source(folder(*brats, *ixi, "sub-PD.nii", "a.b-1.nii", plain=True))
    assert {s.subject: s.labels and s.labels.name for s in source.scans} == {
        "sub-BraTS-GLI-00000-000": brats[-1], "sub-IXI002-Guys-0828": None, "sub-PD": None,
        "sub-a.b-1": None,
    }  # fmt: skip


def test_a_scan_with_gadolinium_is_another_one_of_the_same_subject(folder):
    names = [f"BraTS20_{n}_{kind}.nii.gz" for n in range(9) for kind in ("t1", "t1ce", "t2")]
    source = read_source(folder(*names, plain=True))
    assert len(source.scans) == 18 and not source.rejected
    assert {s.subject.removesuffix("_t1ce") for s in source.scans} == {
        s.participant for s in source.scans
    }
    assert len({(s.participant, s.split) for s in source.scans}) == 9


def test_a_table_of_ids_without_prefix_and_folders_of_these_names(tmp_path):
    for name in ("IXI012", "IXI013"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}_T1w.nii.gz").write_bytes(b"x")
        (tmp_path / name / f"{name}_dseg.nii.gz").write_bytes(b"x")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nIXI012\t30\nIXI013\t31\n")
    source = read_source(tmp_path)
    assert [(s.subject, s.age) for s in source.scans] == [("sub-IXI012", 30), ("sub-IXI013", 31)]
    assert all(s.labels for s in source.scans)


def test_each_scan_that_cannot_be_used_is_named_and_stops_no_other(folder):
    names = [f"sub-{n}_T1w.nii.gz" for n in (1, 2, 3, 4, 6, 7)] + ["sub-3_T1w.nii"]
    table = [HEADER, "sub-1\t30\tF\ttrain", "\t\t\t", "sub-2\t30\tF\ttrain", "sub-2\t40\tF\ttrain"]
    table += ["sub-3\t1\tF\ttest", "sub-5\t30\tF\ttrain", "sub-6\t9\tF\tfold1", "sub-7\t9\tF\ttest"]
    here = folder(*names, table=table)
    (here / "sub-7" / "anat" / "sub-8_T1w.nii.gz").write_bytes(b"x")
    source = read_source(here)
    assert [s.subject for s in source.scans] == ["sub-1", "sub-7"]
    for subject, word in {
        "sub-2": "2 rows in participants.tsv that differ",
        "sub-3": "2 files of one kind",
        "sub-4": "no row in participants.tsv",
        "sub-5": "a row in participants.tsv but no T1w",
        "sub-6": "'fold1': choose train, validation, test",
        "sub-7": "is named sub-8_T1w.nii.gz",
    }.items():
        assert word in told(source)[subject], subject
    assert len(source.rejected) == 6


def test_content_that_was_not_fetched(folder):
    names = [f"sub-{n}_T1w.nii.gz" for n in (1, 2, 3, 4)] + ["sub-4_dseg.nii.gz"]
    here = folder(*names)
    link = here / "sub-1" / "anat" / names[0]
    link.unlink()
    link.symlink_to("../../.git/annex/objects/Xx/MD5E-s1--0.nii.gz")
    (here / "sub-2" / "anat" / names[1]).write_text("/annex/objects/MD5E-s1--0.nii.gz\n")
    (here / "sub-3" / "anat" / names[2]).write_text("version https://git-lfs.github.com/spec/v1\n")
    mask = here / "sub-4" / "anat" / names[4]
    mask.unlink()
    mask.symlink_to("nowhere.nii.gz")
    with (
        pytest.warns(VCMWarning, match="4 scans or subjects of .* left out: sub-1 has no content"),
        pytest.raises(VCMError, match="No subject that can be used"),
    ):
        find_scans(here)
    rejected = told(read_source(here))
    assert list(rejected) == ["sub-1", "sub-2", "sub-3", "sub-4"]
    assert all("datalad get" in what for what in rejected.values())


def test_a_split_by_seed_is_one_of_subjects_and_stays_when_others_come():
    names = [f"sub-{n}" for n in range(40)]
    split = split_by_seed(names, 0)
    assert split == split_by_seed(reversed(names), 0) != split_by_seed(names, 1)
    counts = {k: list(split.values()).count(k) for k in ("train", "validation", "test")}
    assert counts == {"train": 32, "validation": 4, "test": 4}
    moved = [n for n, s in split_by_seed([*names, "sub-new"], 0).items() if split.get(n, s) != s]
    assert len(moved) <= 2
    assert sorted(split_by_seed(names[:10], 0).values()).count("train") == 8
    assert sorted(split_by_seed(names[:3], 0).values()) == ["test", "train", "validation"]
    assert set(split_by_seed(names[:1], 0).values()) == {"train"}


def test_a_table_without_splits_gets_them_by_seed_and_one_with_some_keeps_them(folder):
    names = [f"sub-{n}_T1w.nii.gz" for n in range(10)]
    rows = [f"sub-{n}\t30\tF\tn/a" for n in range(10)]
    here = folder(*names, table=[HEADER, *rows])
    source = read_source(here)
    assert source.split == "seed 0" and sum(s.split == "train" for s in source.scans) == 8
    assert source != read_source(here, split_seed=1)
    source = read_source(folder(table=[HEADER, *rows[1:], "sub-0\t30\tF\ttest"]))
    assert source.split == "participants.tsv" and len(source.notes) == 9
    assert [s.subject for s in find_scans(here, split="test")] == ["sub-0"]
    with pytest.raises(VCMError, match="No subject of split 'validation'"):
        find_scans(here, split="validation")


def test_no_folder_and_no_scan(tmp_path):
    with pytest.raises(VCMError, match="is no folder"):
        read_source(tmp_path / "none")
    with pytest.raises(VCMError, match="No T1w scan was found"):
        read_source(tmp_path)
