import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vcm.errors import VCMError
from vcm.imaging.geometry import from_model_grid, halved_grid, model_grid, resample, to_model_grid
from vcm.imaging.volume import Grid, Volume

angles = st.floats(-25, 25)
spacings = st.tuples(*[st.floats(0.8, 3.0)] * 3)
flips = st.tuples(*[st.sampled_from([-1, 1])] * 3)
orders = st.permutations([0, 1, 2])


def test_the_model_grid_is_2_mm_las():
    grid = model_grid()
    assert grid.shape == (80, 112, 80)
    assert grid.orientation == "LAS"
    np.testing.assert_allclose(grid.spacing, 2)
    np.testing.assert_allclose(grid.centre, (0, -18, 6))


@settings(max_examples=25, deadline=None)
@given(st.tuples(angles, angles, angles), spacings, flips, orders, st.randoms())
def test_a_blob_lands_where_it_was_and_comes_back(rotation, spacing, flip, order, random):
    """Oblique, flipped, permuted, anisotropic: world positions agree to half a voxel."""
    axes = np.eye(3)[:, order] * flip
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", rotation, degrees=True).as_matrix() @ axes
    affine[:3, :3] = affine[:3, :3] * spacing
    shape = tuple(int(60 / s) for s in spacing)
    affine[:3, 3] = np.array([0, -18, 6]) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    voxel = np.array([random.uniform(0.4, 0.6) for _ in range(3)]) * shape
    mark = affine[:3, :3] @ voxel + affine[:3, 3]
    world = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) @ affine[:3, :3].T
    distance = np.linalg.norm(world + affine[:3, 3] - mark, axis=-1)
    blob = Volume(np.exp(-(distance**2) / (2 * 4.0**2)).astype(np.float32), affine)
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", [5, -3, 8], degrees=True).as_matrix()
    motion[:3, 3] = [4, -3, 2]

    grid = model_grid()
    moved = to_model_grid(blob, grid, motion, order=1)
    assert np.linalg.norm(centre_of_mass(moved, grid) - (motion @ [*mark, 1])[:3]) < 1.0
    back = from_model_grid(moved, grid, blob.grid, motion)
    assert np.linalg.norm(centre_of_mass(back, blob.grid) - mark) < min(spacing) / 2


def amplitude(period: float, axis: int, spacing: tuple[float, float, float]) -> float:
    """What is left of waves along an axis of a volume of 1 mm voxels on voxels of that spacing; 1: all."""
    place = 2 * np.pi * np.arange(64) / period
    waves = np.sin(place).reshape([-1 if k == axis else 1 for k in range(3)])
    volume = Volume(np.broadcast_to(waves, (64, 64, 64)).astype(np.float32), np.eye(4))
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = 12
    grid = Grid(tuple(int(40 / s) for s in spacing), affine)
    return float(np.sqrt(2) * resample(volume, grid, order=3).std())


def test_thick_voxels_blur_across_them_alone():
    """A label map of thick slices lost a third of its volume's contrast in plane, and aliased across."""
    thick, turned = (0.9, 0.9, 5.0), (5.0, 0.9, 0.9)
    assert amplitude(6, 0, thick) == pytest.approx(amplitude(6, 0, (0.9, 0.9, 0.9)), abs=0.05)
    assert amplitude(6, 0, thick) > 0.95 and amplitude(6, 2, turned) > 0.95
    assert amplitude(6, 2, thick) < 0.2 and amplitude(6, 0, turned) < 0.2


def centre_of_mass(data: np.ndarray, grid: Grid) -> np.ndarray:
    positions = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    weights = np.where(data > 0.05, data, 0)[..., None]
    voxel = (positions * weights).sum((0, 1, 2)) / weights.sum()
    return grid.affine[:3, :3] @ voxel + grid.affine[:3, 3]


def test_the_model_grid_at_1_mm_covers_what_the_one_at_2_mm_does() -> None:
    coarse, fine = model_grid(), model_grid(1.0)
    assert fine.shape == (160, 224, 160)
    for grid in (coarse, fine):
        edges = np.array([[-0.5] * 3, np.asarray(grid.shape) - 0.5])
        corners = edges @ grid.affine[:3, :3].T + grid.affine[:3, 3]
        np.testing.assert_allclose(np.abs(np.diff(corners, axis=0)[0]), [160, 224, 160])
        np.testing.assert_allclose(corners.mean(0), [0, -18, 6])


def test_a_spacing_that_does_not_divide_the_field_of_view_is_refused() -> None:
    with pytest.raises(VCMError, match=r"1\.5 mm .* choose 2 or 1"):
        model_grid(1.5)


def test_half_voxels_fill_the_same_field_of_view():
    grid = model_grid()
    half = halved_grid(grid)
    np.testing.assert_allclose(half.spacing, np.array(grid.spacing) / 2)
    np.testing.assert_allclose(half.centre, grid.centre)
    corners = [g.affine @ (*(-0.5 * np.ones(3)), 1) for g in (grid, half)]
    np.testing.assert_allclose(*corners)
