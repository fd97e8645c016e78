import numpy as np
import pytest

from vcm.errors import VCMError
from vcm.imaging import conditions


def test_one_hot_has_no_background_channel():
    classes = np.random.default_rng(0).integers(0, 9, (3, 4, 5)).astype(np.uint8)
    hot = conditions.one_hot(classes)
    assert hot.shape == (8, 3, 4, 5)
    np.testing.assert_array_equal(hot.sum(0), classes > 0)
    np.testing.assert_array_equal(hot.argmax(0)[classes > 0] + 1, classes[classes > 0])


def test_a_condition_of_label_maps_is_one_hot_or_the_ventricles():
    classes = np.arange(9, dtype=np.uint8).reshape(9, 1, 1)
    assert conditions.as_condition("classes", classes).shape == (8, 9, 1, 1)
    ventricles = conditions.as_condition("ventricles", classes)
    assert ventricles.shape == (1, 9, 1, 1) and np.flatnonzero(ventricles).tolist() == [3]
    with pytest.raises(VCMError, match="'thick' is not made of a label map"):
        conditions.as_condition("thick", classes)
    with pytest.raises(VCMError, match=r"conditions is \[colour\]"):
        conditions.check_conditions(["colour"])


def test_volumes_in_millilitres():
    classes = np.zeros((10, 10, 10), np.uint8)
    classes[:5] = 1
    classes[0, 0] = 3
    classes[9] = 7
    assert conditions.ventricular_and_brain_volume(classes, 0.008) == pytest.approx((0.08, 3.92))
    assert conditions.class_volumes(classes, 0.008)["extracerebral CSF"] == pytest.approx(0.8)
