"""A contrast is told from T1w by its deep tissues, not by the fluid around cortex."""

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from vcm.imaging.contrast import (
    LEAST_SEPARATION,
    Contrast,
    contrast_of_name,
    find_contrast,
    t1w_separation,
)
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


def test_a_t1w_brain_is_found(brain):
    found = find_contrast(brain, GRID, "scan.nii.gz")
    assert (found.name, found.method) == ("T1w", "intensities") and found.is_t1w
    assert found.separation > LEAST_SEPARATION


def test_an_inverted_brain_is_as_far_on_the_other_side(brain):
    inverted = np.where(brain > 0, 1.01 - brain, 0)
    assert t1w_separation(inverted, GRID) == pytest.approx(-t1w_separation(brain, GRID), abs=0.02)


@pytest.mark.parametrize("fluid", [1, 5])
def test_a_flair_is_no_t1w_however_loose_its_mask(brain, fluid):
    found = find_contrast(flair(brain, fluid), GRID)
    assert found.name == "FLAIR" and not found.is_t1w


def test_a_t2w_brain_is_found(brain):
    tissues = np.select([brain > 0.7, brain > 0.35, brain > 0], [0.25, 0.4, 0.95], 0.0)
    noise = 0.03 * np.random.default_rng(2).standard_normal(brain.shape)
    found = find_contrast(np.where(brain > 0, tissues + noise, 0).clip(0, 1), GRID, "scan")
    assert found.name == "T2w" and not found.is_t1w


def test_an_empty_image_has_no_known_contrast():
    assert find_contrast(np.zeros(GRID.shape, np.float32), GRID, "nothing").name == "unknown"


@pytest.mark.parametrize(
    ("name", "contrast"),
    [
        ("sub-1_T1w.nii.gz", "T1w"),
        ("sub-1_ce-gd_T1w.nii", "T1w+gd"),
        ("sub-1_acq-3mm_FLAIR.nii.gz", "FLAIR"),
        ("study1_T2W.nii.gz", "T2w"),
        ("sub-1_inplaneT2.nii.gz", "T2w"),
        ("t1ce.nii.gz", "T1w+gd"),
        ("sub-1_PDw.nii.gz", "PD"),
        ("sub-1_bold.nii.gz", None),
        ("scan.nii.gz", None),
    ],
)
def test_the_name_of_a_file_tells_its_contrast(name, contrast):
    assert contrast_of_name(name) == contrast


def test_a_name_that_the_intensities_contradict_is_no_t1w(brain):
    inverted = np.where(brain > 0, 1.01 - brain, 0)
    assert find_contrast(inverted, GRID, "sub-1_T1w.nii.gz").name == "T1w"
    assert not find_contrast(inverted, GRID, "sub-1_T1w.nii.gz").is_t1w
    assert not find_contrast(brain, GRID, "sub-1_T2w.nii.gz").is_t1w


@pytest.mark.parametrize(
    ("contrast", "in_doubt"),
    [
        (Contrast("T1w", "intensities", 0.6), True),
        (Contrast("T1w", "intensities", 1.0), False),
        (Contrast("T1w", "file name", 0.6), False),
        (Contrast("FLAIR", "intensities", 0.2), False),
    ],
)
def test_weak_intensities_without_a_name_leave_a_doubt(contrast, in_doubt):
    assert contrast.is_in_doubt is in_doubt
