"""Detail is taken from another contrast where the two go together."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from vcm.upsampling.detail.local_detail import add_detail

SPACING, WINDOW = (1.0, 1.0, 1.0), 2.0


@pytest.fixture
def truth():
    return (
        0.5 + 3 * gaussian_filter(np.random.default_rng(0).standard_normal((24, 24, 24)), 1.5)
    ).astype(np.float32)


def blurred(values):
    return gaussian_filter(values, (0, 0, 1.5)).astype(np.float32)


def error(found, truth):
    return float(np.sqrt(np.mean((found - truth)[4:-4, 4:-4, 4:-4] ** 2)))


@pytest.mark.parametrize("caution", [0.0, 1.0])
def test_the_detail_of_an_inverted_contrast_comes_with_the_right_sign(truth, caution):
    image, scan = blurred(truth), 1 - truth
    inside = np.ones(truth.shape, bool)
    found = add_detail(image, scan, blurred(scan), inside, SPACING, WINDOW, caution)
    assert error(found, truth) < 0.5 * error(image, truth)


def test_with_caution_what_hardly_goes_along_adds_little(truth):
    image, other = blurred(truth), truth[::-1, ::-1].copy()
    inside = np.ones(truth.shape, bool)
    bold, careful = (
        add_detail(image, other, blurred(other), inside, SPACING, WINDOW, caution)
        for caution in (0.0, 1.0)
    )
    added = [np.abs(found - image).mean() for found in (bold, careful)]
    assert added[1] < 0.5 * added[0]


def test_outside_nothing_changes(truth):
    image, inside = blurred(truth), np.zeros(truth.shape, bool)
    inside[:12] = True
    found = add_detail(image, truth, blurred(truth), inside, SPACING, WINDOW)
    assert np.array_equal(found[12:], image[12:]) and not np.array_equal(found[:12], image[:12])
