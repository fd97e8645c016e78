"""What a user calls a label map or a table of labels is one, or is refused by name."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from vcm.errors import VCMError, VCMWarning
from vcm.imaging.geometry import halved_grid
from vcm.imaging.registration import common_template
from vcm.imaging.volume import Volume, write_volume
from vcm.segmentation import labelled
from vcm.segmentation.labelled import (
    UNKNOWN,
    label_table,
    read_labelled,
    warn_of_missing_labels,
)

TEMPLATE = common_template()


@pytest.fixture
def scan(tmp_path, monkeypatch):
    """Its file; it lies where it is to lie."""
    monkeypatch.setattr("vcm.imaging.brain.align_rigid", lambda image: np.eye(4))
    data = np.where(TEMPLATE.data > 0.2, np.rint(900 * TEMPLATE.data), 0).astype(np.float32)
    return write_volume(Volume(data, TEMPLATE.affine), tmp_path / "sub-1_T1w.nii.gz")


def read(scan, data, name="sub-1_dseg.nii.gz", unlabelled=None):
    path = write_volume(Volume(data, TEMPLATE.affine), scan.with_name(name))
    table = label_table([path], None, unlabelled)
    return table, read_labelled(scan, path, TEMPLATE.grid, [*table], unlabelled)


def test_labels_of_any_size_keep_their_numbers(scan):
    tissue = np.select([TEMPLATE.data > 0.75, TEMPLATE.data > 0.2], [2**30 + 1, 12175], 0)
    table, brain = read(scan, tissue.astype(np.int32))
    assert [*table] == [0, 12175, 2**30 + 1]
    np.testing.assert_array_equal(brain.labels, np.searchsorted([0, 12175, 2**30 + 1], tissue))


def test_a_scan_in_the_place_of_its_label_map_is_refused(scan):
    values = np.where(TEMPLATE.data > 0.2, np.rint(250 * TEMPLATE.data), 0).astype(np.uint8)
    with pytest.raises(VCMError, match=r"sub-1_dseg\.nii\.gz is no label map: \d\d % of its neigh"):
        read(scan, values)


def drawn_in_slices(labels, rest, axes, step=8):
    """The labels in every so many slices, another value between them."""
    drawn = np.full_like(labels, rest)
    for axis in axes:
        some = [slice(None)] * 3
        some[axis] = slice(20, 60, step)
        drawn[tuple(some)] = labels[tuple(some)]
    return drawn


@pytest.mark.parametrize("axes", [(0,), (2,), (0, 1, 2)])
@pytest.mark.parametrize(("rest", "given"), [(255, None), (255, 200), (0, None)])
def test_labels_drawn_in_slices_with_the_rest_not_marked_are_refused(scan, axes, rest, given):
    """The rest would be learned as a structure, or as background."""
    tissue = np.select([TEMPLATE.data > 0.75, TEMPLATE.data > 0.2], [2, 1], 0).astype(np.uint8)
    drawn = drawn_in_slices(tissue, rest, axes)
    with pytest.raises(VCMError, match=f"holds {rest} in the whole brain but for") as refused:
        read(scan, drawn, unlabelled=given)
    assert refused.value.argument == "unlabelled"


def test_a_structure_drawn_in_single_slices_is_refused_and_a_whole_one_is_not(scan):
    ball = np.indices(TEMPLATE.data.shape) - np.array(TEMPLATE.data.shape)[:, None, None, None] / 2
    structure = (np.linalg.norm(ball, axis=0) < 12).astype(np.uint8)
    assert set(np.unique(read(scan, structure)[1].labels)) == {0, 1}
    with pytest.raises(VCMError, match="structures in single slices and background between them"):
        read(scan, drawn_in_slices(structure, 0, (0, 1, 2), 4))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_labels_drawn_in_a_few_slices_are_a_label_map(scan, axis):
    tissue = np.select([TEMPLATE.data > 0.75, TEMPLATE.data > 0.2], [2, 1], 0).astype(np.uint8)
    drawn = np.full_like(tissue, 255)
    slices = [slice(None)] * 3
    slices[axis] = slice(30, 60, 10)
    drawn[tuple(slices)] = tissue[tuple(slices)]
    _, brain = read(scan, drawn, unlabelled=255)
    assert set(np.unique(brain.labels)) == {labelled.UNKNOWN, 0, 1, 2}


@pytest.mark.parametrize("first", [40, 41])
def test_no_slice_of_a_scan_of_1_mm_is_lost_at_2_mm(scan, first):
    """Whichever of two slices lies nearer to a voxel of the grid, or neither."""
    grid = halved_grid(TEMPLATE.grid)
    fine = np.kron(TEMPLATE.data, np.ones((2, 2, 2)))
    path = scan.with_name("sub-2_T1w.nii.gz")
    write_volume(Volume(np.where(fine > 0.2, np.rint(900 * fine), 0), grid.affine), path)
    tissue = np.select([fine > 0.75, fine > 0.2], [2, 1], 0).astype(np.uint8)
    drawn = np.full_like(tissue, 255)
    places = (first, first + 30, first + 60)
    for place in places:
        drawn[place] = tissue[place]
    map_ = write_volume(Volume(drawn, grid.affine), scan.with_name("sub-2_dseg.nii.gz"))
    labels = read_labelled(path, map_, TEMPLATE.grid, [0, 1, 2], 255).labels
    planes = {place // 2 for place in places}
    assert {int(n) for n in np.flatnonzero((labels != UNKNOWN).any((1, 2)))} == planes
    for place in planes:
        np.testing.assert_array_equal(labels[place], tissue[2 * place, ::2, ::2])


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("10\tone\n10\ttwo", "holds the index 10 with the name 'two'"),
        ("10\tone\n20\tone", "holds the index 20 with the name 'one'"),
        ("10\t\n20\ttwo", "holds the index 10 with the name ''"),
        ("10\n20\ttwo", "holds the index 10 with the name ''"),
        ("ten\tone", "no whole number"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(tmp_path, rows, sentence):
    (tmp_path / "names.tsv").write_text("index\tname\n" + rows + "\n")
    with pytest.raises(VCMError, match=sentence):
        label_table([], tmp_path / "names.tsv", None)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("separator", ["\t", ";", ","])
def test_a_table_of_a_spreadsheet_is_read(tmp_path, encoding, separator):
    text = "Index\tName\r\n0\tnothing\r\n17\tHippokampus größer\r\n\t\r\n".replace("\t", separator)
    (tmp_path / "names.csv").write_bytes(text.encode(encoding))
    found = label_table([], tmp_path / "names.csv", None)
    assert found == {0: "background", 17: "Hippokampus größer"}


NAMES = ["background", "left", "right", "dark"]


def without(brain, k, value=0):
    return replace(brain, labels=np.where(brain.labels == k, value, brain.labels), source="T1w.nii")


def test_a_structure_that_one_subject_has_and_another_has_not_is_named(phantom):
    """Learned from both, it would be a structure here and background there."""
    whole = phantom()
    with pytest.warns(VCMWarning) as said:
        warn_of_missing_labels([without(whole, 3), without(whole, 1)], NAMES)
    one, other = (str(warning.message) for warning in said)
    assert "Labelled scan 1 of 2 (T1w.nii) has no voxel labelled dark at" in one
    assert "Labelled scan 2 of 2 (T1w.nii) has no voxel labelled left at" in other
    assert "draw it, mark what is unknown with a number and give it as unlabelled" in one


def test_nothing_is_said_where_all_have_the_same_or_the_rest_is_unknown(phantom):
    whole = phantom()
    sparse = without(whole, 3, UNKNOWN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_missing_labels([whole, phantom(seed=1)], NAMES)
        warn_of_missing_labels([whole, sparse], NAMES)
        warn_of_missing_labels([without(whole, 3)], NAMES)
