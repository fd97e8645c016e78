"""The width of slices, found in scans whose truth is known: random fields that are the same in all directions."""

import json
from dataclasses import replace

import numpy as np
import pytest
from command_line import vcm
from scipy.ndimage import gaussian_filter
from small_heads import cut, head

from vcm.errors import VCMError, VCMWarning
from vcm.imaging import brain
from vcm.imaging.acquisition import find_acquisition, grid_about, isotropic_grid
from vcm.imaging.degradation import Degradation, simulate_thick
from vcm.imaging.geometry import model_grid
from vcm.imaging.volume import Grid, Volume, read_volume, write_volume
from vcm.upsampling.scans.profile import NoEstimate, check_profile, estimate_width
from vcm.upsampling.scans.thick_scan import to_thick_scan

SPACING = 4.0


@pytest.fixture(scope="module")
def field() -> Volume:
    """Coarse and fine structure, about 1, of 1 mm."""
    random = np.random.default_rng(0)
    shape = (128, 120, 124)
    parts = (gaussian_filter(random.standard_normal(shape), sigma) for sigma in (0.8, 2.5, 6))
    data = 1 + 0.1 * sum(part / part.std() for part in parts)
    return Volume(data.astype(np.float32), np.eye(4), source="field")


def found(thick, acquisition, **options):
    """Width and its uncertainty [spacing]."""
    fine = isotropic_grid(thick.grid, acquisition, 1.0)
    everywhere = options.pop("brain", np.ones(thick.data.shape, bool))
    width = estimate_width(thick, everywhere, acquisition, fine, anisotropy=0.0, **options)
    return width.fwhm / acquisition.spacing, width.std / acquisition.spacing


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("factor", [0.6, 1.0, 1.4])
def test_the_width_of_slices_is_found(field, axis, factor):
    width, std = found(*simulate_thick(field, axis, SPACING, factor * SPACING))
    assert width == pytest.approx(factor, rel=0.15)
    assert abs(width - factor) < 2 * std < 0.5 * factor


@pytest.mark.parametrize("factor", [0.6, 1.4])
def test_neither_noise_nor_the_gain_of_slices_changes_it(field, factor):
    random = np.random.default_rng(1)
    thick, acquisition = simulate_thick(field, "axial", SPACING, factor * SPACING)
    gains = np.exp(0.02 * random.standard_normal(thick.data.shape[2]))
    noisy = thick.data * gains + 0.02 * random.standard_normal(thick.data.shape)
    width, _ = found(thick.with_data(noisy.astype(np.float32)), acquisition)
    assert width == pytest.approx(found(thick, acquisition)[0], rel=0.1)


def test_voxels_that_are_coarse_in_plane_are_not_taken_for_thin_slices(field):
    """The same slices in voxels of 2 mm: the width from the fine grid to the scan is what it was."""
    grid = grid_about((64, 60, 31), field.grid, (2.0, 2.0, SPACING))
    acquisition = find_acquisition(grid, thickness=0.8 * SPACING)
    data = Degradation.between(field.grid, grid, acquisition).degrade(field.data)
    width, _ = found(Volume(data, grid.affine), acquisition)
    assert width == pytest.approx(0.8, rel=0.15)


def test_lost_slices_and_what_is_no_brain_are_not_looked_at(field):
    thick, acquisition = simulate_thick(field, "axial", SPACING)
    dark, bright, mask = thick.data.copy(), thick.data.copy(), np.ones(thick.data.shape, bool)
    dark[:, :, 12:14] = 0
    bright[:40] += np.random.default_rng(0).random((40, *mask.shape[1:]))
    mask[:40] = False
    for data, told in ((dark, {"lost": (12, 13)}), (bright, {"brain": mask})):
        broken = thick.with_data(data)
        assert found(broken, acquisition, **told)[0] == pytest.approx(1, rel=0.15)
        assert found(broken, acquisition)[0] != pytest.approx(1, rel=0.15)


def test_what_does_not_tell_the_width_gives_none(field):
    thick, acquisition = simulate_thick(field, "axial", SPACING)
    with pytest.raises(NoEstimate, match="constant"):
        found(thick.with_data(np.ones_like(thick.data)), acquisition)
    with pytest.raises(NoEstimate, match="no brain"):
        found(thick, acquisition, brain=np.zeros(thick.data.shape, bool))
    few = thick.data[:, :, :4]
    grid = Grid(few.shape, thick.affine)
    with pytest.raises(NoEstimate, match="too little"):
        found(Volume(few, grid.affine), replace(acquisition))
    shuffled = np.random.default_rng(0).permutation(thick.data, axis=2)
    with pytest.raises(NoEstimate, match="no width"):
        found(thick.with_data(shuffled), acquisition)


def test_a_thickness_beside_one_that_is_found_is_refused(tmp_path):
    path = write_volume(cut(head(), "axial", 6.0)[0], tmp_path / "sub-1_T1w.nii.gz")
    out = tmp_path / "out"
    made = vcm("upsample", path, "--out", out, "--profile", "auto", "--slice-thickness", "4")
    assert made.exit_code == 2 and not out.exists()
    assert "slice_thickness is 4" in made.error and "leave slice_thickness out" in made.error
    with pytest.raises(VCMError, match="choose gaussian, boxcar or auto"):
        check_profile("sinc", None)
    words = ("--out", tmp_path / "thick.nii.gz", "--spacing", "12", "--profile", "auto")
    simulated = vcm("simulate", path, *words)
    assert simulated.exit_code == 2 and "gaussian or boxcar" in simulated.error


def test_a_scan_of_few_slices_is_as_thick_as_they_are_apart_and_says_so(monkeypatch):
    monkeypatch.setattr(brain, "align_rigid", lambda image: np.eye(4))
    thick, _ = cut(head(), "axial", 20.0)
    with pytest.warns(VCMWarning, match="does not tell how thick its slices are .* 20 mm"):
        scan = to_thick_scan(thick, model_grid(), 2.0, profile="auto")
    assert scan.width is None and scan.acquisition.thickness == pytest.approx(20)


def test_the_result_is_consistent_with_the_width_that_it_states(thick_model, tmp_path):
    """Of two scans each has its own; the sidecar gives both, and the command says them."""
    paths = []
    for axis, thickness in (("axial", 4.0), ("coronal", 7.0)):
        thick, _ = simulate_thick(head(), axis, 6.0, thickness)
        data = np.where(thick.data > 80, thick.data, 0)
        path = tmp_path / f"sub-1_acq-{axis}_T1w.nii.gz"
        paths.append(write_volume(thick.with_data(data), path))
    out = tmp_path / "out"
    small = ("--model", thick_model, "--spacing", "2", "--samples", "0", "--steps", "1")
    made = vcm("upsample", *paths, "--out", out, "--profile", "auto", *small)
    assert made.exit_code == 0
    record = json.loads((out / "sub-1_acq-axial_desc-upsampled_T1w.json").read_text("utf-8"))
    axial, coronal = record["SliceProfiles"]
    assert axial["Scan"] == "sub-1_acq-axial_T1w.nii.gz"
    assert axial["SliceThickness"] == pytest.approx(4, abs=1.5)
    assert coronal["SliceThickness"] == pytest.approx(7, abs=1.5)
    assert 0 < axial["SliceThicknessStd"] < 2 and axial["SliceProfile"] == "gaussian"
    assert f"{axial['SliceThickness']:.3g} mm thick" in record["Acquisition"]
    assert f"{coronal['SliceThickness']:.2f} ± {coronal['SliceThicknessStd']:.2f} mm" in made.error
    assert record["Settings"]["profile"] == "auto"
    assert read_volume(out / "sub-1_acq-axial_desc-upsampled_T1w.nii.gz").data.max() > 0


def test_the_json_file_beside_a_scan_tells_its_thickness_unless_a_setting_does(
    thick_model, tmp_path
):
    path = write_volume(cut(head(), "axial", 6.0)[0], tmp_path / "sub-1_T1w.nii.gz")
    path.with_name("sub-1_T1w.json").write_text('{"SliceThickness": 4.5}', "utf-8")
    small = ("--model", thick_model, "--spacing", "2", "--samples", "0", "--steps", "1")
    for setting, thickness in ((), 4.5), (("--slice-thickness", "6.6"), 6.6):
        out = tmp_path / f"{thickness}"
        made = vcm("upsample", path, "--out", out, *small, *setting)
        record = json.loads((out / "sub-1_desc-upsampled_T1w.json").read_text("utf-8"))
        assert record["SliceProfiles"][0]["SliceThickness"] == thickness
        assert ("slices of 4.5 mm, by the JSON file" in made.error) == (thickness == 4.5)
    assert record["Settings"]["slice_thickness"] == 6.6
