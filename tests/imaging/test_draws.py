import numpy as np
import pytest

from vcm.imaging.acquisition import find_acquisition
from vcm.imaging.draws import GAIN, ODD_GAIN, TILT, draw_gains, draw_thick, draw_tilt, tilted
from vcm.imaging.geometry import model_grid
from vcm.imaging.volume import Volume

GRID = model_grid()


def test_the_drawn_slices_are_thick_slices():
    head = np.random.default_rng(0).random(GRID.shape, dtype=np.float32)
    for seed in range(6):
        thick, acquisition = draw_thick(head, GRID, np.random.default_rng(seed))
        assert 3.0 <= acquisition.spacing <= 8.0
        assert find_acquisition(thick.grid, acquisition.name).axis == acquisition.axis


def test_half_of_the_draws_have_uneven_slices():
    gains = [draw_gains(40, np.random.default_rng(seed)) for seed in range(200)]
    uneven = [g for g in gains if (g != 1).any()]
    assert 70 < len(uneven) < 130
    steps = [g[1::2].mean() - g[::2].mean() for g in uneven]
    own = [g[::2].std() for g in uneven]
    assert 0.003 < np.std(steps) < ODD_GAIN and max(map(abs, steps)) < ODD_GAIN + 4 * GAIN / 4
    assert max(own) < 1.5 * GAIN and np.median(own) > 0.2 * GAIN
    np.testing.assert_array_equal(gains[7], draw_gains(40, np.random.default_rng(7)))


def test_a_tilt_turns_about_the_centre_and_nods_most():
    tilts = [draw_tilt(GRID, np.random.default_rng(seed)) for seed in range(300)]
    moved = [t for t in tilts if not np.array_equal(t, np.eye(4))]
    assert 110 < len(moved) < 190
    for tilt in moved:
        np.testing.assert_allclose(tilt[:3, :3] @ tilt[:3, :3].T, np.eye(3), atol=1e-12)
        np.testing.assert_allclose(tilt[:3, :3] @ GRID.centre + tilt[:3, 3], GRID.centre)
    nods = np.rad2deg([np.arctan2(t[2, 1], t[2, 2]) for t in moved])
    assert nods.std() == pytest.approx(TILT[0], rel=0.2)


def test_no_tilt_leaves_the_scan_as_it_is():
    scan = Volume(np.ones((3, 4, 5), np.float32), np.eye(4))
    assert tilted(scan, np.eye(4)) is scan
