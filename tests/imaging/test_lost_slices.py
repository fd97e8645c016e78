import numpy as np
import pytest

from vcm.imaging.lost_slices import (
    bridged,
    dimmed_slices,
    is_folded_over,
    lost_slices,
    repeated_slices,
)


@pytest.fixture
def stack() -> np.ndarray:
    """A ball in 20 slices along the last axis that change from one to the next, 0 around it."""
    index = np.indices((40, 40, 20)) - np.array([20, 20, 10])[:, None, None, None]
    ball = (index[0] ** 2 + index[1] ** 2 + (2 * index[2]) ** 2) < 16**2
    return np.where(ball, 100 + 4 * index[2] + np.random.default_rng(0).normal(0, 5, ball.shape), 0)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("value", [0, -1024, 37.5])
def test_constant_slices_inside_the_head_are_lost_and_those_beyond_it_are_not(stack, axis, value):
    assert lost_slices(stack, 2) == []
    stack[:, :, [7, 12, 13]] = value
    assert lost_slices(np.moveaxis(stack, 2, axis), axis) == [7, 12, 13]


@pytest.mark.parametrize("places", [8, 36, -10])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_head_that_is_folded_over_has_lost_nothing(axis, places):
    """Its slices shrink to nothing before the empty ones: the rest is on the other side."""
    index = np.indices((32, 32, 72)) - np.array([16, 16, 36])[:, None, None, None]
    ball = index[0] ** 2 + index[1] ** 2 + (index[2] / 2) ** 2 < 15.9**2
    head = np.where(ball, 100 + np.random.default_rng(0).normal(0, 5, ball.shape), 0)
    assert not is_folded_over(np.moveaxis(head, 2, axis), axis)
    head = np.roll(head, places, 2)
    folded = np.moveaxis(head, 2, axis)
    assert is_folded_over(folded, axis) and lost_slices(folded, axis) == []
    middle = (36 + places + 9) % 72
    head[:, :, middle] = 0
    assert lost_slices(folded, axis) == [middle]


@pytest.mark.parametrize("lost", range(3, 18))
def test_a_slice_near_the_end_of_the_head_is_lost(stack, lost):
    """The last but one that shows a good part of it, too."""
    areas = (stack != 0).sum((0, 1))
    large = np.flatnonzero(areas >= 0.05 * areas.max())
    stack[:, :, lost] = 0
    assert lost_slices(stack, 2) == ([lost] if large[0] < lost < large[-1] else [])


def test_copies_are_found_wherever_they_lie(stack):
    assert repeated_slices(stack, 2) == []
    stack[:, :, 8] = stack[:, :, 7]
    stack[:, :, 14] = stack[:, :, 10]
    stack[:, :, 15] = stack[:, :, 10]
    assert repeated_slices(stack, 2) == [8, 14, 15]
    assert lost_slices(stack, 2) == []


def test_where_the_copy_comes_from_behind_the_first_is_lost(stack):
    stack[:, :, 7] = stack[:, :, 8]
    assert repeated_slices(stack, 2) == [7]


def test_where_it_is_unclear_which_is_the_copy_both_are_lost(stack):
    stack[:, :, 8] = stack[:, :, 7] = (stack[:, :, 6] + stack[:, :, 9]) / 2
    assert repeated_slices(stack, 2) == [7, 8]


def test_which_slice_was_repeated_does_not_depend_on_the_unit(stack):
    fine = stack.astype(np.float64)
    fine[:, :, 8] = fine[:, :, 7]
    scaled = fine * 1e-9
    assert repeated_slices(fine, 2) == repeated_slices(scaled, 2)
    fine[:, :, 7] = fine[:, :, 9]
    fine[:, :, 8] = fine[:, :, 9]
    scaled = fine * 1e-9
    assert repeated_slices(fine, 2) == repeated_slices(scaled, 2) == [7, 8]


def test_empty_slices_do_not_repeat_each_other(stack):
    assert not stack[:, :, :2].any() and not stack[:, :, -1].any()
    stack[3, 4, [0, 1]] = 5
    assert repeated_slices(stack, 2) == []


def test_nothing_is_lost_from_nothing():
    assert lost_slices(np.zeros((5, 5, 5)), 1) == []


def test_the_brain_is_bridged_over_lost_slices(stack):
    whole = stack > 0
    broken = whole.copy()
    lost = [6, 10, 11]
    broken[:, :, lost] = False
    found = bridged(broken, 2, lost)
    assert not broken[:, :, lost].any()
    for number in lost:
        one, other = whole[:, :, number], found[:, :, number]
        assert 2 * (one & other).sum() / (one.sum() + other.sum()) > 0.93
    kept = [n for n in range(20) if n not in lost]
    np.testing.assert_array_equal(found[:, :, kept], whole[:, :, kept])


def test_a_lost_slice_at_the_end_has_no_neighbour(stack):
    found = bridged(stack > 0, 2, [0, 19])
    np.testing.assert_array_equal(found, stack > 0)


SHIFTS = {"plain": 0, "-1024": -1024, "z-scored": None}


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shift", SHIFTS.values(), ids=SHIFTS)
def test_slices_that_lost_their_signal_in_part_are_found(stack, axis, shift):
    def intensities(values):
        inside = values != 0
        if shift is None:
            return np.where(inside, (values - values[inside].mean()) / values[inside].std(), 0)
        return np.where(inside, values, shift)

    assert dimmed_slices(intensities(stack), 2) == []
    dark = stack.copy()
    dark[:, :, 6] *= 0.4  # the darker half of a slice's signal
    dark[:22, :, [11, 12]] = 0  # a part of two slices side by side
    found = dimmed_slices(np.moveaxis(intensities(dark), 2, axis), axis)
    assert found == [6, 11, 12]


def test_the_ends_of_a_head_are_not_dimmed(stack):
    """Its slices grow smaller there, down to a speck."""
    assert dimmed_slices(stack[:, :, :11], 2) == [] and dimmed_slices(stack[:, :, 9:], 2) == []
    assert dimmed_slices(np.zeros((5, 5, 5)), 1) == []
