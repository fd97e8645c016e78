import numpy as np
import pytest

from vcm.errors import VCMError
from vcm.imaging.conditions import ventricular_and_brain_volume
from vcm.imaging.vocabulary import (
    BUILT_IN,
    brain_of,
    in_words,
    label_volumes,
    load_vocabulary,
    read_brain,
    read_classes,
    recognise,
)
from vcm.imaging.volume import Volume, read_label_map, write_volume


def labelled(**volumes: float) -> Volume:
    """A row of voxels of 1 mL with that volume [mL] of each label: l2=500 is 500 mL of label 2."""
    labels = np.concatenate([[0], *[[int(k[1:])] * int(v) for k, v in volumes.items()]])
    return Volume(labels.reshape(-1, 1, 1).astype(np.int32), np.diag([10.0, 10, 10, 1]), source="m")


def classes_of(name: str, *labels: int) -> list[int | None]:
    vocabulary = load_vocabulary(name)
    return [vocabulary.class_of(label) for label in labels]


WHOLE = {"l2": 500, "l3": 600, "l4": 20, "l10": 40, "l17": 7, "l18": 3, "l24": 100, "l16": 20}


@pytest.mark.parametrize(
    ("labels", "number"),
    [
        ((2, 41, 77, 99, 192, 250, 251, 255, 219, 3000, 3035, 4035, 5001, 5002, 13142, 14175), 1),
        ((3, 42, 8, 47, 220, 216, 1000, 1035, 2000, 2035, 11100, 11175, 12101, 628, 172), 2),
        ((4, 43, 5, 44, 14, 15, 72, 31, 63, 213), 3),
        ((10, 49, 11, 12, 13, 26, 28, 60, 8103, 8234, 30, 62, 801, 819), 4),
        ((17, 53, 203, 205, 206, 211, 212, 226, 233, 246, 200, 507, 552), 5),
        ((18, 54, 218, 7001, 7020), 6),
        ((24, 257, 215), 7),
        ((16, 173, 174, 175, 178), 8),
        ((0, 165, 258, 259, 130, 98), 0),
        # In no table, or no tissue of one class: named in a refusal, never background in silence.
        ((1, 40, 6, 29, 61, 75, 168, 600, 902, 953, 985, 509, 999, 1036, 3036), None),
    ],
)
def test_freesurfers_table(labels, number):
    assert classes_of("freesurfer", *labels) == [number] * len(labels)


def test_tissue_maps_are_read_in_the_order_that_is_named():
    assert classes_of("bids", 1, 2, 3) == [2, 1, 7]
    assert classes_of("fast", 1, 2, 3) == [7, 2, 1]
    assert classes_of("5tt", 1, 2, 3, 4, 5) == [2, 4, 1, 7, 1]
    assert classes_of("dlmuse", 81, 38, 51, 59, 47, 31, 1, 35) == list(range(1, 9))
    assert classes_of("vcm8", *range(9)) == list(range(9))


def test_the_numbers_that_synthseg_and_freesurfer_read_differently():
    assert classes_of("synthseg", 136, 137, 163, 164, 507, 530) == [3, 3, 3, 3, 0, 0]
    assert classes_of("freesurfer", 136, 137, 163, 164) == [4, 4, 4, 4]
    with pytest.raises(VCMError, match=r"read differently: .*136 \(5 mL\).*freesurfer.*synthseg"):
        recognise(labelled(**WHOLE, l136=5))


def test_translation_keeps_voxels_whatever_the_size_of_the_labels(tmp_path):
    table = tmp_path / "mine.yaml"
    table.write_text(
        "name: mine\nclasses:\n  1: [7]\n  3: [2000000000]\nbackground: [5]\nranges:\n  2: [[90, 99]]\n"
    )
    mine = load_vocabulary(table)
    data = np.array([0, 5, 7, 2000000000, 90, 99]).reshape(1, 2, 3)
    found = mine.to_classes(Volume(data, np.eye(4)))
    assert found.data.dtype == np.uint8 and found.data.shape == (1, 2, 3)
    assert found.data.ravel().tolist() == [0, 0, 1, 3, 2, 2]
    small = np.where(data == 2000000000, 7, data)
    assert mine.to_classes(Volume(small, np.eye(4))).data.ravel().tolist() == [0, 0, 1, 1, 2, 2]


def test_what_does_not_fit_is_listed_with_its_volume_and_with_who_names_it():
    with pytest.raises(
        VCMError, match=r"does not name: 9902 \(12 mL\), 9901 \(3 mL\); add"
    ) as found:
        load_vocabulary("dlmuse").to_classes(labelled(l81=300, l9901=3, l9902=12))
    assert found.value.argument == "labels"
    with pytest.raises(VCMError, match="choose freesurfer or synthseg, which names them"):
        load_vocabulary("dlmuse").to_classes(labelled(**WHOLE))
    assert in_words(dict.fromkeys(range(1, 15), 1.0)).endswith("and 2 more")


def test_volumes_of_labels():
    data = np.zeros((4, 4, 4), np.int32)
    data[:2], data[0, 0, 0] = 70000, 3
    volumes = label_volumes(Volume(data, np.diag([2.0, 2, 2, 1])))
    assert volumes == {3: pytest.approx(0.008), 70000: pytest.approx(31 * 0.008)}


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"l1": 1400}, r"a plain mask: 1 \(1400 mL\).*mask"),
        ({"l255": 1400}, r"a plain mask: 255 \(1400 mL\).*mask \(where the brain is"),
        ({"l1": 700, "l2": 600, "l3": 17}, r"few labels.*bids \(1 grey.*fast \(1 CSF.*5tt"),
        ({"l1": 500, "l2": 60, "l3": 500, "l4": 200, "l5": 1}, "few labels.*5tt"),
        # CSF, grey and white matter of iSeg and IBSR, whose numbers FreeSurfer's table names too
        ({"l10": 300, "l150": 600, "l250": 500}, "read as freesurfer, give volumes that no brain"),
        ({"l128": 300, "l192": 600, "l254": 500}, "read as freesurfer, give volumes that no brain"),
        ({"l17": 4, "l53": 4}, "read as freesurfer, give volumes that no brain"),
        # MRBrainS: cortex, basal ganglia, white matter, lesions, CSF, ventricles, cerebellum, brainstem
        (
            {"l1": 500, "l2": 45, "l3": 450, "l4": 5, "l5": 250, "l6": 30, "l7": 130, "l8": 25},
            "read as vcm8, give volumes that no brain has",
        ),
        ({"l1": 9, "l21": 9, "l45": 9}, r"names all of; nearest is .* does not name"),
    ],
)
def test_few_labels_are_never_guessed(given, word):
    with pytest.raises(VCMError, match=word) as found:
        recognise(labelled(**given))
    assert found.value.argument == "labels"


def test_few_labels_of_freesurfers_own_numbers_are_recognised_by_their_volumes():
    assert recognise(labelled(l2=678, l3=725, l24=147)).name == "freesurfer"
    with pytest.raises(VCMError, match="no brain has"):
        recognise(labelled(l2=678, l3=25, l24=800))


def test_the_eight_classes_are_recognised_where_each_has_its_size():
    sizes = {1: 550, 2: 650, 3: 25, 4: 40, 5: 7, 6: 3, 7: 150, 8: 20}
    assert recognise(labelled(**{f"l{k}": v for k, v in sizes.items()})).name == "vcm8"
    with pytest.raises(VCMError, match="no brain has"):
        recognise(labelled(**{f"l{k}": v for k, v in (sizes | {1: 3, 6: 550}).items()}))


def test_a_mask_gives_the_brain_and_no_condition(tmp_path):
    data = np.zeros((6, 6, 6), np.int16)
    data[2:4] = 255
    path = write_volume(Volume(data, np.eye(4)), tmp_path / "mask.nii.gz")
    brain, classes = read_brain(path, "mask", Volume(np.ones((6, 6, 6)), np.eye(4)))
    assert classes is None and brain.sum() == 72
    with pytest.raises(VCMError, match="not its tissues"):
        read_classes(path, "mask")
    with pytest.raises(VCMError, match=r"\(6, 6, 6\)"):
        read_brain(path, "mask", Volume(np.ones((5, 6, 6)), np.eye(4)))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("classes:\n  9: [1]\n", "class 9"),
        ("classes:\n  0: [1]\n", "class 0"),
        ("classes:\n  1: [2]\nranges:\n  9: [[3, 4]]\n", "class 9"),
        ("classes:\n  1: [2]\n  2: [2]\n", "label 2 is given twice"),
        ("classes:\n  1: [2]\nbackground: [2]\n", "label 2 is given twice"),
        ("classes:\n  1: [2.5]\n", "2.5 is not a whole number"),
        ("classes:\n  1: [9]\nranges:\n  2: [[8, 4]]\n", "8 to 4 is empty"),
        ("classes:\n  1: [9]\nranges:\n  2: [[3, 8]]\n  3: [[8, 10]]\n", "overlaps"),
        ("a: 1\n", "classes"),
        ("- x\n", "no table"),
        ("a: [\n", "expected node"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, word):
    table = tmp_path / "bad.yaml"
    table.write_text(text)
    with pytest.raises(VCMError, match=rf"is not a vocabulary.*{word}"):
        load_vocabulary(table)


def test_every_built_in_table_can_be_read_and_says_what_it_is():
    for name in BUILT_IN:
        assert load_vocabulary(name).name == name and load_vocabulary(name).meaning
    with pytest.raises(VCMError, match="neither built in"):
        load_vocabulary("nothing.yaml")


def test_real_label_maps_are_recognised(real_scans):
    for path in sorted((real_scans / "labelmaps").glob("*.nii.gz"))[:1]:
        labels = read_label_map(path)
        assert recognise(labels).name == "synthseg"
        classes = load_vocabulary("synthseg").to_classes(labels)
        _, brain = ventricular_and_brain_volume(classes.data, labels.grid.voxel_volume)
        assert 800 < brain < 1800


@pytest.mark.parametrize(
    ("labels", "given", "outside"),
    [
        ("auto", {"l1": 700, "l2": 600, "l3": 17}, ()),
        ("auto", {"l255": 1400}, ()),
        ("auto", WHOLE | {"l258": 300, "l165": 200}, (258, 165)),
        ("synthseg", WHOLE | {"l507": 300}, (507,)),
        ("mask", {"l7": 1400, "l9": 3}, ()),
    ],
)
def test_the_brain_of_a_map_is_without_the_head_around_it(labels, given, outside):
    label_map = labelled(**given)
    wanted = (label_map.data > 0) & ~np.isin(label_map.data, outside)
    np.testing.assert_array_equal(brain_of(label_map, labels), wanted)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"l165": 900}, "whose brain these vocabularies differ on: 165"),
        (WHOLE | {"l507": 9}, "whose brain these vocabularies differ on"),
        (WHOLE | {"l9999": 5}, r"does not name 9999 \(5 mL\)"),
    ],
)
def test_a_doubt_about_where_the_brain_is_is_refused(given, word):
    with pytest.raises(VCMError, match=word) as found:
        brain_of(labelled(**given))
    assert found.value.argument == "labels"
    with pytest.raises(VCMError, match="does not name"):
        brain_of(labelled(**given), "vcm8")
