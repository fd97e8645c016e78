"""Folders as users have them, through `vcm prepare`: each scan is prepared as what it is, or is one row of
rejected.tsv, and what was understood with a reservation is one of notes.tsv; and as cases of `vcm fewshot`."""

import shutil

import nibabel
import numpy as np
import pytest
from command_line import vcm
from source_folders import FREESURFER, GRID, bids, without_slow_parts

from vcm.errors import VCMError
from vcm.fewshot.cases.layouts import Target, find_cases, label_text
from vcm.fewshot.comparison.probe_files import probe_folder
from vcm.files import read_table
from vcm.imaging.volume import Volume, read_volume, write_volume


@pytest.fixture
def source(tmp_path):
    """Three subjects: two for training, one for testing."""
    folder = bids(tmp_path / "bids", [(n, 0, 0) for n in range(3)])
    _table(folder, "sub-00\t39\tM\ttrain", "sub-01\t50\tM\ttrain", "sub-02\t32\tF\ttest")
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Registration and the model's grid are tested elsewhere."""
    without_slow_parts(monkeypatch)
    monkeypatch.setattr("vcm.imaging.geometry.model_grid", lambda spacing=2.0: GRID)


def _table(folder, *rows, columns="participant_id\tage\tsex\tsplit", encoding="utf-8"):
    text = "\n".join([columns, *rows]) + "\n"
    (folder / "participants.tsv").write_bytes(text.encode(encoding))


def scan(folder, n):
    return folder / f"sub-0{n}" / "anat" / f"sub-0{n}_T1w.nii.gz"


def prepare(folder, *options, again=False):
    """Rows, reasons and notes by subject."""
    out = folder.parent / "out"
    if not again:
        shutil.rmtree(out, ignore_errors=True)
    result = vcm("prepare", folder, "--out", out, "--workers", 1, *options)
    assert result.exit_code == 0, result.error
    tables = [read_table(out / f"{n}.tsv") for n in ("participants", "rejected", "notes")]
    rows = {row["participant_id"]: row for row in tables[0]}
    said = [
        {r["participant_id"]: r[k] for r in t}
        for t, k in zip(tables[1:], ("reason", "note"), strict=True)
    ]
    return rows, *said


def test_damage_costs_one_scan(source):
    data = bytearray(scan(source, 0).read_bytes())
    data[-6] ^= 1  # the checksum of the stream
    scan(source, 0).write_bytes(bytes(data))
    scan(source, 1).write_bytes(scan(source, 1).read_bytes()[:2000])
    rows, rejected, _ = prepare(source)
    assert list(rows) == ["sub-02"] and list(rejected) == ["sub-00", "sub-01"]
    assert all("damaged" in reason for reason in rejected.values())


def test_annexed_content_that_was_not_fetched_costs_one_scan(source):
    scan(source, 1).unlink()
    scan(source, 1).symlink_to("../../.git/annex/objects/zz/MD5E-s9.nii.gz")
    rows, rejected, _ = prepare(source)
    assert list(rows) == ["sub-00", "sub-02"] and "datalad get" in rejected["sub-01"]


def test_rows_without_content_and_hidden_files_are_nobody(source):
    _table(
        source,
        "sub-00\t39\tM\ttest\r",
        "\t\t\t\r",
        "sub-01\t50\tM\ttrain",
        "",
        "sub-02\t32\tF\ttrain\r",
    )
    (scan(source, 0).parent / f"._{scan(source, 0).name}").write_bytes(b"\0\5\x16\7" * 30)
    rows, rejected, notes = prepare(source)
    assert [(n, r["split"]) for n, r in rows.items()] == [
        ("sub-00", "test"), ("sub-01", "train"), ("sub-02", "train"),
    ]  # fmt: skip
    assert not rejected and not notes


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8-sig"])
def test_a_table_in_any_encoding(source, encoding):
    columns = "participant_id\tage\tsex\tsplit\tsite"
    rows = [f"sub-0{n}\t{30 + n}\tF\ttrain\tKöln" for n in range(3)]
    _table(source, *rows, columns=columns, encoding=encoding)
    assert [row["age"] for row in prepare(source)[0].values()] == ["30.0", "31.0", "32.0"]


def test_ages_and_sexes_in_other_spellings(source):
    _table(source, "sub-00\t89+\t1\ttrain", "sub-01\t045Y\t2\ttrain", "sub-02\t32,5\tFemale\ttest")
    rows, _, notes = prepare(source)
    assert [(r["age"], r["sex"]) for r in rows.values()] == [
        ("89.0", "M"), ("45.0", "F"), ("32.5", "F"),
    ]  # fmt: skip
    assert set(notes) == {"sub-00", "sub-01"}
    _table(source, "sub-00\tforty\t0\ttrain", "sub-01\t-9\t1\ttrain", "sub-02\t32\tw\ttest")
    rows, _, notes = prepare(source)
    assert [(r["age"], r["sex"]) for r in rows.values()] == [
        ("n/a", "n/a"), ("n/a", "n/a"), ("32.0", "F"),
    ]  # fmt: skip
    assert set(notes) == {"sub-00", "sub-01"}


def test_sessions_keep_their_own_label_map_and_row(source, head_map):
    for n in (0, 1):
        for session in (1, 2):
            name = f"sub-0{n}_ses-{session}"
            path = source / f"sub-0{n}" / f"ses-{session}" / "anat" / f"{name}_T1w.nii.gz"
            brain = read_volume(scan(source, n))
            brain.data[40, 50, 40] += session
            write_volume(brain, path)
            if session == 2:
                labels = Volume(FREESURFER[head_map[0]], brain.affine)
                write_volume(labels, path.with_name(f"{name}_desc-aseg_dseg.nii.gz"))
        scan(source, n).unlink()
    rows = [f"sub-0{n}\tses-{s}\t{30 + n + s}\tF\ttrain" for n in (0, 1) for s in (1, 2)]
    columns = "participant_id\tsession_id\tage\tsex\tsplit"
    _table(source, *rows, "sub-02\tn/a\t50\tM\ttest", columns=columns)
    found, rejected, _ = prepare(source)
    assert list(found) == [f"sub-0{n}_ses-{s}" for n in (0, 1) for s in (1, 2)] + ["sub-02"]
    assert [r["age"] for r in found.values()] == ["31.0", "32.0", "32.0", "33.0", "50.0"]
    assert [r["ventricular_volume"] != "n/a" for r in found.values()] == [0, 1, 0, 1, 0]
    assert [r["participant"] for r in found.values()] == ["sub-00"] * 2 + ["sub-01"] * 2 + [
        "sub-02"
    ]
    assert not rejected


def test_derivatives_beside_the_scan_do_not_take_its_place(source, head_map):
    label = Volume(FREESURFER[head_map[0]], read_volume(scan(source, 0)).affine)
    anat = scan(source, 0).parent
    write_volume(label, anat / "sub-00_space-MNI152NLin2009cAsym_dseg.nii.gz")
    shutil.copy(scan(source, 1), anat / "sub-00_space-MNI152NLin2009cAsym_T1w.nii.gz")
    rows, rejected, _ = prepare(source)
    assert rows["sub-00"]["brain_volume"] == "n/a" and not rejected
    for desc in ("aseg", "aparcaseg"):
        write_volume(label, anat / f"sub-00_desc-{desc}_dseg.nii.gz")
    rows, rejected, _ = prepare(source)
    assert "sub-00" not in rows and "2 label maps" in rejected["sub-00"]
    rows, rejected, _ = prepare(source, "--label-desc", "aseg")
    assert rows["sub-00"]["brain_volume"] != "n/a" and not rejected


def test_two_rows_of_one_subject(source):
    table = ["sub-00\t39\tM\ttrain", "sub-00\t39\tM\ttrain", "sub-01\t50\tM\ttrain"]
    _table(source, *table, "sub-01\t51\tM\ttrain", "sub-02\t32\tF\ttest")
    rows, rejected, _ = prepare(source)
    assert (
        list(rows) == ["sub-00", "sub-02"]
        and "rows in participants.tsv that differ" in rejected["sub-01"]
    )


def test_a_folder_without_a_table(source):
    (source / "participants.tsv").unlink()
    rows, rejected, notes = prepare(source)
    assert sorted(r["split"] for r in rows.values()) == ["test", "train", "validation"]
    assert not rejected and not notes


def test_a_label_map_in_the_place_of_a_scan_is_rejected(source, head_map):
    """As a converter or a copy under the wrong name leaves it."""
    write_volume(Volume(FREESURFER[head_map[0]], head_map[1]), scan(source, 1))
    rows, rejected, _ = prepare(source)
    assert list(rows) == ["sub-00", "sub-02"] and "is a label map" in rejected["sub-01"]
    checked = vcm("prepare", source, "--check")
    assert checked.exit_code == 2 and "sub-01\tsub-01_T1w.nii.gz is a label map" in checked.output


@pytest.mark.slow
def test_a_doubt_about_one_scan_is_a_note(source):
    """What a single command would warn of is no line among those of hundreds of scans."""
    image = nibabel.load(scan(source, 0))
    image.set_qform(image.affine @ np.diag([1, -1, 1, 1]), code=1)
    nibabel.save(
        nibabel.Nifti1Image(np.asarray(image.dataobj), None, image.header), scan(source, 0)
    )
    folded = read_volume(scan(source, 1))
    write_volume(folded.with_data(np.roll(folded.data, 30, axis=1)), scan(source, 1))
    for again in (False, True):  # the second run keeps what was prepared
        rows, _, notes = prepare(source, again=again)
        assert list(rows) == ["sub-00", "sub-01", "sub-02"] and list(notes) == ["sub-00", "sub-01"]
        assert "sform and a qform that disagree" in notes["sub-00"] and "folded" in notes["sub-01"]
    checked = vcm("prepare", source, "--check")
    assert checked.exit_code == 2
    assert all(f"{name}\t{note}" in checked.output for name, note in notes.items())


AGE = Target("age")


def cases(folder):
    """Age of each case, as `vcm fewshot` reads it."""
    return {case.name: label_text(case, AGE) for case in find_cases(folder)}


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-8-sig"])
def test_few_shot_cases_of_a_table_in_any_encoding(source, encoding):
    rows = ("00\t39\tM\ttrain\tGrüße", "01\t50\tM\tTraining\t", "02\t32\tF\ttest\t", "\t\t\t\t")
    _table(source, *rows, columns="participant_id\tAge\tsex\tsplit\tnote", encoding=encoding)
    assert cases(source) == {"sub-00": "39", "sub-01": "50", "sub-02": "32"}
    assert [case.name for case in find_cases(source, "train")] == ["sub-00", "sub-01"]


def test_few_shot_cases_are_no_hidden_files(source):
    scan(source, 0).with_name(f"._{scan(source, 0).name}").write_bytes(b"hidden")
    assert len(find_cases(source)) == 3


def test_few_shot_rows_that_differ_are_refused_and_sessions_keep_their_own(source):
    rows = [
        "sub-00\t39\tM\ttrain",
        "sub-00\t41\tM\ttrain",
        "sub-01\t5\tM\ttrain",
        "sub-02\t6\tF\ttest",
    ]
    _table(source, *rows, rows[2])
    with pytest.raises(VCMError, match=r"sub-00 has 2 rows in .* that differ"):
        find_cases(source)
    for session in ("ses-1", "ses-2"):
        anat = source / "sub-00" / session / "anat"
        anat.mkdir(parents=True)
        shutil.copy(scan(source, 0), anat / f"sub-00_{session}_T1w.nii.gz")
    shutil.rmtree(source / "sub-00" / "anat")
    columns = "participant_id\tsession_id\tage\tsplit"
    _table(source, "sub-00\t1\t39\ttrain", "sub-00\tses-2\t41\ttrain", "sub-01\tn/a\t5\ttrain", columns=columns)  # fmt: skip
    found = cases_with_row(source)
    assert found == {"sub-00_ses-1": "39", "sub-00_ses-2": "41", "sub-01": "5"}
    _table(source, "sub-00\t1\t39\ttrain", columns=columns)
    with pytest.raises(VCMError, match="no row for ses-2"):
        find_cases(source)


def cases_with_row(folder):
    told = {case.name: label_text(case, AGE) for case in find_cases(folder)}
    return {name: age for name, age in told.items() if age is not None}


def test_one_embedding_of_a_case_or_none_is_probed(tmp_path):
    (tmp_path / "t.tsv").write_text("case\tlabel\nsub-1\ta\nsub-2\tb\n")
    for name in ("sub-1_t1", "sub-1_t2", "sub-2_t1"):
        np.save(tmp_path / f"{name}.npy", np.ones(3))
    with pytest.raises(VCMError, match="holds 2 embeddings of sub-1"):
        probe_folder(tmp_path, tmp_path / "t.tsv", "case", "label", [])
