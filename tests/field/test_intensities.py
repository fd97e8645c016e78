"""The same brain in whatever intensities and on whatever background: one mask, one range, one result."""

import numpy as np
import pytest

from vcm.errors import VCMError, VCMWarning, noted
from vcm.imaging import brain
from vcm.imaging.background import find_background, on_black
from vcm.imaging.brain import align_brain, is_label_map
from vcm.imaging.extraction import find_brain
from vcm.imaging.geometry import model_grid
from vcm.imaging.registration import common_template
from vcm.imaging.volume import Volume, read_volume


@pytest.fixture(scope="module")
def plain() -> Volume:
    """The template in whole numbers 20 to about 900 on a background of 0."""
    template = common_template()
    inside = template.data > 0.05
    data = np.where(inside, np.rint(1000 * template.data - 100), 0).astype(np.float32)
    return Volume(data, template.affine, source="head")


@pytest.fixture
def aligned_by_header(monkeypatch):
    """The template lies where it is to lie, so nothing is searched."""
    monkeypatch.setattr(brain, "align_rigid", lambda image: np.eye(4))


def z_scored(data, inside):
    return np.where(inside, (data - data[inside].mean()) / data[inside].std(), 0)


BACKGROUNDS = {
    "-1024": lambda d, m: np.where(m, d, -1024),
    "brighter than the brain": lambda d, m: np.where(m, d, 4095),
    "padded with 0 around -1024": lambda d, m: np.pad(
        np.where(m, d, -1024)[8:-8], ((8, 8), (0, 0), (0, 0))
    ),
}
SHIFTED = {
    "-1": lambda d, m: np.where(m, d, -1),
    "z-scored in the brain": z_scored,
    "z-scored as a whole": lambda d, m: (d - d.mean()) / d.std(),
    "in whole numbers about 0": lambda d, m: np.where(m, np.rint(100 * z_scored(d, m)), 0),
    "CT": lambda d, m: np.where(m, d / 10 - 60, -1024),
}


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_another_background_changes_nothing(plain, aligned_by_header, name):
    inside = plain.data > 0
    if "padded" in name:
        assert not inside[:8].any() and not inside[-8:].any()
    other = plain.with_data(BACKGROUNDS[name](plain.data, inside).astype(np.float32))
    np.testing.assert_array_equal(find_brain(other).mask, inside)
    first, second = (align_brain(v, find_brain(v).mask, model_grid()) for v in (plain, other))
    np.testing.assert_array_equal(second.image, first.image)
    assert second.intensity_range == first.intensity_range


@pytest.mark.parametrize("name", SHIFTED)
def test_intensities_below_0_are_scaled_like_those_above(plain, aligned_by_header, name):
    """To what the rim shows: its voxels are mixed with no signal, whose value is not known exactly."""
    inside = plain.data > 0
    other = plain.with_data(SHIFTED[name](plain.data, inside).astype(np.float32))
    assert (find_brain(other).mask != inside).sum() <= 1e-3 * inside.sum()
    first, second = (align_brain(v, find_brain(v).mask, model_grid()) for v in (plain, other))
    apart = np.abs(second.image - first.image)[first.image > 0]
    assert apart.mean() < 0.01 and np.percentile(apart, 99) < 0.1
    moved = [np.percentile(v.data[inside], brain.PERCENTILES) for v in (plain, other)]
    share = [
        (r.intensity_range - m) / np.ptp(m) for r, m in zip((first, second), moved, strict=True)
    ]
    np.testing.assert_allclose(share[1], share[0], atol=0.02)


def test_a_plain_scan_is_taken_as_it_is(plain):
    inside = plain.data > 0
    again, black = on_black(plain, inside)
    assert again is plain and black == 0
    np.testing.assert_array_equal(find_background(plain.data), ~inside)


def test_ringing_about_the_background_is_no_brain(plain):
    inside = plain.data > 0
    data = plain.data.copy()
    ringing = np.random.default_rng(0).random(data.shape) < 0.001
    data[ringing & ~inside] = -7
    np.testing.assert_array_equal(find_brain(plain.with_data(data)).mask, inside)


def test_a_skull_outside_the_mask_is_not_touched(plain, aligned_by_header):
    """A scan with a label map may have its skull on: what lies outside the mask is no background."""
    inside = plain.data > 0
    noise = np.random.default_rng(0).integers(0, 40, plain.data.shape)
    with_skull = plain.with_data((plain.data + noise).astype(np.float32))
    again, black = on_black(with_skull, inside)
    assert again is with_skull and black == 0


@pytest.mark.slow
def test_the_scans_of_real_users_agree(real_scans):
    names = ("t1_plain", "t1_bg-1024", "t1_zscore_bg0")
    files = [real_scans.parent / "cases" / f"{name}.nii.gz" for name in names]
    if not all(file.is_file() for file in files):
        pytest.skip("the cases are not there")
    first, *others = (
        align_brain(v, find_brain(v).mask, model_grid()) for v in map(read_volume, files)
    )
    for other in others:
        assert np.abs(other.image - first.image)[first.image > 0].mean() < 0.01


@pytest.mark.parametrize("axis", [0, 2])
def test_a_scan_with_lost_slices_is_not_prepared_or_segmented(plain, aligned_by_header, axis):
    data = plain.data.copy()
    np.moveaxis(data, axis, 0)[[40, 41]] = 0
    other = plain.with_data(data)
    with pytest.raises(VCMError, match=f"empty in the slices 40, 41 .* axis {axis}"):
        align_brain(other, other.data > 0, model_grid())


def test_a_label_map_is_told_from_a_scan(plain, real_scans):
    inside = plain.data > 0
    assert not is_label_map(plain, inside)
    assert is_label_map(plain.with_data(np.digitize(plain.data, [1, 300, 600])), inside)
    for name, wanted in (("t1_plain", False), ("thick6", False), ("aseg_plain", True)):
        path = real_scans.parent / "cases" / f"{name}.nii.gz"
        if path.is_file():
            scan = read_volume(path)
            assert is_label_map(scan, scan.data > 0) == wanted


def test_a_scan_of_another_contrast_or_cut_through_the_brain_is_said(plain, aligned_by_header):
    """Segmented as T1w, or short of half its brain, it gives numbers that look like any others."""
    inside = plain.data > 0

    def said(data):
        with noted() as sentences:
            align_brain(plain.with_data(data), data != 0, model_grid())
        return sentences

    assert said(plain.data) == []
    inverted = np.where(inside, plain.data.max() + 1 - plain.data, 0).astype(np.float32)
    (sentence,) = said(inverted)
    assert "does not look like a T1w scan" in sentence


def test_a_brain_that_the_border_cuts_is_said(plain, monkeypatch):
    half = Volume(plain.data[: plain.data.shape[0] // 2], plain.affine)
    monkeypatch.setattr("vcm.imaging.extraction._deepbet", lambda image: image.data > 0)
    with pytest.warns(VCMWarning, match=r"cuts 1\d\d cm2 of its brain"):
        assert find_brain(half).method == "background"
