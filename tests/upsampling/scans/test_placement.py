"""Further scans of one head are brought to the first, and those of another head are refused."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from small_heads import bent, cut, head

from vcm.errors import VCMError, VCMWarning
from vcm.upsampling.scans.placement import bring_together, distance
from vcm.upsampling.scans.thick_scan import to_thick_scan
from vcm.weights.load import load_pipeline


@pytest.fixture(scope="module")
def whole():
    """Left and right differ, as in people."""
    return bent(head(), 0)


@pytest.fixture(scope="module")
def ready(thick_model):
    """What makes a thick scan of slices."""
    grid = load_pipeline(thick_model).volume_grid
    return lambda slices, name: to_thick_scan(replace(slices, source=name), grid, 2.0)


@pytest.fixture(scope="module")
def first(whole, ready):
    return ready(cut(whole, "axial", 6.0)[0], "sub-1_acq-axial_T1w.nii.gz")


def elsewhere(volume, turn, shift):
    """The scan after its head moved, and the motion back [mm]."""
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    motion[:3, 3] = shift
    return replace(volume, affine=motion @ volume.affine), np.linalg.inv(motion)


def test_a_scan_stays_where_its_header_rightly_places_it(whole, first, ready):
    second = ready(cut(whole, "coronal", 6.0)[0], "sub-1_acq-coronal_T1w.nii.gz")
    (placed,) = bring_together(first, [second])
    assert placed is second and distance(placed) == 0


def test_a_head_that_moved_between_two_scans_is_brought_back(whole, first, ready):
    there, back = elsewhere(cut(whole, "coronal", 6.0)[0], (3, -2, 4), (2, -3, 3))
    second = ready(there, "sub-1_acq-coronal_T1w.nii.gz")
    (placed,) = bring_together(first, [second])
    places = np.c_[np.argwhere(second.brain), np.ones(second.brain.sum())] @ there.affine.T
    off = (places @ (placed.motion - back).T)[:, :3]
    assert np.sqrt(np.square(off).sum(1).mean()) < 0.7
    right = np.linalg.norm((places @ (back - np.eye(4)).T)[:, :3], axis=1).mean()
    assert distance(placed) == pytest.approx(right, abs=0.7)
    for grid, before in (
        (placed.volume.affine, second.volume.affine),
        (placed.fine.affine, second.fine.affine),
    ):
        assert np.allclose(grid, placed.motion @ before)
    assert np.allclose(placed.to_common @ placed.motion, second.to_common)
    assert placed.describe_profile()["Motion"] == placed.motion.tolist()


def test_a_scan_of_another_head_or_a_mirrored_one_is_refused(whole, first, ready):
    other = ready(cut(bent(head(), 1), "coronal", 6.0)[0], "sub-2_T1w.nii.gz")
    with pytest.raises(
        VCMError, match=r"sub-2_T1w\.nii\.gz shows another head than sub-1_acq-axial"
    ):
        bring_together(first, [other])
    slices = cut(whole, "coronal", 6.0)[0]
    flipped = replace(slices, affine=np.diag([-1, 1, 1, 1]) @ slices.affine)
    with pytest.raises(VCMError, match="left and right are exchanged"):
        bring_together(first, [ready(flipped, "sub-1_acq-coronal_T1w.nii.gz")])


@pytest.fixture
def away(whole, ready):
    """A head a quarter of a metre from where the first scan has it."""
    slices = cut(whole, "coronal", 6.0)[0]
    affine = slices.affine.copy()
    affine[:3, 3] += 150
    return ready(replace(slices, affine=affine), "sub-1_acq-coronal_T1w.nii.gz")


def test_a_whole_brain_that_a_header_places_far_away_is_brought_back(first, away):
    (placed,) = bring_together(first, [away])
    assert distance(placed) == pytest.approx(150 * 3**0.5, abs=1)


def test_parts_of_brains_that_lie_beside_each_other_stay_there(first, away, monkeypatch):
    monkeypatch.setattr("vcm.upsampling.scans.placement.FOUND_BRAIN", (3000.0, 4000.0))
    with pytest.warns(VCMWarning, match="lies beside that in sub-1_acq-axial"):
        (placed,) = bring_together(first, [away])
    assert placed is away
