import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from vcm.imaging.atlas import register, residual, warp, warp_labels


@pytest.fixture(scope="module")
def balls():
    """Two brains: a ball with a brighter ball in it, moved by 2 voxels along the first axis."""

    def make(shift):
        at = np.indices((40, 44, 36)) - np.array([20 + shift, 22, 18])[:, None, None, None]
        far = np.sqrt((at**2).sum(0))
        return gaussian_filter(0.5 * (far < 14) + 0.4 * (far < 6), 0.7).astype(np.float32), far < 6

    return make(0), make(2)


def test_the_warp_brings_labels_along_the_right_axis(balls):
    (fixed, truth), (moving, label) = balls
    transform = register(fixed, moving)
    soft = warp_labels(label.astype(np.int16), 2, transform)
    found = soft.argmax(0) == 1
    dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    before = 2 * (label & truth).sum() / (label.sum() + truth.sum())
    assert dice > 0.93 > before
    np.testing.assert_allclose(soft.astype(np.float32).sum(0), 1, atol=2e-3)


def test_what_stays_different_is_less_than_before(balls):
    (fixed, _), (moving, _) = balls
    before = np.sqrt(np.mean((fixed - moving)[(fixed > 0) | (moving > 0)] ** 2))
    assert residual(fixed, moving) < 0.5 * before
    assert np.abs(warp(moving, register(moving, moving)) - moving).max() < 0.05
