"""Thick slices in other intensities, on other backgrounds and on tilted stacks give the same scan."""

import numpy as np
import pytest

from vcm.imaging import brain
from vcm.imaging.degradation import simulate_thick
from vcm.imaging.geometry import model_grid, resample
from vcm.imaging.registration import common_template
from vcm.imaging.volume import Grid, Volume
from vcm.upsampling.scans.thick_scan import to_thick_scan


@pytest.fixture(scope="module")
def plain() -> Volume:
    """The template in axial slices of 6 mm, 10 to about 900 on a background of 0."""
    template = common_template()
    thick, _ = simulate_thick(Volume(template.data, template.affine), "axial", 6.0)
    inside = thick.data > 0.11
    data = np.where(inside, 1000 * thick.data - 100, 0).astype(np.float32)
    return Volume(data, thick.affine, source="thick")


@pytest.fixture(autouse=True)
def aligned_by_header(monkeypatch):
    """The template lies where it is to lie, so nothing is searched."""
    monkeypatch.setattr(brain, "align_rigid", lambda image: np.eye(4))


def ready(scan):
    return to_thick_scan(scan, model_grid(), 2.0)


def test_another_background_changes_nothing_and_comes_back(plain):
    other = plain.with_data(np.where(plain.data > 0, plain.data, -1024).astype(np.float32))
    first, second = ready(plain), ready(other)
    np.testing.assert_array_equal(second.volume.data, first.volume.data)
    assert second.units == first.units
    one, two = (s.in_units(s.interpolated(order=1)) for s in (first, second))
    assert set(np.unique(two[two < 0])) == {-1024.0}
    np.testing.assert_array_equal(two[two >= 0], one[two >= 0])
    assert one[two < 0].max() < 1e-3 and (two < 0).mean() > 0.3


def test_z_scored_slices_are_taken_as_those_above_0(plain):
    inside = plain.data > 0
    mean, std = plain.data[inside].mean(), plain.data[inside].std()
    other = plain.with_data(np.where(inside, (plain.data - mean) / std, 0).astype(np.float32))
    first, second = ready(plain), ready(other)
    assert (second.brain != first.brain).sum() <= 1e-3 * inside.sum()
    apart = np.abs(second.condition() - first.condition())
    assert apart.mean() < 0.003
    np.testing.assert_allclose(
        np.array(second.units) * std + mean, first.units, atol=0.02 * np.ptp(first.units)
    )
    corner = second.in_units(second.interpolated(order=1))[0, 0, 0]
    assert corner == 0


@pytest.mark.parametrize("scale", [2.0**-30, 2.0**20])
def test_the_scale_of_the_intensities_changes_nothing(plain, scale):
    other = plain.with_data((plain.data * scale).astype(np.float32))
    first, second = (to_thick_scan(v, model_grid(), 2.0, profile="auto") for v in (plain, other))
    np.testing.assert_array_equal(second.volume.data, first.volume.data)
    np.testing.assert_array_equal(second.rim, first.rim)
    np.testing.assert_array_equal(np.array(second.units) / scale, first.units)
    assert second.width == first.width
    back = [s.in_units(s.interpolated(order=1)) for s in (first, second)]
    np.testing.assert_allclose(back[1] / scale, back[0], rtol=1e-5)


@pytest.mark.parametrize("angle", [1, 12, 25])
def test_a_tilted_stack_is_straightened_slice_by_slice(plain, angle):
    """The slices of a tilted gantry lie where they were cut: planes are shifted, never mixed."""
    affine = plain.affine.copy()
    affine[1, 2] += 6 * np.tan(np.radians(angle))
    shape = (plain.data.shape[0], plain.data.shape[1] + 40, plain.data.shape[2])
    affine[:3, 3] = plain.grid.centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    # Shifted by the slice, which is what the scanner does; planes of the two stacks coincide.
    tilted = resample(plain, Grid(shape, affine), order=0).astype(np.float32)
    first, second = ready(plain), ready(Volume(tilted, affine, source="tilted"))
    assert second.acquisition.axis == 2 and second.acquisition.spacing == pytest.approx(6, abs=1e-6)
    assert not second.fine.is_sheared
    there = first.condition()[1] > 0.5
    one, two = first.condition()[0], second.condition()[0]
    shown = there & (one > 0.05)
    assert np.corrcoef(one[shown], two[shown])[0, 1] > 0.98
    assert np.abs(one - two)[shown].mean() < 0.03
