from dataclasses import replace

import numpy as np
import pytest

from vcm.imaging.acquisition import find_acquisition, isotropic_grid
from vcm.imaging.volume import Volume
from vcm.upsampling.detail.widen import AT_RIM, error_over_gap, runs, widen_at_rim, widen_over_lost
from vcm.upsampling.scans.thick_scan import ThickScan


def scan(lost=(), flip=False) -> ThickScan:
    """20 slices of 6 mm, each of one value, a sine of period 10 slices; brain is a block of them."""
    values = np.sin(2 * np.pi * np.arange(20) / 10).astype(np.float32)
    data = np.broadcast_to(values, (12, 10, 20)).copy()
    affine = np.diag([2.0, 2.0, -6.0 if flip else 6.0, 1.0])
    volume = Volume(data, affine)
    acquisition = find_acquisition(volume)
    brain = np.zeros(data.shape, bool)
    brain[3:9, 3:7] = True
    fine = isotropic_grid(volume.grid, acquisition, 2.0)
    return ThickScan(volume, brain, acquisition, fine, fine, np.eye(4), (0.0, 1.0), 1.0, lost)


def test_runs_are_slices_side_by_side():
    assert runs(()) == []
    assert runs((2, 5, 6, 7, 9)) == [(2, 2), (5, 7), (9, 9)]


@pytest.mark.parametrize("width", [1, 2])
def test_the_error_over_a_gap_is_that_of_interpolation(width):
    values, errors = np.sin(2 * np.pi * np.arange(20) / 10), []
    for low in range(20 - width - 1):
        high = low + width + 1
        guess = np.interp(range(low + 1, high), [low, high], values[[low, high]])
        errors += list((guess - values[low + 1 : high]) ** 2)
    assert error_over_gap(scan(), width) == pytest.approx(np.sqrt(np.mean(errors)), rel=1e-4)


def test_without_a_place_to_look_nothing_is_known():
    assert error_over_gap(scan(), 19) is None
    assert error_over_gap(scan(tuple(range(1, 20, 2))), 1) is None


@pytest.mark.parametrize("flip", [False, True])
def test_the_stated_error_grows_in_the_gap_alone(flip):
    broken = scan((8, 9), flip)
    std = np.full(broken.fine.shape, 0.01, np.float32)
    std[0] = 0
    found = widen_over_lost(std, broken)
    gap = np.zeros(std.shape, bool)
    gap[:, :, 24:30] = True  # slices of 6 mm are three fine voxels
    np.testing.assert_array_equal(found[~gap], std[~gap])
    assert not found[0].any()
    rms = np.sqrt(np.square(found[1:][gap[1:]]).mean())
    assert rms == pytest.approx(error_over_gap(broken, 2), rel=1e-4) and rms > 0.1


def test_what_is_stated_already_stays():
    broken = scan((8, 9))
    std = np.full(broken.fine.shape, 2, np.float32)
    np.testing.assert_array_equal(widen_over_lost(std, broken), std)


def test_the_stated_error_grows_where_the_rim_was_filled():
    whole = scan()
    rim = np.full(whole.volume.data.shape, np.nan, np.float32)
    rim[2:4] = 0.3
    std = np.full(whole.fine.shape, 0.1, np.float32)
    found = widen_at_rim(std, replace(whole, rim=rim))
    assert np.allclose(found[2:4], AT_RIM * 0.1) and np.allclose(found[6:], 0.1)
    assert widen_at_rim(std, whole) is std
