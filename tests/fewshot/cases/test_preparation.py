from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from vcm.errors import VCMError, VCMWarning
from vcm.fewshot.cases.label_maps import labels_on
from vcm.fewshot.cases.preparation import (
    canonical,
    foreground,
    frame,
    prepare,
    to_reference,
)
from vcm.imaging.volume import Volume


def volume(shape=(24, 30, 20), spacing=(1.0, 1.5, 2.0), axes="LSP", oblique=0.3, seed=0):
    """Smooth random blobs inside an ellipsoid, on a grid with other axes, oblique."""
    random = np.random.default_rng(seed)
    radius = sum(np.linspace(-1.3, 1.3, n).reshape([-1 if a == i else 1 for a in range(3)]) ** 2
                 for i, n in enumerate(shape))  # fmt: skip
    data = 300 + 400 * gaussian_filter(random.normal(size=shape), 2)
    affine = np.diag([*spacing, 1.0])
    start = nib.orientations.axcodes2ornt(tuple(axes))
    flips = nib.orientations.inv_ornt_aff(start, shape)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(oblique), -np.sin(oblique)], [np.sin(oblique), np.cos(oblique)]]
    turn[:3, 3] = [20, -30, 5]
    affine = turn @ np.linalg.inv(flips) @ affine
    return Volume(np.where(radius < 1, data, 0).astype(np.float32), affine, None, "blob")


def one_hot(labels, classes):
    return np.stack([(labels == c).astype(np.float32) for c in range(classes + 1)])


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LSP", "PSR"])
@pytest.mark.parametrize("oblique", [0.0, 0.3])
def test_a_mask_on_own_spacing_comes_back_voxel_by_voxel(axes, oblique):
    scan = volume(axes=axes, oblique=oblique)
    truth = (scan.data > 300).astype(np.int32) + (scan.data > 340)
    prepared = prepare({"t1": scan}, ("t1",))
    labels = labels_on(scan.with_data(truth), prepared.grid, {}, 2)
    back = to_reference(one_hot(labels, 2), prepared)
    assert (truth == 2).sum() > 20
    assert np.array_equal(back, truth)


def test_a_coarser_mask_comes_back_to_its_place():
    scan = volume(shape=(48, 48, 48), spacing=(1, 1, 1), axes="RAS", oblique=0)
    truth = np.zeros(scan.data.shape, np.int32)
    truth[14:30, 16:34, 18:28] = 1
    prepared = prepare({"t1": scan}, ("t1",), spacing=(2, 2, 2))
    labels = labels_on(scan.with_data(truth), prepared.grid, {}, 1)
    back = to_reference(one_hot(labels, 1), prepared)
    overlap = 2 * (back & truth).sum() / (back.sum() + truth.sum())
    assert overlap > 0.9
    centre = [np.argwhere(m).mean(0) for m in (back, truth)]
    assert np.abs(centre[0] - centre[1]).max() < 0.3


def test_the_grid_has_canonical_axes_and_the_wanted_spacing():
    scan = volume(oblique=0)
    assert canonical(scan.grid).orientation == "RAS"
    grid = frame(scan, (2.0, 2.0, 2.0))
    assert grid.orientation == "RAS" and grid.spacing == pytest.approx((2, 2, 2))
    box = frame(scan, (4.0, 4.0, 4.0), (16, 18, 14))
    assert box.shape == (16, 18, 14)
    inside = np.argwhere(foreground(scan.data))
    middle = scan.affine[:3, :3] @ ((inside.min(0) + inside.max(0)) / 2) + scan.affine[:3, 3]
    assert np.abs(box.centre - middle).max() < 2


def test_intensities_do_not_depend_on_the_unit_of_the_scan():
    scan = volume()
    one = prepare({"t1": scan}, ("t1",))
    two = prepare({"t1": scan.with_data(7 * scan.data)}, ("t1",))
    assert one.image.min() == 0 and one.image.max() == 1
    assert np.allclose(one.image, two.image, atol=1e-5)


def test_an_absent_slot_is_zero_and_other_grids_are_met():
    scan, other = volume(), volume((30, 24, 18), (1, 1, 1), "RAS", seed=1)
    made = prepare({"t2": other, "t1": scan}, ("flair", "t1", "t2"))
    assert made.present == (False, True, True)
    assert not made.image[0].any() and made.image[1].any()
    assert made.reference.shape == scan.data.shape


def test_a_brain_mask_removes_what_lies_outside():
    scan = volume()
    keep = np.zeros(scan.data.shape, np.int32)
    keep[6:18, 8:22, 5:15] = 1
    made = prepare({"t1": scan}, ("t1",), mask=scan.with_data(keep))
    whole = prepare({"t1": scan}, ("t1",))
    assert (made.image > 0).sum() < 0.8 * (whole.image > 0).sum()
    elsewhere = Volume(keep, scan.affine + 1, None, "mask.nii.gz")
    with pytest.raises(VCMError, match=r"mask\.nii\.gz does not lie on the voxels of blob"):
        prepare({"t1": scan}, ("t1",), mask=elsewhere)


def test_no_scan_at_all_is_refused():
    with pytest.raises(VCMError, match="No scan of t1"):
        prepare({}, ("t1",))


def head_and(moved=0.0, noise=0.0):
    """Two contrasts of one head, the second moved along the first axis [mm]."""
    first = volume(shape=(60, 70, 60), spacing=(2.5, 2.5, 2.5), axes="RAS", oblique=0)
    second = first.with_data(np.where(first.data > 0, 900 - first.data, 0))
    second.data[:] += noise * np.random.default_rng(1).normal(size=second.data.shape)
    affine = second.affine.copy()
    affine[0, 3] += moved
    return first, replace(second, affine=affine, source="flair.nii.gz")


@pytest.mark.parametrize("moved", [-20.0, 12.0, 24.0])
def test_scans_of_a_case_that_were_not_registered_are_named(moved):
    t1, flair = head_and(moved, noise=30)
    with pytest.warns(VCMWarning, match=r"flair\.nii\.gz shows the head about .* register"):
        prepare({"t1": t1, "flair": flair}, ("t1", "flair"))


@pytest.mark.parametrize("moved", [130.0, -400.0])
def test_scans_of_a_case_that_lie_beside_each_other_are_named(moved):
    t1, flair = head_and(moved, noise=30)
    with pytest.warns(
        VCMWarning, match=r"flair\.nii\.gz lies beside blob by their headers: register"
    ):
        prepare({"t1": t1, "flair": flair}, ("t1", "flair"))


def test_a_slab_within_its_reference_lies_together_with_it(recwarn):
    t1, flair = head_and()
    slab = np.zeros_like(flair.data)
    slab[:, :, 28:33] = flair.data[:, :, 28:33]
    prepare({"t1": t1, "flair": flair.with_data(slab)}, ("t1", "flair"))
    assert not [w for w in recwarn if issubclass(w.category, VCMWarning)]


@pytest.mark.parametrize("moved", [0.0, 3.0])
def test_scans_of_a_case_that_lie_together_are_not(moved, recwarn):
    t1, flair = head_and(moved, noise=30)
    prepare({"t1": t1, "flair": flair}, ("t1", "flair"))
    assert not [w for w in recwarn if issubclass(w.category, VCMWarning)]


@pytest.mark.parametrize("masked", [False, True])
def test_the_value_of_the_background_changes_nothing(masked):
    """As z-scoring and CT leave it; a brain far from the middle of its volume is centred where it lies."""
    brain = volume(axes="RAS", oblique=0.0)
    data = np.zeros((60, 60, 60), np.float32)
    darkest = brain.data[brain.data > 0].min() - 1  # as fluid is
    data[4:28, 6:36, 5:25] = np.maximum(brain.data - darkest, 0)
    plain = brain.__class__(data, brain.affine, None, "plain")
    inside = data > 0
    mask = plain.with_data(inside.astype(np.uint8)) if masked else None
    shifted = (data - data[inside].mean()) / data[inside].std()
    expected = prepare({"t1": plain}, ["t1"], (2.0,) * 3, (24, 24, 24), mask)
    for made in (np.where(inside, shifted, 0), np.where(inside, data, -1024), data + 500):
        scan = plain.with_data(made.astype(np.float32))
        found = prepare({"t1": scan}, ["t1"], (2.0,) * 3, (24, 24, 24), mask)
        np.testing.assert_allclose(found.grid.affine, expected.grid.affine, atol=1e-3)
        assert np.abs(found.image - expected.image).mean() < 0.01


def test_a_mask_of_slightly_larger_voxels_lies_beside_its_scan():
    """Half a percent of the voxel size is half a voxel at the far end of a hundred."""
    scan = volume((100, 30, 20), (1.0, 1.5, 2.0))
    mask = scan.with_data((scan.data > 0).astype(np.uint8))
    stretched = replace(mask, affine=scan.affine @ np.diag([1.005, 1, 1, 1]), source="mask.nii.gz")
    with pytest.raises(VCMError, match=r"mask\.nii\.gz does not lie on the voxels of blob"):
        prepare({"t1": scan}, ("t1",), (2.0,) * 3, None, stretched)
