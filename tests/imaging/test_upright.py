"""A brain that its header turns over is noticed; one that stands as it should is not."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from vcm.errors import VCMWarning
from vcm.imaging.geometry import model_grid, resample
from vcm.imaging.registration import common_template
from vcm.imaging.upright import ORIENTATIONS, fit_of_orientations, warn_unless_upright

GRID = model_grid()


@pytest.fixture(scope="module")
def brain():
    """The template a little aside, blurred and noisy, as another head would lie."""
    template = resample(common_template(), GRID, order=1)
    moved = shift(gaussian_filter(template, 1), (1, -2, 2), order=1)
    noise = np.random.default_rng(0).normal(0, 0.05, moved.shape)
    return np.where(moved > 0.1, (moved + noise).clip(0.01, 1), 0).astype(np.float32)


def test_an_upright_brain_is_not_doubted(brain, recwarn):
    warn_unless_upright(brain, GRID, "a.nii.gz")
    assert not recwarn.list
    fits = fit_of_orientations(brain, GRID)
    assert max(fits[1:]) < fits[0] - 0.1


def test_left_and_right_are_not_told_apart(brain, recwarn):
    warn_unless_upright(np.flip(brain, 0), GRID, "a.nii.gz")
    assert not recwarn.list


@pytest.mark.parametrize("axes", [1, 2, (1, 2)])
def test_a_mirrored_one_is(brain, axes):
    with pytest.warns(VCMWarning, match="a.nii.gz seems to be upside down or back to front"):
        warn_unless_upright(np.flip(brain, axes), GRID, "a.nii.gz")


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 2, 1), (2, 1, 0), (1, 2, 0)])
def test_one_with_exchanged_axes_lies_on_its_side(brain, order):
    turned = np.pad(brain, [(112 - n // 2,) * 2 for n in brain.shape]).transpose(order)
    there = turned[72:152, 56:168, 72:152]
    with pytest.warns(VCMWarning, match="seems to be on its side: turned, it fits"):
        warn_unless_upright(there, GRID, "a.nii.gz")


def test_every_orientation_is_looked_at_once():
    turns = set()
    for order, signs in ORIENTATIONS:
        turn = np.eye(3, dtype=int)[list(order)] * np.array(signs)[:, None]
        turns |= {turn.tobytes(), (turn * [[-1], [1], [1]]).tobytes()}
    assert len(turns) == 48
