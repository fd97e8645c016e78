from dataclasses import replace

import numpy as np
import pytest

from vcm.segmentation.classifier_fit import FitSettings
from vcm.segmentation.labelled import UNKNOWN
from vcm.segmentation.segmenter import FewShotSegmenter
from vcm.segmentation.sides import both_ways, counterparts, mirrored


def merged(brain):
    """Left and right ball under one name."""
    return replace(brain, labels=np.array([0, 1, 1, 2], np.int16)[brain.labels])


def test_left_and_right_are_counterparts_and_what_lies_on_both_sides_is_its_own(phantom):
    assert counterparts([phantom(0.5)], 4).tolist() == [0, 2, 1, 3]
    assert counterparts([merged(phantom(0.5))], 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("without", [1, 2])
def test_a_structure_of_one_side_has_no_counterpart(phantom, without):
    brain = phantom()
    labels = np.where(brain.labels == without, 0, brain.labels)
    labels = np.array([0, 1, 1, 2], np.int16)[labels]
    assert counterparts([replace(brain, labels=labels)], 3) is None


def test_slices_alone_tell_the_counterparts_where_both_sides_are_labelled(phantom):
    brain = phantom()
    coronal, sagittal = np.full_like(brain.labels, UNKNOWN), np.full_like(brain.labels, UNKNOWN)
    coronal[:, 12:27:2] = brain.labels[:, 12:27:2]
    sagittal[8:14] = brain.labels[8:14]
    assert counterparts([replace(brain, labels=coronal)], 4).tolist() == [0, 2, 1, 3]
    assert counterparts([replace(brain, labels=sagittal)], 4) is None


def test_each_voxel_gets_the_mean_of_itself_and_its_mirror_image():
    random = np.random.default_rng(0)
    image = random.random((6, 5, 4)).astype(np.float32)
    mask = random.random(image.shape) < 0.4

    def ask(image, mask):
        values = image[mask]
        return np.stack([values, values**2, 1 - values], 1)

    found = both_ways(ask, image, mask, np.array([0, 2, 1]))
    own = ask(image, mask)
    # Each voxel is asked about alone, so its mirror image says the same of it, under the other name.
    expected = (own + own[:, [0, 2, 1]]) / 2
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.array_equal(both_ways(ask, image, mask, None), own)


def test_a_brain_and_its_mirror_image_are_named_alike(tiny_features, phantom, tmp_path):
    segmenter = FewShotSegmenter(tiny_features, ["background", "left", "right", "dark"]).fit(
        [phantom()],
        ("features", "atlas"),
        FitSettings(members=2, steps=300),
        copies=1,
        voxels=20_000,
    )
    other = phantom(shift=0.4, seed=4)
    swap = np.array([0, 2, 1, 3])
    found = segmenter.predict(other.image).posterior
    reversed_ = segmenter.predict(mirrored(other.image)).posterior[swap][:, ::-1]
    np.testing.assert_allclose(found, reversed_, atol=2e-2)
    segmenter.save_pretrained(tmp_path)
    loaded = FewShotSegmenter.from_pretrained(tmp_path)
    assert loaded.other_side.tolist() == swap.tolist()
    loaded.other_side = None
    assert not np.array_equal(loaded.predict(other.image).posterior, found)
