from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.spatial.transform import Rotation

from vcm.errors import VCMError
from vcm.imaging.acquisition import SLICE_NAMES, SliceProfile, find_acquisition, isotropic_grid
from vcm.imaging.volume import Grid, read_volume


def straight_grid(shape, spacing, order=(0, 1, 2), flip=(1, 1, 1), angles=(0, 0, 0)) -> Grid:
    """Voxel axis k runs along world axis order[k], forward or backward, then turned by `angles`."""
    affine = np.eye(4)
    axes = np.eye(3)[:, list(order)] * flip
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    affine[:3, :3] = turn @ axes * spacing
    affine[:3, 3] = (12.5, -31, 47)
    return Grid(tuple(shape), affine)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.5, 8), st.floats(0.2, 3), st.floats(-4, 4), st.booleans())
def test_slice_weights_are_the_integral_of_the_profile(thickness, width, shift, gaussian):
    def height(z):
        return 2 ** -((2 * z / thickness) ** 2)  # half of the maximum at half the thickness

    offsets = (np.arange(9) - 4 + shift) * width
    low, high = offsets - width / 2, offsets + width / 2
    if gaussian:
        expected = np.array([quad(height, a, b)[0] for a, b in zip(low, high, strict=True)])
    else:
        overlap = np.minimum(high, thickness / 2) - np.maximum(low, -thickness / 2)
        expected = np.maximum(overlap, 0)
    weights = SliceProfile("gaussian" if gaussian else "boxcar", thickness).weights(offsets, width)
    np.testing.assert_allclose(weights, expected / expected.sum(), atol=1e-7)
    assert weights.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("kind", ["gaussian", "boxcar"])
def test_a_profile_that_leaves_the_grid_is_rescaled_and_one_that_misses_it_is_zero(kind):
    profile = SliceProfile(kind, 4.0)
    whole = profile.weights(np.arange(-20.0, 21), 1.0)
    half = profile.weights(np.arange(0.0, 21), 1.0)
    np.testing.assert_allclose(half, whole[20:] / whole[20:].sum())
    np.testing.assert_array_equal(profile.weights(np.arange(200.0, 210), 1.0), 0)


@pytest.mark.parametrize("order", permutations(range(3)))
@pytest.mark.parametrize("flip", product((-1, 1), repeat=3))
@pytest.mark.parametrize("thick", range(3))
def test_slices_are_found_in_every_axis_order_and_direction(order, flip, thick):
    spacing = [0.8, 0.9, 1.0]
    spacing[thick] = 4.0
    grid = straight_grid((20, 30, 40), spacing, order, flip, angles=(20, -15, 10))
    found = find_acquisition(grid)
    assert (found.axis, found.name) == (thick, SLICE_NAMES[order[thick]])
    assert (found.spacing, found.thickness) == (pytest.approx(4), pytest.approx(4))
    assert found.in_plane == pytest.approx([s for s in spacing if s != 4.0])
    assert find_acquisition(grid, axis=found.name) == found
    with pytest.raises(VCMError, match=f"name {found.name}, or correct the header"):
        find_acquisition(grid, axis=next(n for n in SLICE_NAMES if n != found.name))


@pytest.mark.parametrize(
    "name, expected",
    [
        ("open_ms/patient12/study1_FLAIR", (2, "axial", 3.0)),
        ("open_ms/patient12/study1_T1W", (2, "axial", 3.0)),
        ("open_ms/patient12/study1_T2W", (2, "axial", 3.3)),
        ("ds000011/sub-01/anat/sub-01_inplaneT2", (2, "axial", 5.0)),
        ("ds000011/sub-05/anat/sub-05_inplaneT2", (2, "axial", 5.0)),
        ("ds000011/sub-01/anat/sub-01_T1w", "voxels of 1 x 1.33 x 1.33 mm and no thick slices"),
        ("ds002748/sub-01/anat/sub-01_desc-brain_T1w", "0.868 x 0.868 x 1 mm and no thick slices"),
        ("ixi2mm/sub-IXI012/anat/sub-IXI012_T1w", "voxels of 2 x 2 x 2 mm and no axis that stands"),
        ("labelmaps/training_seg_03", "voxels of 1 x 1 x 1 mm and no thick slices"),
    ],
)
def test_real_headers(real_scans, name, expected):
    scan = read_volume(real_scans / f"{name}.nii.gz")
    if isinstance(expected, str):
        with pytest.raises(VCMError, match=f"^{scan.source} has .*{expected}"):
            find_acquisition(scan)
    else:
        found = find_acquisition(scan)
        assert (found.axis, found.name, round(found.spacing, 3)) == expected


@pytest.mark.parametrize(
    "spacing, thick",
    [
        ((1, 1, 1.999997), True),  # 2 mm, as single precision stores it
        ((1, 1, 1.9), False),
        ((0.5, 0.5, 1.5), False),
        ((1.6, 2.0, 2.8), True),
        ((1.6, 2.2, 2.8), False),
        ((1, 3, 3), False),
    ],
)
def test_thick_is_2_mm_or_more_and_1_4_times_the_rest(spacing, thick):
    grid = straight_grid((20, 20, 20), spacing)
    if thick:
        assert find_acquisition(grid).axis == 2
    else:
        with pytest.raises(VCMError, match="name the slice axis"):
            find_acquisition(grid)
        assert find_acquisition(grid, axis="axial").axis == 2


def test_thickness_may_leave_gaps_or_overlap_within_reason():
    grid = straight_grid((64, 64, 20), (1, 1, 4))
    assert find_acquisition(grid, thickness=2.5).thickness == 2.5
    assert find_acquisition(grid, thickness=12).thickness == 12
    for thickness, words in [(0, "0 mm"), (-3, "-3 mm"), (np.nan, "nan mm"), (np.inf, "inf mm")]:
        with pytest.raises(VCMError, match=f"thickness of {words} is not possible"):
            find_acquisition(grid, thickness=thickness)
    with pytest.raises(VCMError, match=r"12\.1 mm is more than 3 times the 4 mm between"):
        find_acquisition(grid, thickness=12.1)


def test_what_is_not_a_stack_of_slices_is_refused():
    grid = straight_grid((64, 64, 20), (1, 1, 4))
    with pytest.raises(VCMError, match="slice axis 'axail' is unknown: choose axial"):
        find_acquisition(grid, axis="axail")
    with pytest.raises(VCMError, match="profile 'sinc' is unknown: choose gaussian"):
        find_acquisition(grid, profile="sinc")
    with pytest.raises(VCMError, match="the scan has 1 axial slice"):
        find_acquisition(Grid((64, 64, 1), grid.affine))
    sheared = grid.affine.copy()
    sheared[0, 2] = 0.2
    with pytest.raises(VCMError, match=r"voxel axes at 87\.14 degrees"):
        find_acquisition(Grid(grid.shape, sheared))
    sheared[0, 2] = 0.002  # header rounding
    assert find_acquisition(Grid(grid.shape, sheared)).name == "axial"


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(st.integers(2, 60), st.integers(2, 60), st.integers(2, 60)),
    st.floats(0.3, 1.8),
    st.permutations(range(3)),
    st.tuples(*[st.sampled_from([-1, 1])] * 3),
    st.tuples(*[st.floats(-40, 40)] * 3),
)
def test_the_fine_grid_covers_the_scan_about_the_same_centre(shape, fine, order, flip, angles):
    scan = straight_grid(shape, (0.7, 1.1, 3.3), order, flip, angles)
    grid = isotropic_grid(scan, find_acquisition(scan), fine)
    np.testing.assert_allclose(grid.spacing, fine)
    # Columns of both affines point the same way: same order, same flips, same tilt.
    np.testing.assert_allclose(
        grid.affine[:3, :3] / fine, scan.affine[:3, :3] / scan.spacing, atol=1e-12
    )
    # Outer borders, in scan voxels, lie symmetric about the scan's to half a fine voxel
    # (a whole one where even one voxel is wider than the scan).
    to_scan = np.linalg.inv(scan.affine) @ grid.affine
    low = to_scan @ [-0.5, -0.5, -0.5, 1]
    high = to_scan @ [*(np.array(grid.shape) - 0.5), 1]
    np.testing.assert_allclose((low + high)[:3], np.array(shape) - 1, atol=1e-9)
    overhang = (-0.5 - low[:3]) * scan.spacing
    assert np.all(np.abs(overhang) <= fine / 4 * (1 + 1e-9) + (np.array(grid.shape) == 1) * fine)


def test_voxels_that_do_not_refine_the_slices_are_refused():
    scan = straight_grid((64, 64, 20), (1, 1, 4))
    for spacing in (4.0, 5.0, 0.0, -1.0, 0.01, np.nan):
        with pytest.raises(VCMError, match="do not refine slices 4 mm apart"):
            isotropic_grid(scan, find_acquisition(scan), spacing)
    assert isotropic_grid(scan, find_acquisition(scan)).shape == (64, 64, 80)
    line = Grid((1, 64, 20), scan.affine)
    assert isotropic_grid(line, find_acquisition(line), 3.0).shape == (1, 21, 27)
