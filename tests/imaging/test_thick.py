import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vcm.errors import VCMError
from vcm.imaging.acquisition import grid_about
from vcm.imaging.conditions import as_condition
from vcm.imaging.degradation import simulate_thick
from vcm.imaging.draws import PARTS, draw_condition, draw_known, tilted
from vcm.imaging.geometry import model_grid, resample
from vcm.imaging.registration import common_template
from vcm.imaging.thick import as_thick, nearness_to_slices
from vcm.imaging.volume import Volume

GRID = model_grid()


@pytest.fixture(scope="module")
def brain() -> np.ndarray:
    template = common_template()
    return resample(Volume(template.data, template.affine), GRID, order=1).astype(np.float32)


@pytest.mark.parametrize("seed", range(12))
def test_a_partial_image_hides_a_part_and_keeps_the_rest(brain, seed):
    values, known = draw_condition("partial", None, brain, GRID, np.random.default_rng(seed))
    np.testing.assert_array_equal(values, np.where(known > 0, brain, 0))
    share = known[brain > 0].mean()
    assert 0.02 < share < 0.995, "all or nothing of the brain is known"
    again = draw_condition("partial", None, brain, GRID, np.random.default_rng(seed))
    np.testing.assert_array_equal(again[1], known)


def test_every_kind_of_part_is_drawn(brain):
    """A shell keeps the rim, a side keeps half, a surround keeps most."""
    kinds = {part: 0 for part in PARTS}
    for seed in range(30):
        known = draw_known(brain > 0, GRID, np.random.default_rng(seed))
        part = PARTS[np.random.default_rng(seed).integers(len(PARTS))]
        kinds[part] += 1
        centre = known[40, 52, 36]
        if part == "shell":
            assert not centre and known[brain == 0].all()
        elif part == "surround":
            assert known[brain == 0].mean() > 0.5
        else:
            assert 0.2 < known.mean() < 0.8
    assert min(kinds.values()) > 3


def test_a_thick_condition_shows_the_slices_and_their_places(brain):
    """At a slice's centre the interpolation is the slice itself, and nearness is 1."""
    thick, acquisition = simulate_thick(Volume(brain, GRID.affine), "axial", 10.0, 10.0)
    values, nearness = as_thick(thick, acquisition, GRID)
    # 16 slices of 5 voxels about the same centre, 39.5: the eighth is centred on voxel 37.
    np.testing.assert_allclose(values[:, :, 37], thick.data[:, :, 7], atol=1e-5)
    np.testing.assert_allclose(nearness[:, :, 37], 1, atol=1e-5)
    np.testing.assert_allclose(nearness[:, :, 38], 0.6, atol=1e-5)
    assert nearness[:, :, 8:70].min() >= 0 and nearness.max() <= 1 + 1e-6
    between = values[:, :, 8:70] - brain[:, :, 8:70]
    assert 0.005 < np.abs(between).mean() < 0.1


def test_thick_draws_differ_and_repeat(brain):
    one, two, again = (
        draw_condition("thick", None, brain, GRID, np.random.default_rng(seed))
        for seed in (1, 2, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - two).max() > 0.1
    assert one.shape == (2, *GRID.shape) and one.dtype == np.float32


def test_an_image_condition_is_not_made_of_a_label_map():
    with pytest.raises(VCMError, match="give an image"):
        as_condition("thick", np.zeros((4, 4, 4), np.uint8))


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_the_short_way_along_one_axis_equals_the_general_one(brain, axis, monkeypatch):
    from vcm.imaging import thick as room

    thick, acquisition = simulate_thick(Volume(brain, GRID.affine), axis, 5.3, 5.0)
    short = as_thick(thick, acquisition, GRID)
    monkeypatch.setattr(room, "_along_one_axis", lambda *_: False)
    general = as_thick(thick, acquisition, GRID)
    np.testing.assert_allclose(short, general, atol=2e-4)


@pytest.mark.parametrize("turn", [0, 7])
@pytest.mark.parametrize("spacing", [1.0, 1.7])
def test_nearness_alone_is_the_second_channel_by_the_definition_voxel_for_voxel(
    brain, turn, spacing
):
    """On voxels of the scan, on others along it, and on turned ones; slice 3 is lost."""
    thick, acquisition = simulate_thick(Volume(brain, GRID.affine), "axial", 5.3, 5.0)
    world = np.eye(4)
    world[:3, :3] = Rotation.from_euler("x", turn, degrees=True).as_matrix()
    grid = grid_about((30, 40, 50), GRID, (spacing, spacing, 1.3))
    found = nearness_to_slices(thick, acquisition, grid, world, [3])
    np.testing.assert_array_equal(found, as_thick(thick, acquisition, grid, world, [3])[1])
    steps = np.linalg.inv(thick.affine) @ np.linalg.inv(world) @ grid.affine
    for voxel in np.random.default_rng(0).integers(0, grid.shape, (200, 3)):
        place = (steps @ [*voxel, 1])[:3]
        near = 1 - 2 * abs(place[2] - round(place[2]))
        shown = (place >= 0).all() and (place <= np.array(thick.data.shape) - 1).all()
        expected = near if shown and round(place[2]) != 3 else 0
        assert found[tuple(voxel)] == pytest.approx(expected, abs=2e-4)
    assert (found > 0).mean() > 0.5


def test_a_tilted_condition_lies_where_the_head_lies(brain, monkeypatch):
    """At the slices' centres a thin enough slice is the head itself, however it was tilted."""
    from vcm.imaging import draws

    tilt = np.eye(4)
    tilt[:3, :3] = Rotation.from_euler("x", 12, degrees=True).as_matrix()
    tilt[:3, 3] = GRID.centre - tilt[:3, :3] @ GRID.centre
    along = tilted(Volume(brain, GRID.affine), tilt)
    thick, acquisition = simulate_thick(along, "axial", 4.0, 2.0)

    def off(values: np.ndarray, nearness: np.ndarray) -> float:
        measured = (nearness > 0.9) & (brain > 0)
        assert measured.sum() > 5000
        return float(np.abs(values - brain)[measured].mean())

    found = off(*as_thick(thick, acquisition, GRID))
    back = np.linalg.inv(tilt)
    assert found < 0.05 and off(*as_thick(thick, acquisition, GRID, back @ back)) > 2 * found
    monkeypatch.setattr(draws, "draw_tilt", lambda *_: tilt)
    values, nearness = draw_condition("thick", None, brain, GRID, np.random.default_rng(3))
    assert off(values, nearness) < 0.1
