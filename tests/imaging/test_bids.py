from pathlib import Path

import pytest

from vcm.imaging.bids import label_map_of, one_per_scan, parse, scan_name, stem


def files(*names):
    return [parse(Path(f"{name}.nii.gz")) for name in names]


@pytest.mark.parametrize(
    "end", [".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz", ".gz", "", ".NII.GZ"]
)
def test_the_name_of_a_scan_is_that_without_the_ending_of_its_format(end):
    assert stem(Path(f"x/sub-01_FLAIR{end}")) == "sub-01_FLAIR"


def test_entities_of_a_name():
    found = parse(Path("x/sub-01_ses-a_acq-mprage_run-01_desc-brain_T1w.nii.gz"))
    assert found.entities == {
        "sub": "01", "ses": "a", "acq": "mprage", "run": "1", "desc": "brain",
    }  # fmt: skip
    assert found.suffix == "T1w" and scan_name(found) == "sub-01_ses-a_acq-mprage_run-01"
    assert found.scan == parse(Path("sub-01_run-1_acq-mprage_ses-a_T1w.nii")).scan
    assert found.scan != parse(Path("sub-01_ses-a_run-1_T1w.nii")).scan


@pytest.mark.parametrize(
    "name",
    [
        "._sub-01_T1w.nii.gz", "sub-a-b_T1w.nii", "sub-1_sub-2_T1w.nii", "T1w.nii", "a_T1w.nii.gz",
        "sub-01_T1w_dseg.nii.gz", "ses-1_T1w.nii.gz", "sub-01_T1-w.nii",
    ],
)  # fmt: skip
def test_names_that_are_none_of_bids(name):
    assert parse(Path(name)) is None


@pytest.mark.parametrize(
    ("names", "desc", "chosen"),
    [
        (["sub-1_T1w"], "", 0),
        (["sub-1_desc-brain_T1w"], "", 0),
        (["sub-1_desc-brain_T1w", "sub-1_T1w"], "", 1),
        (["sub-1_space-MNI152_T1w", "sub-1_T1w", "sub-1_desc-brain_T1w"], "", 1),
        (["sub-1_space-MNI152_desc-preproc_T1w", "sub-1_desc-preproc_T1w"], "", 1),
        (["sub-1_T1w", "sub-1_desc-brain_T1w"], "brain", 1),
    ],
)
def test_the_scan_that_nothing_was_done_with_is_meant(names, desc, chosen):
    found, problem = one_per_scan(files(*names), desc)
    assert found.path.name == f"{names[chosen]}.nii.gz" and not problem


def test_several_files_of_one_scan_are_not_chosen_from():
    both = [parse(Path("sub-1_T1w.nii")), parse(Path("sub-1_T1w.nii.gz"))]
    found, problem = one_per_scan(both)
    assert found is None and "2 files of one kind (sub-1_T1w.nii, sub-1_T1w.nii.gz)" in problem
    assert one_per_scan(files("sub-1_T1w"), "brain") == (None, "has no file with desc-brain")


@pytest.mark.parametrize(
    ("image", "maps", "desc", "chosen"),
    [
        ("sub-1_T1w", ["sub-1_dseg"], "", 0),
        ("sub-1_T1w", ["sub-1_desc-aseg_dseg"], "", 0),
        ("sub-1_desc-brain_T1w", ["sub-1_desc-aseg_dseg"], "", 0),
        ("sub-1_ses-2_T1w", ["sub-1_ses-1_dseg", "sub-1_ses-2_dseg"], "", 1),
        ("sub-1_ses-1_T1w", ["sub-1_ses-2_dseg"], "", None),
        ("sub-1_run-01_T1w", ["sub-1_run-2_dseg", "sub-1_run-1_dseg"], "", 1),
        ("sub-1_T1w", ["sub-1_space-MNI152_dseg"], "", None),
        ("sub-1_T1w", ["sub-1_space-MNI152_dseg", "sub-1_space-T1w_dseg"], "", 1),
        ("sub-1_space-MNI152_T1w", ["sub-1_dseg", "sub-1_space-MNI152_dseg"], "", 1),
        ("sub-1_T1w", ["sub-1_dseg", "sub-1_desc-aseg_dseg"], "aseg", 1),
    ],
)
def test_the_label_map_of_a_scan(image, maps, desc, chosen):
    found, problem = label_map_of(files(image)[0], files(*maps), desc)
    assert not problem
    assert found is None if chosen is None else found.path.name == f"{maps[chosen]}.nii.gz"


@pytest.mark.parametrize(
    ("image", "maps", "desc", "word"),
    [
        ("sub-1_T1w", ["sub-1_dseg", "sub-1_desc-aseg_dseg"], "", "2 label maps"),
        ("sub-1_T1w", ["sub-1_desc-a_dseg"], "b", "no label map with desc-b"),
        ("sub-1_run-1_T1w", ["sub-1_dseg"], "", "sub-1_dseg.nii.gz, whose entities are not those"),
        ("sub-1_acq-a_T1w", ["sub-1_acq-b_dseg"], "", "rename it"),
    ],
)
def test_a_label_map_that_may_be_another_is_named(image, maps, desc, word):
    found, problem = label_map_of(files(image)[0], files(*maps), desc)
    assert found is None and word in problem
