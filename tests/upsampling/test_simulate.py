"""Thick slices of a scan, beside a naive loop over slices; files and what is refused."""

import json

import numpy as np
import pytest
from command_line import vcm

from vcm.errors import VCMError
from vcm.imaging.background import find_background
from vcm.imaging.volume import Volume, read_volume, write_volume
from vcm.upsampling.simulate import simulate_slices


@pytest.fixture(scope="module")
def scan() -> Volume:
    random = np.random.default_rng(0)
    data = np.full((20, 18, 24), -7.0, np.float32)
    data[3:-3, 3:-3, 2:-2] = random.random((14, 12, 20)) + 1
    return Volume(data, np.diag([1.0, 1.0, 1.0, 1.0]), source="scan")


def test_a_boxcar_slice_is_the_mean_of_its_voxels(scan):
    thick, acquisition = simulate_slices(scan, "axial", 4.0, profile="boxcar")
    assert thick.data.shape == (20, 18, 6) and acquisition.thickness == 4
    naive = np.stack([scan.data[:, :, n : n + 4].mean(2) for n in range(0, 24, 4)], 2)
    half = np.stack([(scan.data[:, :, n : n + 4] > 0).mean(2) for n in range(0, 24, 4)], 2)
    assert set(np.unique(half)) == {0, 0.5, 1}
    np.testing.assert_allclose(thick.data[half == 1], naive[half == 1], rtol=1e-5)
    assert (thick.data[half < 0.5] == -7).all()


def test_a_gap_leaves_out_what_lies_in_it(scan):
    """Slices of 2 mm, 4 mm apart, see the two voxels in their middle."""
    thick, _ = simulate_slices(scan, "axial", 4.0, 2.0, "boxcar")
    naive = np.stack([scan.data[:, :, n + 1 : n + 3].mean(2) for n in range(0, 24, 4)], 2)
    shown = thick.data > 0
    np.testing.assert_allclose(thick.data[shown], naive[shown], rtol=1e-5)


def test_noise_and_gains_are_those_of_the_seed(scan):
    one, again, other = (
        simulate_slices(scan, "coronal", 3.0, noise=0.05, uneven=0.1, seed=s)[0].data
        for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other)[one > -7].mean() > 0.01
    plain, _ = simulate_slices(scan, "coronal", 3.0)
    even, _ = simulate_slices(scan, "coronal", 3.0, uneven=0.1, seed=1)
    shown = plain.data > -7
    ratio = np.divide(
        even.data + 7, plain.data + 7, out=np.full_like(plain.data, np.nan), where=shown
    )
    gains = ratio[5:-5, 1:-1, 3:-3]
    assert np.nanmax(gains.std((0, 2))) < 1e-5 and np.nanstd(gains) > 0.03


@pytest.mark.parametrize("scale", [2.0**-30, 2.0**30])
def test_the_scale_of_the_intensities_changes_nothing(scan, scale):
    """Noise clips many voxels at the background's value."""
    black = scan.with_data(scan.data + 7)
    one, other = (
        simulate_slices(
            black.with_data((k * black.data).astype(np.float32)), "axial", 4.0, noise=0.5
        )
        for k in (1.0, scale)
    )
    np.testing.assert_allclose(other[0].data / np.float32(scale), one[0].data, rtol=1e-5)
    plain = simulate_slices(black, "axial", 4.0)[0].data
    assert ((one[0].data > 0) == (plain > 0)).all() and (one[0].data < 1e-3)[plain > 0].any()
    assert (find_background(one[0].data) == (plain == 0)).all()


def test_a_dark_scan_far_from_0_keeps_what_it_shows(scan):
    """Single precision tells no values that are nearer to each other than 0.06 there."""
    far = scan.with_data((scan.data + 1e6).astype(np.float32))
    thick, _ = simulate_slices(far, "axial", 4.0, noise=0.5)
    shown = simulate_slices(scan, "axial", 4.0)[0].data > -7
    assert (find_background(thick.data) == ~shown).all()


def test_what_makes_no_sense_is_refused(scan):
    with pytest.raises(VCMError, match="noise is 2"):
        simulate_slices(scan, "axial", 4.0, noise=2)
    with pytest.raises(VCMError, match="thickness"):
        simulate_slices(scan, "axial", 4.0, thickness=-1)


def test_the_command_writes_a_scan_and_how_it_was_cut(scan, tmp_path):
    path, out = tmp_path / "scan.nii.gz", tmp_path / "thick.nii.gz"
    write_volume(scan, path)
    words = ("simulate", path, "--out", out, "--spacing", "4", "--gap", "1")
    assert vcm(*words).exit_code == 0
    said = json.loads((tmp_path / "thick.json").read_text(encoding="utf-8"))
    assert (said["SpacingBetweenSlices"], said["SliceThickness"]) == (4, 3)
    expected, _ = simulate_slices(read_volume(path), "axial", 4.0, 3.0)
    np.testing.assert_array_equal(read_volume(out).data, expected.data)
    both = vcm(*words, "--slice-thickness", "2")
    assert both.exit_code == 2 and "gap and slice_thickness" in both.error
    wide = vcm("simulate", path, "--out", out, "--spacing", "4", "--gap", "5")
    assert wide.exit_code == 2 and "gap is 5 mm and spacing 4 mm" in wide.error
    itself = vcm("simulate", path, "--out", path)
    assert itself.exit_code == 2 and "is an input" in itself.error
