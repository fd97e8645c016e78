"""Folders of scans as people have them: links, maps beside scans, hidden files."""

import os
import warnings
from pathlib import Path

import pytest

from vcm.errors import VCMWarning
from vcm.imaging.scan_files import files_below, is_t1w


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def found(folder, *without):
    return [p.relative_to(folder).as_posix() for p in files_below(folder, without)]


def test_folders_that_are_links_are_entered(tmp_path):
    store = write(tmp_path / "store", "sub-02/anat/b.nii.gz", "anat/c.nii.gz")
    chosen = write(tmp_path / "chosen", "sub-01/a.nii.gz", "sub-03/.hidden")
    (chosen / "sub-02").symlink_to(store / "sub-02")
    (chosen / "sub-03" / "anat").symlink_to("../../store/anat")
    assert found(chosen) == ["sub-01/a.nii.gz", "sub-02/anat/b.nii.gz", "sub-03/anat/c.nii.gz"]
    (tmp_path / "linked").symlink_to(chosen)
    assert found(tmp_path / "linked") == found(chosen)


def test_a_folder_that_is_reached_twice_is_read_once(tmp_path):
    write(tmp_path, "scans/sub-01/a.nii.gz")
    (tmp_path / "scans" / "sub-01" / "up").symlink_to("..")
    (tmp_path / "scans" / "again").symlink_to("sub-01")
    (tmp_path / "scans" / "itself").symlink_to("itself")
    assert found(tmp_path / "scans") == ["itself", "sub-01/a.nii.gz"]


def test_a_folder_is_left_out_unless_it_is_the_one_that_is_asked_about(tmp_path):
    write(tmp_path, "a.nii.gz", "out/b.nii.gz", "out/deeper/c.nii.gz")
    assert found(tmp_path, tmp_path / "out", tmp_path / "nowhere") == ["a.nii.gz"]
    assert found(tmp_path, tmp_path) == found(tmp_path)
    assert found(tmp_path / "out" / "deeper", tmp_path / "out") == ["c.nii.gz"]


def test_hidden_files_and_folders_are_left_out(tmp_path):
    write(tmp_path, "a.nii.gz", "._a.nii.gz", ".work/b.nii.gz")
    assert found(tmp_path) == ["a.nii.gz"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    write(tmp_path, "a/a.nii.gz", "b/b.nii.gz")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.warns(VCMWarning, match=r"b cannot be read \(Permission denied\), so its files"):
        assert found(tmp_path) == ["a/a.nii.gz"]


def test_nothing_is_said_of_a_folder_that_can_be_read(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found(write(tmp_path, "a/a.nii.gz")) == ["a/a.nii.gz"]


@pytest.mark.parametrize(
    "name",
    ["T1w.nii.gz", "sub-01_T1w.nii", "sub-01_T1w_brain.nii.gz", "sub-01_desc-preproc_T1w.nii.gz",
     "sub-01_space-MNI152_T1w.nii.gz", "sub-01-T1w.nii.gz", "sub-01_desc-upsampled_T1w.nii.gz"],
)  # fmt: skip
def test_t1w_scans(name):
    assert is_t1w(Path(name))


@pytest.mark.parametrize(
    "name",
    ["sub-01_space-T1w_label-GM_probseg.nii.gz", "sub-01_space-T1w_desc-brain_mask.nii.gz",
     "sub-01_T1w_dseg.nii.gz", "sub-01_T1w_brain_probseg.nii.gz", "sub-01_T1w_brain_mask.nii.gz",
     "sub-01_T1w_brain_desc-uncertainty.nii.gz", "sub-01_desc-upsampledstd_T1w.nii.gz",
     "sub-01_space-T1w_desc-preproc_bold.nii.gz", "sub-01_from-T1w_to-MNI152_xfm.nii.gz",
     "sub-01_T2w.nii.gz", "sub-01_T1w.json", "sub-01_acq-T1wlike_T2w.nii.gz",
     "sub-01_mod-T1w_defacemask.nii.gz", "sub-01_desc-T1wref_FLAIR.nii.gz", "sub-01_part-phase_T1w.nii.gz"],
)  # fmt: skip
def test_maps_of_a_scan_and_files_in_its_space_are_no_t1w_scans(name):
    assert not is_t1w(Path(name))
