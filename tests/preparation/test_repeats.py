"""A scan that is there twice is noticed, whatever its file is named, compressed or turned."""

import gzip
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from source_folders import FREESURFER, GRID, bids

from vcm.files import sha256
from vcm.imaging.content_checksum import content_checksum
from vcm.imaging.volume import Volume, read_volume, write_volume
from vcm.preparation.check import check_folder
from vcm.preparation.prepare import prepare
from vcm.preparation.repeats import without_repeats


def uncompressed(image):
    copy = image.with_name("sub-09_T1w.nii")
    copy.write_bytes(gzip.decompress(image.read_bytes()))
    image.unlink()
    return copy


def recompressed(image):
    image.write_bytes(gzip.compress(gzip.decompress(image.read_bytes()), 1, mtime=1))
    return image


def in_other_numbers(image):
    """Whole numbers where they were float32; the brain of these tests has few values."""
    found = nib.load(image)
    values = np.round(np.asarray(found.dataobj)).astype(np.int16)
    nib.save(nib.Nifti1Image(values, found.affine), image)
    return image


def turned(image):
    found = nib.load(image)
    flipped = nib.orientations.axcodes2ornt("PSR")
    own = nib.orientations.io_orientation(found.affine)
    nib.save(found.as_reoriented(nib.orientations.ornt_transform(own, flipped)), image)
    return image


@pytest.fixture
def twice(tmp_path):
    """Three scans, of which sub-00 to train on and sub-09 to test with are one; a map for sub-00 alone."""

    def write(change, head_map):
        source = bids(tmp_path / "bids", [(0, 0, 0), (1, 0, 0)])
        own = source / "sub-00" / "anat" / "sub-00_T1w.nii.gz"
        brain = read_volume(own)
        write_volume(replace(brain, data=np.round(brain.data)), own)
        copy = source / "sub-09" / "anat" / "sub-09_T1w.nii.gz"
        copy.parent.mkdir(parents=True)
        copy.write_bytes(own.read_bytes())
        made = change(copy)
        assert sha256(made) != sha256(own)
        if head_map:
            labels = Volume(FREESURFER[head_map[0]], brain.affine)
            write_volume(labels, own.with_name("sub-00_dseg.nii.gz"))
        table = source / "participants.tsv"
        table.write_text(table.read_text() + "sub-09\t39\tF\ttest\n")
        return source

    return write


CHANGES = [uncompressed, recompressed, in_other_numbers, turned]


@pytest.mark.usefixtures("no_registration")
@pytest.mark.parametrize("change", CHANGES)
def test_the_same_scan_in_another_file_is_prepared_once(tmp_path, twice, change):
    found = prepare(twice(change, None), tmp_path / "out", workers=1, grid=GRID)
    assert [s.participant_id for s in found.scans] == ["sub-00", "sub-01"]
    (other,) = found.rejected
    assert (
        other.subject == "sub-09" and "same scan as sub-00 of split train: keep one" in other.what
    )


@pytest.mark.usefixtures("no_registration")
def test_it_is_so_where_only_one_of_the_two_has_a_label_map(tmp_path, twice, head_map):
    found = prepare(twice(uncompressed, head_map), tmp_path / "out", workers=1, grid=GRID)
    assert [r.subject for r in found.rejected] == ["sub-09"]


@pytest.mark.parametrize("change", CHANGES)
def test_a_check_finds_the_same_scan_in_another_file(twice, change):
    found = [(p.subject, p.what) for p in check_folder(twice(change, None))]
    said = "is the same scan as sub-00, across train and test: keep one"
    assert [pair for pair in found if "same scan" in pair[1]] == [("sub-09", said)]


@pytest.mark.usefixtures("no_registration")
def test_records_of_before_are_compared_by_what_was_made_of_the_scan(tmp_path, twice):
    source = twice(uncompressed, None)
    prepare(source, tmp_path / "out", workers=1, grid=GRID)
    records = [
        replace(scan, content="")
        for scan in prepare(source, tmp_path / "out", workers=1, grid=GRID).scans
    ]
    copy = replace(
        records[0], participant_id="sub-09", split="test", made_from={"image": "of another file"},
        files={n.replace("sub-00", "sub-09"): s for n, s in records[0].files.items()},
    )  # fmt: skip
    kept, repeated = without_repeats([*records, copy])
    assert kept == records and [r.subject for r in repeated] == ["sub-09"]
    other = replace(copy, files={"sub-09_T1w.nii.gz": "another image"})
    assert without_repeats([*records, other]) == ([*records, other], [])


def test_another_place_and_other_values_are_another_scan():
    data = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    affine = np.array([[-2.0, 0, 0, 1], [0, 0, 2, 2], [0, 2, 0, 3], [0, 0, 0, 1]])
    same = content_checksum(Volume(data, affine))
    assert content_checksum(Volume(data.astype(np.float64), affine + 1e-5)) == same
    moved, changed = affine.copy(), data.copy()
    moved[0, 3] += 0.1
    changed[0, 0, 0] += 1
    mirrored = Volume(data[::-1], affine)
    others = [Volume(data, moved), Volume(changed, affine), mirrored]
    assert same not in {content_checksum(volume) for volume in others}
