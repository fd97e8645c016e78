"""A finer scan of another contrast guides a result: where it lies, what it is worth, what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import binary_erosion
from small_heads import bent, cut, head

from vcm.cli.main import run_command
from vcm.errors import VCMError
from vcm.imaging.geometry import resample
from vcm.imaging.volume import write_volume
from vcm.upsampling.scans.placed_guide import _scaled, find_guide, place_guide
from vcm.upsampling.scans.thick_scan import to_thick_scan
from vcm.upsampling.upsample import upsample
from vcm.weights.load import load_pipeline

TURN, SHIFT = (4, -3, 5), (3, -4, 2)


def as_t2w(whole):
    """Fluid brightest, white matter darkest."""
    data = whole.data
    return replace(
        whole, data=np.where(data > 0, 900 - data, 0).astype(np.float32), source="sub-1_T2w.nii.gz"
    )


@pytest.fixture(scope="module")
def truth():
    return as_t2w(head())


@pytest.fixture(scope="module")
def thick(truth):
    return replace(cut(truth, "axial", 8.0)[0], source="sub-1_T2w.nii.gz")


@pytest.fixture(scope="module")
def results(thick_model, thick):
    """Without a guide, and with the T1w scan of the same head, which moved in between."""
    pipeline = load_pipeline(thick_model)
    guide = head(turn=TURN, shift=SHIFT)
    given = {"spacing": 2.0, "samples": 0}
    return [upsample(thick, pipeline, guide=g, **given) for g in (None, guide)]


def test_what_the_guide_shows_makes_the_result_better(truth, results):
    there = [r.volume for r in results]
    real = resample(truth, there[0].grid, order=1)
    within = binary_erosion(real > 0, iterations=4)
    alone, guided = (np.sqrt(np.mean((v.data - real)[within] ** 2)) for v in there)
    assert guided < 0.8 * alone


def test_the_slices_still_come_out_of_it(results):
    alone, guided = results
    assert guided.residual["after"] < 0.6 * guided.residual["cubic"]
    assert guided.std is alone.std or np.array_equal(guided.std, alone.std)


def test_a_head_that_moved_is_brought_back(results):
    moved, back = head(turn=TURN, shift=SHIFT), results[1].guide.to_scan
    places = np.c_[
        np.argwhere(moved.data > 0)[::997], np.ones(len(np.argwhere(moved.data > 0)[::997]))
    ]
    found = (back @ moved.affine @ places.T)[:3]
    right = (head().affine @ places.T)[:3]
    assert np.sqrt(np.square(found - right).sum(0).mean()) < 1.0
    assert results[1].guide.overlap > 0.95


def test_guides_that_cannot_be_used_are_refused(thick, results):
    scan = results[0].scan
    with pytest.raises(VCMError, match="give a guide that is finer there"):
        place_guide(cut(head(), "axial", 6.0)[0], scan)
    large = head()
    affine = large.affine.copy()
    affine[:3, :3] *= 0.85
    with pytest.raises(VCMError, match="give a guide of the same head"):
        place_guide(replace(large, affine=affine), scan)


def test_the_scan_of_another_head_or_a_mirrored_one_is_no_guide(thick_model):
    """Their brains overlap all but wholly."""
    one, other = bent(head(), 0), bent(head(), 1)
    given = replace(cut(as_t2w(one), "axial", 8.0)[0], source="sub-1_T2w.nii.gz")
    scan = to_thick_scan(given, load_pipeline(thick_model).volume_grid, 2.0)
    assert place_guide(one, scan).overlap > 0.94
    assert find_guide(other, scan).overlap > 0.94
    with pytest.raises(VCMError, match=r"shows another head than sub-1_T2w\.nii\.gz"):
        place_guide(other, scan)
    flipped = replace(one, affine=np.diag([-1, 1, 1, 1]) @ one.affine)
    with pytest.raises(VCMError, match="left and right are exchanged"):
        place_guide(flipped, scan)


def test_the_scale_of_the_intensities_of_a_guide_changes_nothing():
    whole = head()
    small = replace(whole, data=(whole.data * 2.0**-30).astype(np.float32))
    one, other = (_scaled(v, whole.data > 0).data for v in (whole, small))
    np.testing.assert_array_equal(one, other)


def test_a_label_map_or_a_head_far_off_is_no_guide(results):
    scan, whole = results[0].scan, head()
    labels = replace(whole, data=np.where(whole.data > 400, 2, whole.data > 0).astype(np.float32))
    with pytest.raises(VCMError, match="is a label map, not a scan"):
        place_guide(labels, scan)
    far = whole.affine.copy()
    far[:3, 3] += 900
    with pytest.raises(VCMError, match="too far apart"):
        place_guide(replace(whole, affine=far), scan)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--consistency", "false"], "consistency is false"),
        (["--output", "sample"], "output is sample"),
        (["--bids"], "guide belongs to single scans"),
    ],
)
def test_settings_that_a_guide_contradicts_are_refused(
    thick_model, thick, tmp_path, capsys, options, words
):
    scan = write_volume(thick, tmp_path / "sub-1_T2w.nii.gz")
    guide = write_volume(head(), tmp_path / "sub-1_T1w.nii.gz")
    given = ["upsample", scan, "--guide", guide, "--model", thick_model, "--out", tmp_path / "out"]
    assert run_command([*map(str, given), *options]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_guide_in_a_file_is_recorded(thick_model, thick, tmp_path):
    scan = write_volume(thick, tmp_path / "sub-1_T2w.nii.gz")
    guide = write_volume(head(), tmp_path / "sub-1_T1w.nii.gz")
    given = [
        "upsample", scan, "--guide", guide, "--model", thick_model, "--spacing", "2", "--samples", "0",
        "--detail", "none", "--out", tmp_path / "out",
    ]  # fmt: skip
    assert run_command([*map(str, given)]) == 0
    told = json.loads((tmp_path / "out" / "sub-1_desc-upsampled_T2w.json").read_text())
    assert told["Guide"] == "sub-1_T1w.nii.gz" and len(told["GuideSHA256"]) == 64
    assert np.allclose(told["GuideToScan"], np.eye(4), atol=0.3)
