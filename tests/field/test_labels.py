"""Label maps of other programs, through the functions that `vcm synthesize` and `vcm prepare` read them with:
each is mapped, or refused in one sentence; none paints a tissue as another, or as background, in silence."""

import warnings

import numpy as np
import pytest
from small_brains import GRID, classes_of, image_of

from vcm.errors import VCMError, VCMWarning
from vcm.imaging.vocabulary import read_brain, read_classes
from vcm.imaging.volume import Volume, write_volume

#: Volumes [mL] of the eight classes in a head of 2 mm voxels, and the numbers of an aseg of both sides as one.
VOLUMES = {1: 560, 2: 640, 3: 20, 4: 40, 5: 8, 6: 3, 7: 120, 8: 24}
ASEG = {1: 2, 2: 3, 3: 4, 4: 10, 5: 17, 6: 18, 7: 24, 8: 16}


def head(labels: dict[int, int], changed: dict[int, tuple[int, float]] | None = None) -> Volume:
    """Classes as these labels; of a class in `changed`, that share has another label."""
    data = np.zeros((60, 60, 60), np.int32)
    flat, start = data.reshape(-1), 0
    for number, volume in VOLUMES.items():
        count = round(volume / 0.008)
        flat[start : start + count] = labels[number]
        if changed and number in changed:
            label, share = changed[number]
            flat[start : start + round(share * count)] = label
        start += count
    return Volume(data, np.diag([2.0, 2.0, 2.0, 1.0]))


def read(tmp_path, label_map: Volume, labels: str = "auto") -> np.ndarray:
    path = write_volume(label_map, tmp_path / "sub-1_dseg.nii.gz")
    return read_classes(path, labels)[0].data


def refusal(tmp_path, label_map: Volume, labels: str = "auto") -> str:
    with pytest.raises(VCMError) as caught:
        read(tmp_path, label_map, labels)
    sentence = str(caught.value)
    assert "\n" not in sentence and "--" not in sentence and caught.value.argument == "labels"
    return sentence


VOXELS = head({n: n for n in range(1, 9)}).data.astype(np.uint8)


@pytest.mark.parametrize(
    ("number", "label"),
    [
        (1, 99), (1, 77), (1, 192), (1, 251), (1, 5001), (1, 3012), (1, 14120), (1, 250), (1, 219),
        (2, 1000), (2, 2035), (2, 11142), (2, 12175), (2, 220), (2, 628), (3, 72), (3, 213), (4, 8109),
        (4, 62), (4, 80), (5, 203), (5, 215 - 9), (5, 246), (6, 7001), (7, 257), (8, 173), (8, 178),
        (2, 951), (2, 952), (1, 961), (1, 968), (1, 969), (1, 972), (3, 970), (4, 963), (4, 973), (4, 975),
        (4, 984), (2, 632), (1, 5325), (5, 283), (8, 7203),
    ],
)  # fmt: skip
def test_a_label_of_freesurfers_table_is_the_tissue_that_it_names(tmp_path, number, label):
    found = read(tmp_path, head(ASEG, {number: (label, 0.1)}))
    np.testing.assert_array_equal(found, VOXELS)


@pytest.mark.parametrize("label", [29, 75, 168, 600, 902, 953, 985, 1036, 4321, 999, 20000])
def test_a_label_that_names_no_tissue_is_listed_with_its_volume(tmp_path, label):
    sentence = refusal(tmp_path, head(ASEG, {1: (label, 0.1)}))
    assert f"{label} (56 mL)" in sentence and "nearest is freesurfer" in sentence
    assert f"{label} (56 mL)" in refusal(tmp_path, head(ASEG, {1: (label, 0.1)}), "freesurfer")


def test_a_hippocampus_of_high_resolution_is_not_taken_for_the_head_around_the_brain(tmp_path):
    """500 to 508 are subfields for FreeSurfer and skin for SynthSeg's training maps."""
    subfields = head(ASEG, {5: (507, 0.5)})
    assert "507 (4 mL)" in refusal(tmp_path, subfields)
    np.testing.assert_array_equal(read(tmp_path, subfields, "freesurfer"), VOXELS)


@pytest.mark.parametrize(
    ("labels", "fitting"),
    [
        ({1: 2, 2: 1, 3: 3, 4: 1, 5: 1, 6: 1, 7: 3, 8: 2}, "bids"),
        ({1: 3, 2: 2, 3: 1, 4: 2, 5: 2, 6: 2, 7: 1, 8: 3}, "fast"),
        ({1: 3, 2: 1, 3: 4, 4: 2, 5: 2, 6: 2, 7: 4, 8: 3}, "5tt"),
    ],
)
def test_a_tissue_map_is_refused_until_it_is_named(tmp_path, labels, fitting):
    tissues = head(labels)
    sentence = refusal(tmp_path, tissues)
    assert "few labels" in sentence and f"{fitting} (1 " in sentence and " mL)" in sentence
    found = read(tmp_path, tissues, fitting)
    # What the map tells: white and grey matter where they were, and every brain voxel some tissue.
    assert (found[VOXELS == 1] == 1).all() and (found[VOXELS == 2] == 2).all()
    assert ((found > 0) == (VOXELS > 0)).all() and (found[VOXELS == 7] == 7).all()


@pytest.mark.parametrize("value", [1, 2, 255])
def test_a_plain_mask_is_no_label_map(tmp_path, value):
    mask = head(dict.fromkeys(VOLUMES, value))
    assert "a plain mask" in refusal(tmp_path, mask)
    with pytest.raises(VCMError, match="not its tissues"):
        read(tmp_path, mask, "mask")


@pytest.mark.parametrize("order", [(8, 7, 6, 5, 4, 3, 2, 1), (3, 1, 6, 2, 7, 8, 5, 4)])
def test_other_tables_of_eight_numbers_are_not_taken_for_the_eight_classes(tmp_path, order):
    """The second order is that of MRBrainS."""
    other = head(dict(zip(range(1, 9), order, strict=True)))
    assert "no brain has" in refusal(tmp_path, other)


def brain(**exchanged: int) -> Volume:
    """A brain of ellipsoids in the eight classes, of which some have other numbers: c1=2 is 2 for 1."""
    numbers = np.arange(9, dtype=np.uint8)
    for name, number in exchanged.items():
        numbers[int(name[1:])] = number
    return Volume(numbers[classes_of(1.0)], GRID.affine, source="sub-1_dseg.nii.gz")


EXCHANGED = [(1, 2), (1, 7), (2, 7), (3, 7), (4, 8), (3, 8), (1, 3), (2, 4), (5, 8)]


@pytest.mark.parametrize(("one", "other"), EXCHANGED)
def test_eight_numbers_of_which_two_are_exchanged_are_refused(tmp_path, one, other):
    """By their volumes, or by where they lie: white matter and cortex have the same volume."""
    wrong = brain(**{f"c{one}": other, f"c{other}": one})
    sentence = refusal(tmp_path, wrong)
    assert "read as vcm8" in sentence and ("no brain has" in sentence or " put " in sentence)
    if (one, other) != (5, 8):  # both may be small, or missing, in a map whose vocabulary is named
        with pytest.warns(VCMWarning, match="read as vcm8, has .* check that this is its vocab"):
            read(tmp_path, wrong, "vcm8")


@pytest.mark.parametrize(("one", "other"), [*EXCHANGED, (3, 4)])
def test_a_map_is_held_against_its_scan(tmp_path, one, other):
    """Bare numbers are refused; a map whose vocabulary is named or known makes a warning."""
    scan = Volume(image_of(classes_of(1.0), 0), GRID.affine)
    dark = {1: 2, 2: 1} if (one, other) == (1, 2) else {one: other, other: one}
    path = write_volume(brain(**{f"c{a}": b for a, b in dark.items()}), tmp_path / "m_dseg.nii.gz")
    if (one, other) in ((1, 2), (3, 4), (1, 3)):
        with pytest.warns(VCMWarning, match="is odd on its T1-weighted scan: .* no brighter than"):
            read_brain(path, "vcm8", scan)
    with pytest.raises(VCMError):
        read_brain(path, "auto", scan)
    aseg = np.array([0, *ASEG.values()], np.int16)
    known = write_volume(Volume(aseg[brain().data], GRID.affine), tmp_path / "a_dseg.nii.gz")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (read_brain(known, "auto", scan)[0] == (scan.data > 0)).all()


def test_a_tissue_map_that_is_named_is_read_without_a_word(tmp_path):
    bids = brain(c1=2, c2=1, c3=3, c4=1, c5=1, c6=1, c7=3, c8=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(tmp_path, bids, "bids")
        # FreeSurfer's CSF is that of the cisterns, deep in the head.
        aseg = np.array([0, *ASEG.values()], np.int16)[brain().data]
        aseg[aseg == 24] = 0
        aseg[15:17, 24:26, 15:17] = 24
        read(tmp_path, Volume(aseg, GRID.affine), "freesurfer")


def test_healthy_maps_are_read_without_a_word(tmp_path):
    np.testing.assert_array_equal(read(tmp_path, head(ASEG)), VOXELS)
    np.testing.assert_array_equal(read(tmp_path, brain()), brain().data)
    dlmuse = {1: 81, 2: 100, 3: 51, 4: 59, 5: 47, 6: 31, 7: 1, 8: 35}
    np.testing.assert_array_equal(read(tmp_path, head(dlmuse)), VOXELS)
