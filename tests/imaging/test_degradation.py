from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from vcm.errors import VCMError
from vcm.imaging.acquisition import SLICE_NAMES, find_acquisition, isotropic_grid
from vcm.imaging.degradation import Degradation, project_all, simulate_thick
from vcm.imaging.volume import Grid, Volume, read_volume

kinds = st.sampled_from(["gaussian", "boxcar"])
angles = st.tuples(*[st.floats(-40, 40)] * 3)
flips = st.tuples(*[st.sampled_from([-1, 1])] * 3)


def placed_grid(shape, spacing, centre=(0, 0, 0), order=(0, 1, 2), flip=(1, 1, 1), turn=(0, 0, 0)):
    """A grid about `centre` [mm] whose axis k runs along world axis order[k], then turned."""
    affine = np.eye(4)
    rotation = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    affine[:3, :3] = rotation @ (np.eye(3)[:, list(order)] * flip) * spacing
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(tuple(shape), affine)


@st.composite
def degradations(draw, overlap=3.0, in_plane=(0.6, 2.0), shift=1.0, most=14):
    """Oblique scans with thick slices along any axis over a 1 mm grid of other order and flips."""
    spacing = [draw(st.floats(*in_plane)) for _ in range(3)]
    axis = draw(st.integers(0, 2))
    spacing[axis] = draw(st.floats(2.9, 5.0))
    extent = np.array([draw(st.integers(6, most)) for _ in range(3)])
    turn, order = draw(angles), draw(st.permutations(range(3)))
    fine = placed_grid(extent, (1, 1, 1), turn=turn, order=order, flip=draw(flips))
    along = [list(order).index(k) for k in range(3)]  # scan axis k lies along world axis k
    shape = [max(2, int(extent[a] / s)) for a, s in zip(along, spacing, strict=True)]
    centre = Rotation.from_euler("xyz", turn, degrees=True).as_matrix() @ [
        draw(st.floats(-shift, shift)) for _ in range(3)
    ]
    scan = placed_grid(shape, spacing, centre, turn=turn, flip=draw(flips))
    thickness = spacing[axis] * draw(st.floats(0.3, overlap))
    acquisition = find_acquisition(scan, thickness=thickness, profile=draw(kinds))
    return Degradation.between(fine, scan, acquisition), acquisition


def random_pair(degradation: Degradation, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.normal(size=degradation.fine.shape), random.normal(size=degradation.scan.shape)


def dense(degradation: Degradation) -> np.ndarray:
    """A as one matrix, a column per fine voxel."""
    units = np.eye(int(np.prod(degradation.fine.shape)))
    columns = [degradation.degrade(unit.reshape(degradation.fine.shape)).ravel() for unit in units]
    return np.stack(columns, axis=1)


def orthogonal_scans(fine: Grid, image: np.ndarray, noise: float):
    scans = []
    for name in SLICE_NAMES:
        thick, acquisition = simulate_thick(Volume(image, fine.affine), name, 4.0)
        degradation = Degradation.between(fine, thick.grid, acquisition)
        scans.append((degradation, thick.data, noise))
    return scans


@settings(max_examples=60, deadline=None)
@given(degradations())
def test_the_adjoint_is_the_transpose(case):
    degradation, _ = case
    x, y = random_pair(degradation)
    left, right = np.vdot(degradation.degrade(x), y), np.vdot(x, degradation.adjoint(y))
    size = np.linalg.norm(degradation.degrade(x)) * np.linalg.norm(y)
    assert abs(left - right) <= 1e-10 * size


@settings(max_examples=15, deadline=None)
@given(degradations(most=9))
def test_degrade_equals_a_naive_loop_over_world_positions(case):
    """Every weight from distances in mm; a Gaussian summed at 100 depths per fine voxel."""
    degradation, acquisition = case
    fine, scan = degradation.fine, degradation.scan
    x, _ = random_pair(degradation)
    index = np.stack(np.meshgrid(*map(np.arange, fine.shape), indexing="ij"), -1).reshape(-1, 3)
    world = index @ fine.affine[:3, :3].T + fine.affine[:3, 3]
    directions = scan.affine[:3, :3] / scan.spacing
    expected = np.zeros(scan.shape)
    for voxel in product(*map(range, scan.shape)):
        centre = scan.affine[:3, :3] @ voxel + scan.affine[:3, 3]
        offsets = (world - centre) @ directions  # [mm] along the scan's axes
        weights = np.ones(len(world))
        for k in range(3):
            across = k == acquisition.axis
            if across and acquisition.profile.kind == "gaussian":
                weights *= naive_gaussian(offsets[:, k], acquisition.thickness)
            elif across or scan.spacing[k] > 1:
                width = acquisition.thickness if across else scan.spacing[k]
                weights *= naive_overlap(offsets[:, k], width)
            else:
                weights *= naive_hat(offsets[:, k])
        first, last = offsets.min(0) - 0.5, -0.5 - offsets.max(0)  # below 0: within the border
        # A centre on the border itself is in or out by rounding.
        assume(np.abs([first, last]).min() > 1e-5)
        if (first < 0).all() and (last < 0).all():
            expected[voxel] = weights @ x.ravel() / weights.sum()
    np.testing.assert_allclose(degradation.degrade(x), expected, atol=1e-4)


def naive_gaussian(offsets: np.ndarray, fwhm: float) -> np.ndarray:
    depths = offsets[:, None] + (np.arange(100) + 0.5) / 100 - 0.5
    return (2 ** -((2 * depths / fwhm) ** 2)).mean(1)


def naive_overlap(offsets: np.ndarray, width: float) -> np.ndarray:
    low, high = np.maximum(offsets - 0.5, -width / 2), np.minimum(offsets + 0.5, width / 2)
    return np.maximum(high - low, 0)


def naive_hat(offsets: np.ndarray) -> np.ndarray:
    if offsets.min() > 0 or offsets.max() < 0:  # beyond the last centre: the outermost voxel
        return (np.abs(offsets) - np.abs(offsets).min() < 1e-9) * 1.0
    return np.maximum(1 - np.abs(offsets), 0)


@settings(max_examples=40, deadline=None)
@given(degradations(shift=2.5), st.floats(-3, 3))
def test_a_constant_stays_constant_wherever_the_scan_sees_the_grid(case, value):
    degradation, _ = case
    y = degradation.degrade(np.full(degradation.fine.shape, value))
    np.testing.assert_allclose(y[degradation.seen], value, atol=1e-12)
    np.testing.assert_array_equal(y[~degradation.seen], 0)


@settings(max_examples=40, deadline=None)
@given(degradations(overlap=1.2, in_plane=(1.05, 2.0)))
def test_a_projected_image_explains_the_scan_exactly(case):
    degradation, _ = case
    x, y = random_pair(degradation)
    y = np.where(degradation.seen, y, 0)
    projected = degradation.project(x, y)
    np.testing.assert_allclose(degradation.degrade(projected), y, atol=1e-6)
    np.testing.assert_allclose(degradation.project(projected, y), projected, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(degradations())
def test_the_residual_falls_with_the_noise(case):
    degradation, _ = case
    x, y = random_pair(degradation)
    residuals = [
        degradation.residual(degradation.project(x, y, noise), y)
        for noise in (10, 3, 1, 0.3, 0.1, 0.03, 0.01, 0)
    ]
    start = degradation.residual(x, y)
    for before, after in zip([start, *residuals], residuals, strict=False):
        assert after <= before * (1 + 1e-9)
    assert residuals[0] < start and residuals[3] < 0.99 * residuals[0]


@pytest.mark.parametrize("in_plane", [0.7, 1.0, 1.3])
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_projection_equals_a_dense_least_squares_solution(in_plane, noise):
    fine = placed_grid((4, 8, 5), (1, 1, 1), order=(1, 2, 0))
    scan = placed_grid((4, 3, 2), (in_plane, in_plane, 3.5), centre=(0.2, -0.3, 0.1))
    degradation = Degradation.between(fine, scan, find_acquisition(scan, thickness=5))
    x, y = random_pair(degradation)
    matrix = dense(degradation)
    rest = (y - degradation.degrade(x)).ravel()
    if noise == 0:  # lstsq gives the shortest of all solutions
        change = np.linalg.lstsq(matrix, rest, rcond=1e-9)[0]
    else:
        stacked = np.concatenate([matrix / noise, np.eye(matrix.shape[1])])
        change = np.linalg.lstsq(stacked, np.append(rest / noise, 0 * x.ravel()), rcond=None)[0]
    expected = x + change.reshape(x.shape)
    np.testing.assert_allclose(degradation.project(x, y, noise), expected, atol=1e-8)
    np.testing.assert_allclose(
        degradation.adjoint(y), (matrix.T @ y.ravel()).reshape(x.shape), atol=1e-12
    )


def test_components_that_hardly_show_in_the_scan_are_left_alone():
    """Scaled up by 1 / s they would carry the scan's rounding into the image."""
    fine, scan = placed_grid((4, 4, 30), (1, 1, 1)), placed_grid((4, 4, 10), (1, 1, 3))
    overlap = Degradation.between(fine, scan, find_acquisition(scan, thickness=9))
    x, y = random_pair(overlap)
    assert overlap.residual(overlap.project(x, y), y) < 1e-6  # the most overlap allowed still shows
    u, s, vt = np.linalg.svd(overlap.matrices[2], full_matrices=False)
    s[-1] = 1e-9
    weak = Degradation(fine, scan, overlap.axes, (*overlap.matrices[:2], u * s @ vt))
    for noise in (0.0, 1e-12):
        change = weak.project(x, y, noise) - x
        np.testing.assert_allclose(change @ vt[-1], 0, atol=1e-6 * np.abs(change).max())


def test_voxels_outside_the_fine_grid_are_neither_fitted_nor_counted():
    fine = placed_grid((10, 10, 10), (1, 1, 1))
    scan = placed_grid((14, 10, 5), (1, 1, 3))
    degradation = Degradation.between(fine, scan, find_acquisition(scan))
    np.testing.assert_array_equal(
        degradation.seen.any((1, 2)), [False] * 2 + [True] * 10 + [False] * 2
    )
    np.testing.assert_array_equal(degradation.seen.any((0, 1)), [False, True, True, True, False])
    x, y = random_pair(degradation)
    projected = degradation.project(x, y)
    assert degradation.residual(projected, y) < 1e-9
    other = np.where(degradation.seen, y, 1e6)
    np.testing.assert_allclose(degradation.project(x, other), projected, atol=1e-6)
    for shift, last in [(0.4, True), (0.7, False)]:  # centres at 4.9 and 5.2 mm, border at 5 mm
        moved = placed_grid((10, 10, 4), (1, 1, 3), centre=(0, 0, shift))
        seen = Degradation.between(fine, moved, find_acquisition(moved)).seen
        np.testing.assert_array_equal(seen.all((0, 1)), [True, True, True, last])
    first = np.zeros(scan.shape, bool)
    first[2, 0, 1] = True
    assert degradation.residual(x, y, first) == pytest.approx(
        abs((y - degradation.degrade(x))[2, 0, 1])
    )
    with pytest.raises(ValueError, match="mask holds no scan voxel"):
        degradation.residual(x, y, ~degradation.seen)


def test_single_precision_stays_single_and_wrong_shapes_are_caught():
    fine, scan = placed_grid((9, 8, 12), (1, 1, 1)), placed_grid((9, 8, 4), (1, 1, 3))
    degradation = Degradation.between(fine, scan, find_acquisition(scan))
    x, y = (a.astype(np.float32) for a in random_pair(degradation))
    results = degradation.degrade(x), degradation.adjoint(y), degradation.project(x, y)
    assert {a.dtype for a in results} == {np.dtype(np.float32)}
    assert project_all(x, [(degradation, y, 0.1)]).dtype == np.float32
    np.testing.assert_allclose(results[0], degradation.degrade(x.astype(np.float64)), atol=1e-6)
    assert degradation.degrade(x.astype(np.uint8)).dtype == np.float32
    with pytest.raises(ValueError, match="that of the fine grid"):
        degradation.degrade(y)
    with pytest.raises(ValueError, match="that of the scan"):
        degradation.adjoint(x)
    with pytest.raises(ValueError, match="that of the scan"):
        degradation.project(x, y[..., :1])
    with pytest.raises(ValueError, match="negative"):
        degradation.project(x, y, -1.0)


def test_grids_that_are_not_parallel_or_do_not_meet_are_refused():
    fine = placed_grid((60, 60, 60), (1, 1, 1))
    for degrees, words in [(3, r"3\.00 degrees"), (44, r"44\.00 degrees")]:
        turned = placed_grid((60, 60, 20), (1, 1, 3), turn=(degrees, 0, 0))
        with pytest.raises(VCMError, match=f"turned by {words} .* only parallel axes"):
            Degradation.between(fine, turned, find_acquisition(turned))
    tilted = placed_grid((60, 60, 20), (1, 1, 3), turn=(0.02, 0, 0))  # 0.02 mm over the head
    Degradation.between(fine, tilted, find_acquisition(tilted))
    away = placed_grid((60, 60, 20), (1, 1, 3), centre=(0, 70, 0))
    with pytest.raises(VCMError, match="has no voxel on the fine grid"):
        Degradation.between(fine, away, find_acquisition(away))
    with pytest.raises(ValueError, match="is not that of"):
        Degradation.between(fine, away, find_acquisition(placed_grid((60, 60, 20), (1, 1, 4))))


def centre_of_mass(data: np.ndarray, grid: Grid) -> np.ndarray:
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    voxel = (index * data[..., None]).sum((0, 1, 2)) / data.sum()
    return grid.affine[:3, :3] @ voxel + grid.affine[:3, 3]


@settings(max_examples=25, deadline=None)
@given(
    angles, st.permutations(range(3)), flips, st.sampled_from(SLICE_NAMES), st.floats(3, 5),
    st.floats(0.75, 1.5), kinds, st.tuples(*[st.floats(-6, 6)] * 3),
)  # fmt: skip
def test_a_landmark_stays_where_it_is_in_the_world(
    turn, order, flip, name, spacing, ratio, kind, mark
):
    shape = (70, 64, 62)
    grid = placed_grid(shape, (0.87, 1.0, 1.1), (5, -18, 30), order, flip, turn)
    mark = np.add(mark, (5, -18, 30))
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    world = index @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    blob = np.exp(-((world - mark) ** 2).sum(-1) / (2 * 4.0**2)).astype(np.float32)
    assert np.linalg.norm(centre_of_mass(blob, grid) - mark) < 0.02

    thick, acquisition = simulate_thick(
        Volume(blob, grid.affine), name, spacing, spacing * ratio, kind
    )
    assert (acquisition.name, acquisition.spacing) == (name, pytest.approx(spacing))
    assert thick.grid.orientation == grid.orientation
    fine = isotropic_grid(thick.grid, acquisition)
    degradation = Degradation.between(fine, thick.grid, acquisition)
    back = degradation.project(np.zeros(fine.shape, np.float32), thick.data, noise=0.01)
    to_axes = np.linalg.inv(grid.affine[:3, :3] / grid.spacing)
    # Across slices the way back is less exact: what lies in gaps is not known.
    for data, place, bound in [(thick.data, thick.grid, 0.05), (back, fine, 0.2)]:
        off = np.abs(to_axes @ (centre_of_mass(data, place) - mark))
        assert off[acquisition.axis] < bound
        assert np.delete(off, acquisition.axis).max() < 0.05


def test_simulated_slices_lie_about_the_centre_of_the_scan():
    random = np.random.default_rng(0)
    volume = Volume(random.uniform(size=(20, 30, 41)).astype(np.float32), np.diag([1, 1, 1, 1.0]))
    thick, acquisition = simulate_thick(volume, "axial", 4, thickness=4, profile="boxcar")
    assert thick.data.shape == (20, 30, 10)
    np.testing.assert_allclose(
        thick.affine[:3, 3], [0, 0, 0.5 - 0.5 + 2]
    )  # 0.5 mm left on each side
    # Slice 0 spans 0..4 mm: half of voxel 0, all of 1 to 3, half of voxel 4.
    parts = np.array([0.5, 1, 1, 1, 0.5]) / 4
    np.testing.assert_allclose(thick.data[..., 0], volume.data[..., :5] @ parts, atol=1e-6)
    assert str(acquisition) == "axial slices 4 mm apart, 4 mm thick (boxcar), 1 x 1 mm in plane"


def test_noise_is_drawn_from_the_given_generator_and_clipped_at_zero():
    volume = Volume(np.full((20, 20, 40), 10.0, np.float32), np.eye(4))
    clean, _ = simulate_thick(volume, "axial", 4)
    noisy, _ = simulate_thick(volume, "axial", 4, noise=2.0, random=np.random.default_rng(5))
    again, _ = simulate_thick(volume, "axial", 4, noise=2.0, random=np.random.default_rng(5))
    np.testing.assert_array_equal(noisy.data, again.data)
    assert (noisy.data - clean.data).std() == pytest.approx(2.0, rel=0.05)
    assert noisy.data.dtype == np.float32
    loud, _ = simulate_thick(volume, "axial", 4, noise=20.0, random=np.random.default_rng(5))
    assert loud.data.min() == 0
    below = volume.with_data(-volume.data)
    assert simulate_thick(below, "axial", 4)[0].data.max() == pytest.approx(-10)
    with pytest.raises(ValueError, match="random generator"):
        simulate_thick(volume, "axial", 4, noise=1.0)


@pytest.mark.parametrize(
    "axis, spacing, extra, words",
    [
        ("axail", 4, {}, "slice axis 'axail' is unknown"),
        (
            "axial",
            0.5,
            {},
            "slices 0.5 mm apart cannot be cut from volume, which has 40 voxels of 1 mm",
        ),
        ("axial", 0, {}, "cannot be cut"),
        ("axial", 30, {}, "leaves two slices"),
        ("axial", 4, {"thickness": 13}, "more than 3 times"),
        ("axial", 4, {"noise": -1.0}, "a noise of -1 is not possible"),
    ],
)
def test_slices_that_cannot_be_simulated_are_refused(axis, spacing, extra, words):
    volume = Volume(np.ones((20, 20, 40), np.float32), np.eye(4))
    with pytest.raises(VCMError, match=words):
        simulate_thick(volume, axis, spacing, **extra)


def test_a_real_thick_scan_is_explained_on_its_fine_grid(real_scans):
    scan = read_volume(real_scans / "ds000011/sub-01/anat/sub-01_inplaneT2.nii.gz")
    acquisition = find_acquisition(scan)
    fine = isotropic_grid(scan.grid, acquisition, 1.5)
    degradation = Degradation.between(fine, scan.grid, acquisition)
    blank = np.zeros(fine.shape, np.float32)
    projected = degradation.project(blank, scan.data)
    assert degradation.residual(projected, scan.data) < 1e-4 * scan.data.std()
    assert degradation.residual(blank, scan.data) > 0.5 * scan.data.std()


def smooth_volume(size: int) -> np.ndarray:
    random = np.random.default_rng(1)
    image = sum(s * gaussian_filter(random.normal(size=(size,) * 3), s) for s in (1.0, 2.0, 4.0))
    return image / image.std()


def test_three_orthogonal_scans_say_more_than_any_one():
    image = smooth_volume(36)
    fine = placed_grid(image.shape, (1, 1, 1), order=(2, 0, 1), flip=(1, -1, -1), turn=(10, 5, -8))
    scans = orthogonal_scans(fine, image, noise=0.01)
    blank = np.zeros_like(image)

    def error(x):
        return np.sqrt(np.mean((x - image) ** 2))

    alone = [error(a.project(blank, y, noise)) for a, y, noise in scans]
    pairs = [error(project_all(blank, [scans[i], scans[j]])) for i, j in ((0, 1), (0, 2), (1, 2))]
    together = error(project_all(blank, scans))
    assert together < 0.8 * min(pairs) and max(pairs) < 0.8 * min(alone)


def test_several_scans_equal_the_dense_solution_and_one_scan_its_projection():
    image = smooth_volume(8)
    scans = orthogonal_scans(placed_grid(image.shape, (1, 1, 1)), image, noise=0.05)
    scans[1] = (*scans[1][:2], 0.2)  # scans of different quality
    start = smooth_volume(8)[::-1]
    rows = [np.eye(image.size)] + [dense(a) / noise for a, _, noise in scans]
    sides = [start.ravel()] + [y.ravel() / noise for _, y, noise in scans]
    expected = np.linalg.lstsq(np.concatenate(rows), np.concatenate(sides), rcond=None)[0]
    found = project_all(start, scans, sweeps=100)
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-4)
    a, y, noise = scans[0]
    np.testing.assert_allclose(
        project_all(start, [scans[0]], 100), a.project(start, y, noise), atol=1e-4
    )


def test_conjugate_gradients_are_there_in_20_steps():
    image = smooth_volume(36)
    for noise in (0.1, 0.01, 0.001):
        scans = orthogonal_scans(placed_grid(image.shape, (1, 1, 1)), image, noise)
        blank = np.zeros_like(image)
        many, few = project_all(blank, scans, sweeps=300), project_all(blank, scans)
        assert np.sqrt(np.mean((few - many) ** 2)) < 1e-3


def test_scans_that_cannot_be_joined_are_refused():
    image = smooth_volume(12)
    fine = placed_grid(image.shape, (1, 1, 1))
    scans = orthogonal_scans(fine, image, noise=0.1)
    with pytest.raises(ValueError, match="no scans"):
        project_all(image, [])
    with pytest.raises(ValueError, match="not positive"):
        project_all(image, [(*scans[0][:2], 0.0)])
    moved = orthogonal_scans(placed_grid(image.shape, (1, 1, 1), centre=(1, 0, 0)), image, 0.1)
    with pytest.raises(ValueError, match="one fine grid"):
        project_all(image, [scans[0], moved[1]])
