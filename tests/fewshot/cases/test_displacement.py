import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from vcm.fewshot.cases.displacement import displacement


@pytest.fixture
def head():
    """Smooth blobs of other brightness, (40, 44, 40) in 0..1."""
    blobs = gaussian_filter(np.random.default_rng(0).normal(size=(40, 44, 40)), 2.5)
    return ((blobs - blobs.min()) / np.ptp(blobs)).astype(np.float32)


@pytest.mark.parametrize("shift", [(0, 0, 0), (3, 0, 0), (-2, 5, 0), (4, -3, -6), (8, 0, 0)])
def test_a_shift_is_found_in_another_contrast(head, shift):
    other = np.roll(1 - head**2, [-s for s in shift], (0, 1, 2))
    assert displacement(head, other) == shift


def test_images_that_tell_nothing_of_each_other_stay(head):
    noise = np.random.default_rng(1).random(head.shape, dtype=np.float32)
    assert displacement(head, noise) == (0, 0, 0)
    assert displacement(head, np.zeros_like(head)) == (0, 0, 0)


def test_small_images_stay(head):
    assert displacement(head[:10], head[3:13]) == (0, 0, 0)
