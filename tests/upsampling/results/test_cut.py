"""Whether the voxels of another scan hold the brain."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from vcm.errors import VCMWarning
from vcm.imaging.volume import Volume
from vcm.upsampling.results.other_grid import warn_of_cut


def box(shape, spacing, low):
    """Voxels of one size, the outer border of the first at `low` [mm]."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = np.array(low) + np.array(spacing) / 2
    return Volume(np.zeros(shape, np.float32), affine, source="like.nii.gz")


@pytest.fixture
def scan():
    """Slices of 5 mm, a brain of 20 of them that begins 20 mm above the lowest."""
    volume = box((60, 60, 30), (2, 2, 5), (0, 0, 0))
    brain = np.zeros(volume.data.shape, bool)
    brain[10:50, 10:50, 4:24] = True
    volume.data[brain] = 1
    return SimpleNamespace(volume=volume, brain=brain)


def test_a_brain_that_is_held_is_not_spoken_of(scan):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for low in (0, 20, 25):  # the last lacks one of 20 slices
            warn_of_cut(box((120, 120, 130), (1, 1, 1), (0, 0, low)), scan)


def test_the_share_that_is_held_is_named(scan):
    with pytest.warns(VCMWarning, match=r"like\.nii\.gz holds 40 % of the brain of like\.nii\.gz"):
        warn_of_cut(box((120, 120, 130), (1, 1, 1), (0, 0, 80)), scan)
