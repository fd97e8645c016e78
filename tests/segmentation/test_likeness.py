"""A scan of another study gets the brightness of the labelled ones."""

import numpy as np
import pytest

from vcm.errors import VCMError
from vcm.imaging.registration import common_template
from vcm.segmentation.likeness import UNLIKE, made_alike


@pytest.fixture(scope="module")
def labelled():
    template = common_template().data
    return np.where(template > 0.1, np.clip(template, 0.02, 1), 0).astype(np.float32)


def of_another_study(image):
    """Other contrast, and brighter on one side."""
    x = np.linspace(0.6, 1.2, image.shape[0], dtype=np.float32)[:, None, None]
    return np.where(image > 0, np.clip(x * image**0.6, 1e-3, 1), 0).astype(np.float32)


def test_a_scan_of_another_study_comes_near_the_labelled_one(labelled):
    scan = of_another_study(labelled)
    found = made_alike(scan, [labelled], 2.0)
    inside = labelled > 0
    before, after = (np.abs(v - labelled)[inside].mean() for v in (scan, found.image))
    assert found.matched and found.unlike > UNLIKE
    assert after < 0.3 * before
    assert ((found.image > 0) == inside).all() and found.image.max() <= 1


def test_a_scan_that_looks_alike_stays_unless_it_is_asked_for(labelled):
    scan = np.where(labelled > 0, np.clip(labelled * 1.03, 0, 1), 0).astype(np.float32)
    kept = made_alike(scan, [labelled], 2.0)
    assert kept.image is scan and not kept.matched and 0 < kept.unlike < UNLIKE
    assert made_alike(scan, [labelled], 2.0, "always").matched


def test_never_leaves_it_and_still_says_how_unlike_it_is(labelled):
    scan = of_another_study(labelled)
    found = made_alike(scan, [labelled], 2.0, "never")
    assert found.image is scan and not found.matched and found.unlike > UNLIKE


def test_several_labelled_scans_are_averaged(labelled):
    scan = of_another_study(labelled)
    found = made_alike(scan, [labelled, scan], 2.0, "always")
    half = (labelled + scan) / 2
    inside = labelled > 0
    assert np.abs(found.image - half)[inside].mean() < 0.5 * np.abs(scan - half)[inside].mean()


def test_without_labelled_scans_nothing_is_known(labelled):
    found = made_alike(labelled, [], 2.0)
    assert found.image is labelled and found.unlike is None and not found.matched


def test_another_word_is_refused(labelled):
    with pytest.raises(VCMError, match="match is sometimes: choose auto, always or never"):
        made_alike(labelled, [labelled], 2.0, "sometimes")
