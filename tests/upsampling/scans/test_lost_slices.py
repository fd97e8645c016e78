import numpy as np
import pytest

from vcm.errors import VCMError
from vcm.imaging.acquisition import find_acquisition, isotropic_grid
from vcm.imaging.degradation import Degradation
from vcm.imaging.turned import TurnedDegradation
from vcm.imaging.volume import Volume
from vcm.upsampling.scans.lost_slices import fill, find_lost, without_lost

SHAPE, BACKGROUND = (16, 14, 20), -7.0
AFFINE = np.diag([2.0, 2.0, 6.0, 1.0])


def stack(background=BACKGROUND) -> np.ndarray:
    """A ball that changes smoothly from slice to slice, in a little noise, on a background of one value."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    values = 100 + 30 * z + np.random.default_rng(0).normal(0, 1, SHAPE)
    return np.where(x**2 + y**2 + z**2 < 0.8, values, background).astype(np.float32)


def empty(data, n):
    data[:, :, n] = BACKGROUND


def of_one_value(data, n):
    data[:, :, n] = 55


def copied_from_before(data, n):
    data[:, :, n] = data[:, :, n - 1]


def copied_from_behind(data, n):
    data[:, :, n] = data[:, :, n + 1]


def test_a_whole_stack_has_lost_nothing():
    assert find_lost(Volume(stack(), AFFINE), 2) == ()
    assert find_lost(Volume(stack(0.0), AFFINE), 2) == ()


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("lose", [empty, of_one_value, copied_from_before, copied_from_behind])
def test_the_slice_that_is_lost_is_named(lose, axis):
    data = stack()
    lose(data, 8)
    turned = np.moveaxis(data, 2, axis)
    assert find_lost(Volume(turned, AFFINE), axis) == (8,)


def test_several_slices_are_lost_side_by_side():
    data = stack()
    empty(data, 7)
    empty(data, 8)
    for n in (12, 13):
        data[:, :, n] = data[:, :, 11]
    assert find_lost(Volume(data, AFFINE), 2) == (7, 8, 12, 13)


def test_what_lies_beside_the_head_is_no_slice_of_it():
    """Above and below the brain a skull-stripped scan is empty, and a speck is no brain."""
    data = stack()
    data[8, 7, 19] = 100
    assert find_lost(Volume(data, AFFINE), 2) == ()


def test_a_stack_of_copies_is_refused():
    with pytest.raises(VCMError, match="or copies of"):
        find_lost(Volume(np.repeat(stack(), 2, axis=2), AFFINE), 2)


def test_lost_slices_are_filled_linearly_and_their_brain_by_its_depth():
    data = np.zeros(SHAPE, np.float32) + np.arange(20, dtype=np.float32)
    brain = np.zeros(SHAPE, bool)
    for n, radius in ((4, 3), (5, 0), (6, 0), (7, 6)):
        brain[8 - radius : 8 + radius, 7 - radius : 7 + radius, n] = True
    broken = data.copy()
    broken[:, :, 5:7] = -1000
    filled, inside = fill(Volume(broken, AFFINE), brain, 2, (5, 6))
    np.testing.assert_allclose(filled.data, data, atol=1e-4)
    areas = inside.sum((0, 1))
    assert areas[4] < areas[5] < areas[6] < areas[7]
    assert (inside[:, :, 5] >= inside[:, :, 4]).all() and (inside[:, :, 6] <= inside[:, :, 7]).all()


def test_nothing_is_projected_onto_a_lost_slice():
    scan = Volume(stack(), AFFINE)
    acquisition = find_acquisition(scan)
    fine = isotropic_grid(scan.grid, acquisition, 2.0)
    whole = Degradation.between(fine, scan.grid, acquisition)
    cut = without_lost(whole, 2, (8,))
    start = np.zeros(fine.shape, np.float32)
    other = scan.data.copy()
    other[:, :, 8] += 500
    first, second = (cut.project(start, y, 0.1) for y in (scan.data, other))
    np.testing.assert_array_equal(first, second)
    assert np.abs(whole.project(start, other, 0.1) - first).max() > 50
    assert not cut.seen[:, :, 8].any() and cut.seen[:, :, [7, 9]].all()


def test_a_turned_scan_does_not_see_its_lost_slices():
    scan = Volume(stack(), AFFINE)
    acquisition = find_acquisition(scan)
    fine = isotropic_grid(scan.grid, acquisition, 4.0)
    turned = TurnedDegradation.between(fine, scan.grid, acquisition)
    cut = without_lost(turned, 2, (8,))
    assert turned.seen[:, :, 8].any() and not cut.seen[:, :, 8].any()
    assert not cut.degrade(np.ones(fine.shape, np.float32))[:, :, 8].any()
