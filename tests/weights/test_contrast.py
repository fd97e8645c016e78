"""Where no name tells the contrast, the tissues of the brain itself do."""

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from vcm.imaging.contrast import LEAST_SEPARATION, t1w_separation
from vcm.imaging.geometry import model_grid, resample
from vcm.imaging.registration import common_template
from vcm.weights.contrast import find_contrast
from vcm.weights.segmenter import load_segmenter, segment_on

GRID = model_grid()


@pytest.fixture(scope="module")
def template():
    return resample(common_template(), GRID, order=1)


def test_a_t1w_brain_stays_t1w(template):
    found = find_contrast(template, GRID, "brain.nii.gz")
    assert found.is_t1w and found.above_cortex > 0.2 and not found.is_in_doubt


def test_a_flair_with_dark_deep_grey_matter_is_none(template):
    """Iron makes it so; by what lies deep in the brain alone this is T1w."""
    classes = segment_on(load_segmenter("anysegmenter2mm"), template, GRID)
    painted = np.take([0.1, 0.70, 0.72, 0.1, 0.70, 0.7, 0.7, 0.1, 0.7], classes)
    deep = binary_erosion(template > 0.1, iterations=5)
    painted[deep & (template > 0.4) & (template < 0.65)] = 0.45
    noise = 0.03 * np.random.default_rng(0).standard_normal(template.shape)
    flair = np.where(template > 0.05, (painted + noise).clip(0.01, 1), 0).astype(np.float32)
    assert t1w_separation(flair, GRID) > LEAST_SEPARATION
    found = find_contrast(flair, GRID, "brain.nii.gz")
    assert found.name == "FLAIR" and not found.is_t1w
    called = find_contrast(flair, GRID, "sub-1_T1w.nii.gz")
    assert called.name == "T1w" and not called.is_t1w


def test_a_name_is_believed_where_no_model_of_t1w_scans_does(template, monkeypatch):
    found = find_contrast(template, GRID, "sub-1_T1w.nii.gz")
    assert found.is_t1w and found.method == "file name" and found.above_cortex > 0.2
    monkeypatch.setattr("vcm.weights.contrast.load_segmenter", None)
    assert find_contrast(template, GRID, "sub-1_T2w.nii.gz").name == "T2w"


def test_an_empty_image_has_no_known_contrast():
    found = find_contrast(np.zeros(GRID.shape, np.float32), GRID, "nothing")
    assert found.name == "unknown" and not found.is_t1w
