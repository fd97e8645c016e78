import numpy as np
import pytest

from vcm.errors import VCMError
from vcm.imaging import conditions
from vcm.imaging.volume import read_label_map


def test_known_indices_of_each_vocabulary():
    freesurfer = conditions.load_vocabulary("freesurfer")
    found = freesurfer.to_classes(np.array([0, 2, 42, 4, 10, 53, 18, 24, 16, 1035, 507]))
    assert found.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 2, 0]
    dlmuse = conditions.load_vocabulary("dlmuse")
    assert dlmuse.to_classes(np.array([81, 38, 51, 59, 47, 31, 1, 35])).tolist() == list(
        range(1, 9)
    )


def test_unknown_labels_are_listed_with_the_remedy():
    with pytest.raises(VCMError, match=r"9001, 9002.*--labels"):
        conditions.load_vocabulary("freesurfer").to_classes(np.array([0, 2, 9002, 9001]))


def test_one_hot_has_no_background_channel():
    classes = np.random.default_rng(0).integers(0, 9, (3, 4, 5)).astype(np.uint8)
    hot = conditions.one_hot(classes)
    assert hot.shape == (8, 3, 4, 5)
    np.testing.assert_array_equal(hot.sum(0), classes > 0)
    np.testing.assert_array_equal(hot.argmax(0)[classes > 0] + 1, classes[classes > 0])


def test_own_table(tmp_path):
    table = tmp_path / "mine.yaml"
    table.write_text("name: mine\nclasses:\n  1: [7]\n  3: [9]\nbackground: [5]\n")
    mine = conditions.load_vocabulary(table)
    assert mine.to_classes(np.array([0, 5, 7, 9])).tolist() == [0, 0, 1, 3]


@pytest.mark.parametrize(
    "text", ["classes:\n  9: [1]\n", "classes:\n  1: [2]\n  2: [2]\n", "a: 1\n", "- x\n", "a: [\n"]
)
def test_bad_tables_are_refused(tmp_path, text):
    table = tmp_path / "bad.yaml"
    table.write_text(text)
    with pytest.raises(VCMError, match="is not a vocabulary"):
        conditions.load_vocabulary(table)


def test_volumes_in_millilitres():
    classes = np.zeros((10, 10, 10), np.uint8)
    classes[:5] = 1
    classes[0, 0] = 3
    assert conditions.ventricular_and_brain_volume(classes, 0.008) == pytest.approx((0.08, 3.92))


def test_real_label_maps_are_recognised(real_scans):
    for path in sorted((real_scans / "labelmaps").glob("*.nii.gz")):
        labels = read_label_map(path)
        vocabulary = conditions.guess_vocabulary(labels.data, path.name)
        assert vocabulary.name == "freesurfer"
        classes = vocabulary.to_classes(labels.data)
        _, brain = conditions.ventricular_and_brain_volume(classes, labels.grid.voxel_volume)
        assert 800 < brain < 1800
