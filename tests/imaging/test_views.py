import numpy as np
import pytest

from vcm.imaging.views import VIEWS, from_slices, place_slices, places, slices
from vcm.nets import slice_denoiser

RAMP = np.arange(3 * 4 * 5).reshape(3, 4, 5)


@pytest.mark.parametrize("view", VIEWS)
def test_slices_and_back(view):
    stack = slices(RAMP, view)
    assert np.array_equal(from_slices(stack, view), RAMP)
    assert stack.shape[0] == RAMP.shape[VIEWS.index(view)]


def test_an_axial_slice_is_what_lies_at_one_height():
    assert np.array_equal(slices(RAMP, "axial")[2], RAMP[:, :, 2])
    assert np.array_equal(slices(RAMP, "coronal")[1], RAMP[:, 1, :])
    assert np.array_equal(slices(RAMP, "sagittal")[0], RAMP[0])


@pytest.mark.parametrize("view", VIEWS)
def test_places_are_cut_like_the_volume(view):
    cut = place_slices(RAMP.shape, view)
    for axis in range(3):
        assert np.array_equal(cut[:, axis], slices(places(RAMP.shape)[axis], view))


def test_networks_and_volumes_name_the_same_views():
    assert slice_denoiser.VIEWS == VIEWS
