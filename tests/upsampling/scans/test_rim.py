"""The rim of a brain that a mask cut out of thick slices."""

import numpy as np
import pytest

from vcm.imaging.degradation import Degradation, simulate_thick
from vcm.imaging.geometry import model_grid
from vcm.imaging.registration import common_template
from vcm.imaging.volume import Volume
from vcm.upsampling.scans import rim
from vcm.upsampling.scans.thick_scan import _rim, to_thick_scan
from vcm.upsampling.simulate import simulate_slices

SPACING = 6.0


def ball(inside: float = 100.0, outside: float = 0.0) -> tuple[Volume, np.ndarray]:
    """A ball of 60 mm on voxels of 2 mm, and where it is."""
    place = np.stack(np.indices((48, 48, 48)), -1) - 23.5
    where = np.linalg.norm(place, axis=-1) < 15
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    return Volume(np.where(where, inside, outside).astype(np.float32), affine, source="ball"), where


def cut(image: Volume, where: np.ndarray):
    """Thick slices of an image, kept where at least half of a voxel lies in `where`; the whole slices beside."""
    thick, acquisition = simulate_thick(image, "axial", SPACING)
    degradation = Degradation.between(image.grid, thick.grid, acquisition)
    kept = degradation.degrade(where.astype(np.float32)) >= 0.5
    return thick.with_data(np.where(kept, thick.data, 0)), kept, acquisition, degradation


def test_dropped_voxels_get_what_the_slices_would_have_measured():
    image, where = ball()
    thick, kept, acquisition, degradation = cut(image, where)
    filled = rim.rim_of(thick, kept, acquisition, image.grid)
    measured = degradation.degrade(image.data)
    dropped = ~kept & (measured > 1)
    error = np.where(np.isnan(filled), 0, filled) - measured
    assert np.isnan(filled[kept]).all()
    assert np.sqrt(np.mean(error[dropped] ** 2)) < 0.4 * np.sqrt(np.mean(measured[dropped] ** 2))


def test_a_rim_that_fades_by_itself_stays():
    image, _ = ball()
    thick, acquisition = simulate_thick(image, "axial", SPACING)
    kept = thick.data > 0.1
    filled = rim.rim_of(
        thick.with_data(np.where(kept, thick.data, 0)), kept, acquisition, image.grid
    )
    assert filled is None or np.nanmax(filled) < 5


@pytest.mark.parametrize(("outside", "fall"), [(0.0, 1.0), (100.0, 0.0)])
def test_how_far_the_rim_is_dark_is_read_from_the_scan(monkeypatch, outside, fall):
    found = []
    real = rim._fall
    monkeypatch.setattr(rim, "_fall", lambda *a: found.append(real(*a)) or found[-1])
    image, where = ball(100.0, outside)
    thick, kept, acquisition, _ = cut(image, where)
    rim.rim_of(thick, kept, acquisition, image.grid)
    assert found[0] == pytest.approx(fall, abs=0.25)


def brain(offset: float = 0.0) -> Volume:
    template = common_template()
    inside = template.data > 0.1
    data = np.where(inside, 200 + 700 * template.data, 0) + offset
    return Volume(data.astype(np.float32), template.affine, source="sub-1_T1w")


def test_the_result_is_made_of_the_filled_slices_and_compared_with_those_that_came():
    thick, _ = simulate_slices(brain(), "coronal", SPACING)
    scan = to_thick_scan(thick, model_grid(), 2.0)
    assert scan.rim is not None
    beside = np.isfinite(scan.rim)
    assert beside.sum() > 1000 and not thick.data[beside].any()
    darkest = scan.volume.data.min()
    assert (scan.volume.data[beside] == darkest).all() and scan.slices[beside].mean() > darkest
    np.testing.assert_array_equal(scan.slices[~beside], scan.volume.data[~beside])
    assert scan.interpolated().mean() > scan.as_it_came().mean()


def test_what_is_filled_is_shown_on_a_background_that_is_not_0():
    plain, shifted = (
        to_thick_scan(simulate_slices(brain(by), "coronal", SPACING)[0], model_grid(), 2.0)
        for by in (0.0, -500.0)
    )
    one, two = (s.in_units(s.interpolated(1)) for s in (plain, shifted))
    shown = two > -499
    assert shown.sum() > 0.98 * (one > 1).sum()
    np.testing.assert_allclose(two[shown] + 500, one[shown], atol=15)


def test_a_head_with_its_skull_has_nothing_to_fill():
    image, _ = ball(100.0, 60.0)
    thick, acquisition = simulate_thick(image, "axial", SPACING)
    kept = thick.data > 80
    assert _rim(thick, kept, acquisition, image.grid, shown=5.0) is None
