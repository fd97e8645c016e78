import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import vcm

from vcm.derivatives import Derivation, derive, find_files
from vcm.errors import VCMError
from vcm.imaging.participants import Participant
from vcm.imaging.volume import Volume, write_volume

VALIDATOR = shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent))


@pytest.fixture
def dataset(tmp_path) -> Path:
    """Ten subjects, of whom the third is a damaged file and the last has two sessions."""
    folder = tmp_path / "raw"
    values = np.random.default_rng(0).uniform(0, 9, (6, 7, 8)).astype(np.float32)
    for n in range(1, 11):
        for session in ("ses-1", "ses-2") if n == 10 else ("",):
            name = f"sub-{n:02d}" + (f"_{session}" if session else "")
            path = folder / f"sub-{n:02d}" / session / "anat" / f"{name}_T1w.nii.gz"
            write_volume(Volume(values + n, np.eye(4)), path)
            if n == 3:
                path.write_bytes(b"not an image")
    described = {"Name": "Raw", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
    (folder / "dataset_description.json").write_text(json.dumps(described))
    (folder / "README").write_text("A dataset of random numbers.\n")
    return folder


def doubled(calls: list[str], factor: int = 2, reads=()) -> Derivation:
    """Every scan times a factor, with a mask and two seeds, as jobs name their files."""
    from vcm.files import write_json
    from vcm.imaging.volume import read_volume

    def run(path: Path, work: Path, person: Participant) -> dict[str, object]:
        calls.append(path.name)
        scan = read_volume(path)
        stem = path.name.removesuffix("_T1w.nii.gz")
        write_volume(scan.with_data(scan.data * factor), work / f"{stem}_desc-upsampled_T1w.nii.gz")
        write_json(work / f"{stem}_desc-upsampled_T1w.json", {"Ours": 1, "Files": {}})
        mask = scan.with_data((scan.data > 5).astype(np.uint8))
        write_volume(mask, work / f"{stem}_desc-generatedT1w_mask.nii.gz")
        write_volume(scan, work / f"{stem}_desc-upsampled_seed-3_T1w.nii.gz")
        (work / f"{stem}_desc-upsampledT1w_comparison.png").write_bytes(b"png")
        return {"mean": float(scan.data.mean())}

    keys = {"T1w": {"SkullStripped": False}, "mask": {"Type": "ROI"}}
    return Derivation("Doubled", "T1w", run, {"factor": factor}, keys, reads=reads)


def test_ten_subjects_one_of_them_broken(dataset, tmp_path):
    out, calls = tmp_path / "out", []
    rows = derive(doubled(calls), dataset, out)
    status = {str(row["scan"]): str(row["status"]) for row in rows}
    assert len(status) == 11 and list(status.values()).count("done") == 10
    assert "sub-03_T1w.nii.gz" in status["sub-03"]
    assert (out / "sub-10" / "ses-2" / "anat" / "sub-10_ses-2_desc-upsampled_T1w.nii.gz").is_file()
    anat = {p.name for p in (out / "sub-01" / "anat").iterdir()}
    assert "sub-01_desc-upsampledseed3_T1w.nii.gz" in anat
    assert not (out / ".work").exists() and not (out / "sub-03").exists()
    sidecar = json.loads((out / "sub-01/anat/sub-01_desc-upsampled_T1w.json").read_text())
    assert sidecar["Sources"] == ["bids:source:sub-01/anat/sub-01_T1w.nii.gz"]
    assert sidecar["Ours"] == 1 and sidecar["SkullStripped"] is False
    table = (out / "summary.tsv").read_text().splitlines()
    assert len(table) == 12 and table[0].split("\t") == ["scan", "status", "mean"]
    assert "sub-03" in (out / "report.html").read_text(encoding="utf-8")


def test_runs_for_some_participants_share_one_table(dataset, tmp_path):
    out = tmp_path / "out"
    for label in ("01", "02"):
        rows = derive(doubled([]), dataset, out, participants=[label])
        assert [row["scan"] for row in rows] == [f"sub-{label}"]
    table = (out / "summary.tsv").read_text().splitlines()
    assert [line.split("\t")[:2] for line in table[1:]] == [["sub-01", "kept"], ["sub-02", "done"]]


def test_what_is_done_is_kept_and_what_is_lost_is_made_again(dataset, tmp_path):
    out, calls = tmp_path / "out", []
    derive(doubled(calls), dataset, out)
    (out / "sub-02/anat/sub-02_desc-upsampled_T1w.nii.gz").unlink()
    calls.clear()
    rows = derive(doubled(calls), dataset, out)
    assert calls == ["sub-02_T1w.nii.gz", "sub-03_T1w.nii.gz"]
    assert [r["status"] for r in rows].count("kept") == 9
    assert all(row.get("mean") for row in rows if row["status"] == "kept")


def test_a_result_that_was_changed_is_neither_kept_nor_replaced_unless_allowed(dataset, tmp_path):
    out, calls = tmp_path / "out", []
    derive(doubled(calls), dataset, out, ["01"])
    file = out / "sub-01/anat/sub-01_desc-upsampled_T1w.nii.gz"
    before = file.read_bytes()
    file.write_bytes(b"corrected by hand")
    (row,) = derive(doubled(calls), dataset, out, ["01"])
    assert f"but {file.name} was changed since" in str(row["status"])
    assert file.read_bytes() == b"corrected by hand"
    (row,) = derive(doubled(calls), dataset, out, ["01"], overwrite=True)
    assert row["status"] == "done" and file.read_bytes() == before


def test_two_runs_at_once_leave_each_other_alone(dataset, tmp_path):
    """The second begins and ends while the first makes its results."""
    out = tmp_path / "out"
    first = doubled([])

    def run(path, work, person):
        summary = first.run(path, work, person)
        (row,) = derive(doubled([]), dataset, out, ["02"])
        assert row["status"] == "done"
        return summary

    (row,) = derive(replace(first, run=run), dataset, out, ["01"])
    assert row["status"] == "done" and not (out / ".work").exists()
    made = {p.name.replace("01", "02") for p in (out / "sub-01" / "anat").iterdir()}
    assert made == {p.name for p in (out / "sub-02" / "anat").iterdir()}


def test_other_labels_do_not_rename_those_of_label_maps_that_are_there(dataset, tmp_path):
    out = tmp_path / "out"
    one = replace(doubled([]), label_table=[(1, "left"), (2, "right")])
    other = replace(doubled([], 3), label_table=[(1, "right"), (2, "left")])
    derive(one, dataset, out, ["01"])
    before = (out / "dseg.tsv").read_bytes()
    for allowed in (False, True):
        with pytest.raises(VCMError, match="other labels are to be written now"):
            derive(other, dataset, out, ["02"], overwrite=allowed)
    assert (out / "dseg.tsv").read_bytes() == before
    derive(one, dataset, out, ["02"])


def test_folders_that_are_links_are_entered(dataset, tmp_path):
    linked = tmp_path / "linked"
    (linked / "sub-01").mkdir(parents=True)
    (linked / "sub-01" / "anat").symlink_to(dataset / "sub-01" / "anat")
    (linked / "sub-02").symlink_to(dataset / "sub-02")
    found, refused = find_files(linked, "T1w")
    assert [file.get("sub") for file in found] == ["01", "02"] and not refused


def test_other_settings_replace_nothing_unless_allowed(dataset, tmp_path):
    out = tmp_path / "out"
    derive(doubled([]), dataset, out, ["01"])
    before = (out / "sub-01/anat/sub-01_desc-upsampled_T1w.nii.gz").read_bytes()
    (row,) = derive(doubled([], 3), dataset, out, ["01"])
    assert "other settings" in str(row["status"])
    assert (out / "sub-01/anat/sub-01_desc-upsampled_T1w.nii.gz").read_bytes() == before
    (row,) = derive(doubled([], 3), dataset, out, ["sub-01"], overwrite=True)
    assert row["status"] == "done"
    assert (out / "sub-01/anat/sub-01_desc-upsampled_T1w.nii.gz").read_bytes() != before


def test_what_an_earlier_run_made_and_this_one_does_not_is_gone(dataset, tmp_path):
    """With its sidecar; what was changed since stays."""
    out, anat = tmp_path / "out", tmp_path / "out" / "sub-01" / "anat"
    derive(doubled([]), dataset, out, ["01"])
    before = {p.name for p in anat.iterdir()}
    mask = anat / "sub-01_desc-generatedT1w_mask.nii.gz"
    mask.write_bytes(b"drawn by hand")
    (row,) = derive(
        replace(doubled([], 3), run=only_the_result), dataset, out, ["01"], overwrite=True
    )
    assert row["status"] == "done"
    result = "sub-01_desc-upsampled_T1w"
    assert {p.name for p in anat.iterdir()} == {f"{result}.nii.gz", f"{result}.json", mask.name}
    assert len(before) == 6 and not list((out / "sub-01" / "figures").iterdir())


def only_the_result(path: Path, work: Path, person: Participant) -> dict[str, object]:
    """Neither a mask, nor a seed, nor a picture."""
    shutil.copy(path, work / path.name.replace("_T1w", "_desc-upsampled_T1w"))
    return {}


def test_records_without_checksums_remove_nothing(dataset, tmp_path):
    out = tmp_path / "out"
    derive(doubled([]), dataset, out, ["01"])
    record = out / ".vcm" / "sub-01.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps(content | {"Files": list(content["Files"])}))
    (row,) = derive(doubled([]), dataset, out, ["01"])
    assert row["status"] == "kept"
    derive(replace(doubled([], 3), run=only_the_result), dataset, out, ["01"], overwrite=True)
    assert (out / "sub-01" / "anat" / "sub-01_desc-generatedT1w_mask.nii.gz").is_file()


def test_what_is_read_beside_a_scan_is_a_setting_of_it(dataset, tmp_path):
    told = {"sub-01_T1w.nii.gz": 3, "sub-02_T1w.nii.gz": 3}
    derivation = replace(doubled([]), beside=lambda path: told[path.name])
    people = ["01", "02"]
    derive(derivation, dataset, tmp_path / "out", people)
    told["sub-02_T1w.nii.gz"] = 4
    one, two = derive(derivation, dataset, tmp_path / "out", people)
    assert one["status"] == "kept" and "other settings" in str(two["status"])


def test_age_and_sex_are_those_of_the_participants_table(dataset, tmp_path):
    lines = [f"sub-{n:02d}\t{20 + n}\t{'FM'[n % 2]}\tses-1" for n in (1, 2, 10)]
    lines += ["sub-10\t31\tF\tses-2", "sub-04\tn/a\tF\tn/a"]
    table = dataset / "participants.tsv"
    table.write_text("participant_id\tage\tsex\tsession_id\n" + "\n".join(lines) + "\n")
    out, people = tmp_path / "out", ["01", "02", "04", "05", "10"]
    rows = derive(doubled([], reads=["age", "sex"]), dataset, out, people)
    found = {str(r["scan"]): (r["status"], r.get("age"), r.get("sex")) for r in rows}
    assert found["sub-01"] == ("done", 21, "M") and found["sub-10_ses-2"] == ("done", 31, "F")
    assert found["sub-10_ses-1"] == ("done", 30, "F") and found["sub-04"] == ("done", None, "F")
    assert "no row in participants.tsv" in str(found["sub-05"][0])
    sidecar = json.loads((out / "sub-01/anat/sub-01_desc-upsampled_T1w.json").read_text())
    assert sidecar["ParticipantsTable"] == {"age": 21, "sex": "M"}


def test_another_age_in_the_table_is_another_setting(dataset, tmp_path):
    table, out = dataset / "participants.tsv", tmp_path / "out"
    for age, status in (("40", "done"), ("40", "kept"), ("41", "was done before")):
        table.write_text(f"participant_id\tage\nsub-01\t{age}\n")
        (row,) = derive(doubled([], reads=["age"]), dataset, out, ["01"])
        assert str(row["status"]).startswith(status)
    (row,) = derive(doubled([]), dataset, tmp_path / "other", ["01"])
    assert "age" not in row


def test_derivatives_are_told_what_their_source_says_of_participants(dataset, tmp_path):
    (dataset / "participants.tsv").write_text("participant_id\tage\nsub-01\t40\n")
    between = dataset / "derivatives" / "one"
    derive(doubled([]), dataset, between, ["01"])
    once_more = doubled([], reads=["age"])
    rows = derive(once_more, between, dataset / "derivatives" / "two", ["01"], desc="upsampled")
    assert [row["age"] for row in rows] == [40]


def test_subjects_and_places_that_are_refused(dataset, tmp_path):
    with pytest.raises(VCMError, match="sub-77 is not a subject"):
        find_files(dataset, "T1w", ["77"])
    with pytest.raises(VCMError, match=r"No \*_dseg"):
        find_files(dataset, "dseg")
    for place in (dataset, dataset / "results", tmp_path):
        with pytest.raises(VCMError, match="lies among the subjects"):
            derive(doubled([]), dataset, place)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_text("x")
    with pytest.raises(VCMError, match="no derivatives of vcm"):
        derive(doubled([]), dataset, tmp_path / "theirs")


@pytest.mark.skipif(VALIDATOR is None, reason="pip install bids-validator-deno for the validator")
def test_the_bids_validator_accepts_the_result(dataset, tmp_path):
    derive(doubled([]), dataset, tmp_path / "out", ["01", "10"])
    done = subprocess.run(
        [str(VALIDATOR), "--json", "--datasetTypes", "derivative", str(tmp_path / "out")],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    issues = json.loads(done.stdout)["issues"]["issues"]
    errors = [
        (i["code"], i.get("subCode"), i["location"]) for i in issues if i["severity"] == "error"
    ]
    assert errors == []


@pytest.mark.slow
def test_tissues_of_a_dataset_by_the_command_line(dataset, tmp_path):
    """Random numbers are no brain: every scan is refused by name, and the exit code says so."""
    out = tmp_path / "o"
    found = vcm(
        "segment", "tissues", dataset, "--bids", "--out", out, "--participant-label", "01,02"
    )
    assert found.exit_code == 2
    lines = found.output.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["sub-01", "sub-02"]
    assert "2 of 2 scans were refused" in found.error
