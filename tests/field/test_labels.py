"""Label maps of other programs, through the functions that `vcm synthesize` and `vcm prepare` read them with:
each is mapped, or refused in one sentence; none paints a tissue as another, or as background, in silence."""

import numpy as np
import pytest

from vcm.errors import VCMError
from vcm.imaging.vocabulary import read_classes
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
    ],
)  # fmt: skip
def test_a_label_of_freesurfers_table_is_the_tissue_that_it_names(tmp_path, number, label):
    found = read(tmp_path, head(ASEG, {number: (label, 0.1)}))
    np.testing.assert_array_equal(found, VOXELS)


@pytest.mark.parametrize("label", [29, 168, 600, 951, 975, 1036, 4321, 999, 20000])
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


def test_healthy_maps_are_read_without_a_word(tmp_path):
    np.testing.assert_array_equal(read(tmp_path, head(ASEG)), VOXELS)
    np.testing.assert_array_equal(read(tmp_path, head({n: n for n in VOLUMES})), VOXELS)
    dlmuse = {1: 81, 2: 100, 3: 51, 4: 59, 5: 47, 6: 31, 7: 1, 8: 35}
    np.testing.assert_array_equal(read(tmp_path, head(dlmuse)), VOXELS)
