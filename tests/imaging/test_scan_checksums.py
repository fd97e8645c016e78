"""Scans are known by what they hold: files, prepared scans with their maps."""

import shutil

import pytest

from vcm.errors import VCMError
from vcm.imaging.prepared_set import load_prepared
from vcm.imaging.scan_checksums import (
    by_name,
    file_checksum,
    scan_checksums,
    source_checksums,
)
from vcm.imaging.source import Scan


def test_a_scan_is_known_by_its_image_and_its_label_map(small_prepared, tmp_path):
    subjects = load_prepared(shutil.copytree(small_prepared, tmp_path / "data"))
    before, images = scan_checksums(subjects), scan_checksums(subjects, maps=False)
    assert list(before) == [f"sub-{n}" for n in range(5)] and len({*before.values()}) == 5
    subjects[1].classes_file.unlink()
    subjects[2].image_file.write_bytes(b"other")
    after = scan_checksums(subjects)
    assert [n for n in before if before[n] != after[n]] == ["sub-1", "sub-2"]
    assert scan_checksums(subjects[:2], maps=False) == {n: images[n] for n in ("sub-0", "sub-1")}
    subjects[2].image_file.unlink()
    with pytest.raises(VCMError, match=r"sub-2_T1w\.nii\.gz cannot be read"):
        file_checksum(subjects[2].image_file)


def test_scans_of_one_name_in_two_folders_are_both_told_apart():
    first = by_name([("sub-1", "b"), ("sub-1", "a"), ("sub-2", "c")])
    assert first == {"sub-1": "a b", "sub-2": "c"}
    assert by_name([("sub-1", "a"), ("sub-2", "c"), ("sub-1", "b")]) == first


def test_a_scan_of_a_user_is_known_by_its_file_and_its_label_map(tmp_path):
    image, labels = tmp_path / "image.nii", tmp_path / "labels.nii"
    image.write_bytes(b"1")
    labels.write_bytes(b"2")
    scan = Scan("sub-1", image, labels, None, None, "train")
    both, alone = source_checksums([scan]), source_checksums([scan], maps=False)
    labels.write_bytes(b"other")
    assert source_checksums([scan]) != both and source_checksums([scan], maps=False) == alone
    image.write_bytes(b"other")
    assert source_checksums([scan], maps=False) != alone
