"""A T1w brain is told by its deep tissues, and any contrast by white matter, cortex and fluid where they are known."""

import warnings

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from vcm.errors import VCMWarning
from vcm.imaging.contrast import (
    LEAST_SEPARATION,
    Contrast,
    by_tissues,
    contrast_of_name,
    t1w_separation,
    warn_of_wrong_name,
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


def test_white_matter_of_a_t1w_brain_is_apart_from_grey(brain):
    assert t1w_separation(brain, GRID) > LEAST_SEPARATION


def test_an_inverted_brain_is_as_far_on_the_other_side(brain):
    inverted = np.where(brain > 0, 1.01 - brain, 0)
    assert t1w_separation(inverted, GRID) == pytest.approx(-t1w_separation(brain, GRID), abs=0.02)


@pytest.mark.parametrize("fluid", [1, 5])
def test_a_flair_is_no_t1w_however_loose_its_mask(brain, fluid):
    assert t1w_separation(flair(brain, fluid), GRID) < LEAST_SEPARATION


def test_an_empty_image_separates_nothing():
    assert t1w_separation(np.zeros(GRID.shape, np.float32), GRID) == 0


@pytest.mark.parametrize(
    ("name", "contrast"),
    [
        ("sub-1_T1w.nii.gz", "T1w"),
        ("sub-1_ce-gd_T1w.nii", "T1w+gd"),
        ("sub-1_acq-mpragegd_T1w.nii", "T1w+gd"),
        ("ann_gado_T1w.nii", "T1w+gd"),
        ("sub-MGD012_ses-gd1_T1w.nii.gz", "T1w"),
        ("ogden_T1w.nii.gz", "T1w"),
        ("sub-1_acq-pregd_T1w.nii.gz", "T1w"),
        ("sub-1_ce-none_T1w.nii.gz", "T1w"),
        ("sub-1_acq-3mm_FLAIR.nii.gz", "FLAIR"),
        ("study1_T2W.nii.gz", "T2w"),
        ("sub-1_inplaneT2.nii.gz", "T2w"),
        ("t1ce.nii.gz", "T1w+gd"),
        ("sub-1_PDw.nii.gz", "PD"),
        ("sub-1_FLAIR.hdr", "FLAIR"),
        ("sub-1_ce-gd_T1w.img.gz", "T1w+gd"),
        ("sub-1_bold.nii.gz", None),
        ("scan.nii.gz", None),
    ],
)
def test_the_name_of_a_file_tells_its_contrast(name, contrast):
    assert contrast_of_name(name) == contrast


@pytest.mark.parametrize(
    ("contrast", "is_t1w"),
    [
        (Contrast("T1w", "file name", 0.6), True),
        (Contrast("T1w+gd", "file name", 0.6), True),
        (Contrast("T1w", "file name", 0.3), False),
        (Contrast("T1w", "file name", 0.6, 0.2), True),
        (Contrast("T1w+gd", "file name", 0.6, 0.2), True),
        (Contrast("T1w", "file name", 0.6, 0.02), False),
        (Contrast("T1w", "file name", 0.3, 0.2), False),
        (Contrast("T2w", "file name", 0.6), False),
        (Contrast("T1w", "intensities", 0.3, 0.2), True),
        (Contrast("FLAIR", "intensities", 0.6, 0.0), False),
    ],
)
def test_t1w_takes_name_and_intensities(contrast, is_t1w):
    assert contrast.is_t1w is is_t1w


def test_a_wrong_name_is_told_with_what_speaks_against_it():
    with pytest.warns(
        VCMWarning, match="scan is T1w by its file name, and does not look like it .*0.02 of its"
    ):
        warn_of_wrong_name(Contrast("T1w", "file name", 0.6, 0.02), "scan")
    with pytest.warns(VCMWarning, match="0.30 deviations brighter"):
        warn_of_wrong_name(Contrast("T1w", "file name", 0.3, 0.2), "scan")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_wrong_name(Contrast("T1w+gd", "file name", 0.6, 0.2), "scan")
        warn_of_wrong_name(Contrast("FLAIR", "file name", 0.3), "scan")


@pytest.mark.parametrize(
    ("contrast", "in_doubt"),
    [
        (Contrast("T1w", "intensities", 0.6, 0.12), True),
        (Contrast("T1w", "intensities", 0.6, 0.2), False),
        (Contrast("T1w", "file name", 0.6), False),
        (Contrast("FLAIR", "intensities", 0.6, 0.0), False),
    ],
)
def test_weak_intensities_without_a_name_leave_a_doubt(contrast, in_doubt):
    assert contrast.is_in_doubt is in_doubt


@pytest.mark.parametrize(
    ("white", "grey", "fluid", "name"),
    [
        (0.8, 0.6, 0.1, "T1w"),
        (0.7, 0.72, 0.1, "FLAIR"),
        (0.3, 0.4, 0.9, "T2w"),
        (0.5, 0.4, 0.9, "unknown"),
    ],
)
def test_white_matter_cortex_and_fluid_tell_the_contrast(white, grey, fluid, name):
    """Of a brain whose deep grey matter is dark in every contrast, as iron makes it."""
    classes = np.repeat(np.arange(5, dtype=np.uint8), 1000).reshape(50, 10, 10)
    image = np.take([0, white, grey, fluid, 0.4], classes)
    found, above = by_tissues(image, classes)
    assert found == name and above == pytest.approx((white - grey) / abs(white - fluid), abs=0.03)


def test_tissues_that_are_hardly_seen_tell_nothing():
    empty = np.zeros((8, 8, 8), np.uint8)
    assert by_tissues(empty.astype(np.float32), empty) == ("unknown", None)
