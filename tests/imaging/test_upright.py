"""A brain that is mirrored along an axis of its header is noticed; one that stands as it should is not."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from vcm.errors import VCMWarning
from vcm.imaging.geometry import model_grid, resample
from vcm.imaging.registration import common_template
from vcm.imaging.upright import fit_of_mirrors, warn_unless_upright

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
    fits = fit_of_mirrors(brain, GRID)
    assert max(fits[1:]) < fits[0] - 0.1


@pytest.mark.parametrize("axes", [1, 2, (1, 2)])
def test_a_mirrored_one_is(brain, axes):
    with pytest.warns(VCMWarning, match="a.nii.gz seems to be upside down or back to front"):
        warn_unless_upright(np.flip(brain, axes), GRID, "a.nii.gz")
