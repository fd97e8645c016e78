"""A contrast is told from T1w by its deep tissues, not by the fluid around cortex."""

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from vcm.errors import VCMError
from vcm.imaging.contrast import LEAST_SEPARATION, refuse_other_contrast, t1w_separation
from vcm.imaging.geometry import model_grid, resample
from vcm.imaging.registration import common_template

GRID = model_grid(2.0)


@pytest.fixture(scope="module")
def brain():
    """The MNI152 brain on the grid, 0..1, with noise."""
    image = resample(common_template(), GRID, order=1)
    noise = 0.03 * np.random.default_rng(0).standard_normal(image.shape)
    return np.where(image > 0.1, np.clip(image + noise, 0.01, 1), 0).astype(np.float32)


def flair(image, fluid):
    """White 0.55, grey 0.65, and a shell of dark fluid where a loose mask takes more than brain."""
    tissues = np.select([image > 0.7, image > 0.35, image > 0], [0.55, 0.65, 0.1], 0.0)
    shell = (image > 0) & ~binary_erosion(image > 0, iterations=fluid)
    noise = 0.03 * np.random.default_rng(1).standard_normal(image.shape)
    return np.where(image > 0, np.where(shell, 0.1, tissues) + noise, 0).clip(0)


def test_a_t1w_brain_passes(brain):
    assert refuse_other_contrast(brain, GRID, "brain") > LEAST_SEPARATION


def test_an_inverted_brain_is_as_far_on_the_other_side(brain):
    inverted = np.where(brain > 0, 1.01 - brain, 0)
    assert t1w_separation(inverted, GRID) == pytest.approx(-t1w_separation(brain, GRID), abs=0.02)


@pytest.mark.parametrize("fluid", [1, 5])
def test_a_flair_is_refused_however_loose_its_mask(brain, fluid):
    with pytest.raises(VCMError, match="does not look T1-weighted"):
        refuse_other_contrast(flair(brain, fluid), GRID, "flair")


def test_an_empty_image_is_refused():
    with pytest.raises(VCMError, match="does not look T1-weighted"):
        refuse_other_contrast(np.zeros(GRID.shape, np.float32), GRID, "nothing")
