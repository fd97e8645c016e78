"""The result on other voxels: the scan's own in plane, or those of another scan, wherever it lies."""

import json

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from small_heads import cut, head

from vcm.cli.main import run_command
from vcm.errors import VCMError
from vcm.imaging.acquisition import find_acquisition, in_plane_grid
from vcm.imaging.geometry import resample
from vcm.imaging.volume import Grid, Volume, read_volume, write_volume
from vcm.upsampling.scans.border import in_view

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sagittal(thick_model, tmp_path_factory):
    """The truth, and a folder with its sagittal slices and, in `own`, what comes of them on voxels of 2 mm."""
    folder = tmp_path_factory.mktemp("sagittal")
    whole = head()
    write_volume(cut(whole, "sagittal", 6.0)[0], folder / "sub-1_T1w.nii.gz")
    assert upsample(folder, thick_model, "--spacing", "2", "--out", folder / "own") == 0
    return whole, folder


def upsample(folder, thick_model, *options):
    words = [
        "upsample", folder / "sub-1_T1w.nii.gz", "--model", thick_model, "--samples", "1", "--steps", "2",
        "--no-mirrors", *options,
    ]  # fmt: skip
    return run_command([str(word) for word in words])


def result(out, name="sub-1_desc-upsampled_T1w"):
    return read_volume(out / f"{name}.nii.gz")


def pattern(shape):
    """Values of a scan that is read for its voxels alone."""
    return (np.indices(shape).sum(0) % 251).astype(np.uint8)


def turned(grid: Grid, spacing: float, angles) -> Grid:
    """Some voxels of that spacing about the same centre, turned; about a side of the grid if they are."""
    shape = (48, 52, 44)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * spacing
    aside = [60 if any(angles) else 0, 0, 0]
    affine[:3, 3] = grid.centre + aside - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def error(volume: Volume, truth: Volume) -> float:
    """Root mean square in the brain."""
    reference = resample(truth, volume.grid, order=3)
    brain = resample(truth.with_data((truth.data > 0).astype(np.float32)), volume.grid) > 0.9
    return float(np.sqrt(np.mean((volume.data - reference)[brain] ** 2)))


def test_voxels_in_plane_stay_those_of_the_scan(sagittal, thick_model, tmp_path):
    _, folder = sagittal
    given = read_volume(folder / "sub-1_T1w.nii.gz")
    options = ("--in-plane", "--spacing", "1.5", "--out", tmp_path)
    assert upsample(folder, thick_model, *options) == 0
    found = result(tmp_path)
    assert found.data.shape == (4 * given.data.shape[0], *given.data.shape[1:])
    assert np.allclose(found.grid.spacing, (1.5, 2, 2))
    assert np.allclose(found.grid.centre, given.grid.centre, atol=1e-3)
    sidecar = json.loads((tmp_path / "sub-1_desc-upsampled_T1w.json").read_text())
    assert sidecar["ResidualRMS"]["after"] < 0.5 * sidecar["ResidualRMS"]["cubic"]
    assert sidecar["Settings"]["in_plane"]


def test_a_grid_in_plane_needs_a_spacing_below_that_of_the_slices():
    grid = Grid((40, 50, 10), np.diag([0.5, 0.7, 5, 1.0]))
    acquisition = find_acquisition(grid)
    fine = in_plane_grid(grid, acquisition, 1.0)
    assert fine.shape == (40, 50, 50) and np.allclose(fine.spacing, (0.5, 0.7, 1))
    with pytest.raises(VCMError, match="do not refine slices 5 mm apart"):
        in_plane_grid(grid, acquisition, 5.0)


@pytest.mark.parametrize("angles", [(0, 0, 0), (9, -7, 14)])
def test_the_result_lies_on_the_voxels_of_another_scan(sagittal, thick_model, tmp_path, angles):
    truth, folder = sagittal
    grid = turned(truth.grid, 1.7, angles)
    like = nib.Nifti1Image(pattern(grid.shape), grid.affine)
    like.set_sform(grid.affine, 4)
    like.set_qform(grid.affine, 1)
    nib.save(like, tmp_path / "like.nii.gz")
    options = ("--like", tmp_path / "like.nii.gz", "--spacing", "2", "--out", tmp_path / "out")
    assert upsample(folder, thick_model, *options) == 0
    found, written = result(tmp_path / "out"), nib.load(tmp_path / "like.nii.gz")
    for name in ("sform_code", "srow_x", "srow_y", "srow_z", "qform_code", "quatern_b", "pixdim"):
        assert np.array_equal(found.header[name], written.header[name]), name
    assert found.data.shape == grid.shape
    # Of the result as it was made, moved there, little is lost.
    own = result(folder / "own")
    there = result(tmp_path / "out", "sub-1_desc-upsampled_seed-0_T1w")
    assert error(found, truth) < 1.1 * error(own, truth)
    assert there.data.shape == grid.shape and there.data.std() > 0
    mask = read_volume(tmp_path / "out" / "sub-1_desc-generatedT1w_mask.nii.gz")
    assert set(np.unique(mask.data)) == {0, 1} and mask.data.shape == grid.shape
    beyond = ~in_view(read_volume(folder / "sub-1_T1w.nii.gz").grid, grid)
    assert beyond.any() == any(angles) and not found.data[beyond].any()
    sidecar = json.loads((tmp_path / "out" / "sub-1_desc-upsampled_T1w.json").read_text())
    assert sidecar["Like"] == "like.nii.gz" and np.allclose(sidecar["Spacing"], 1.7)


def test_a_brain_that_the_other_voxels_cut_is_named(sagittal, thick_model, tmp_path, capsys):
    """As where another subject's scan is given, whose head lies higher."""
    truth, folder = sagittal
    for height, cuts in ((0, False), (60, True)):
        affine = truth.affine.copy()
        affine[2, 3] += height
        path = tmp_path / f"{height}.nii.gz"
        nib.save(nib.Nifti1Image(pattern(truth.data.shape), affine), path)
        options = ("--like", path, "--spacing", "2", "--out", tmp_path / f"out-{height}")
        assert upsample(folder, thick_model, *options) == 0
        assert ("% of the brain of sub-1_T1w.nii.gz" in capsys.readouterr().err) == cuts


@pytest.mark.parametrize(
    ("affine", "word"),
    [
        (np.diag([1, 1, 7, 1.0]), "do not refine slices 6 mm apart"),
        (
            np.array([[1, 0, 0, 900], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
            "shows nothing of",
        ),
        (np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "right angles"),
    ],
)
def test_voxels_that_no_result_can_have_are_refused(
    sagittal, thick_model, tmp_path, capsys, affine, word
):
    _, folder = sagittal
    like = nib.Nifti1Image(pattern((20, 20, 20)), None)
    like.set_sform(affine, 1)
    nib.save(like, tmp_path / "like.nii.gz")
    options = ("--like", tmp_path / "like.nii.gz", "--out", tmp_path / "out")
    assert upsample(folder, thick_model, *options) == 2
    assert word in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_one_choice_of_voxels_at_a_time(sagittal, thick_model, tmp_path, capsys):
    _, folder = sagittal
    options = ("--like", folder / "sub-1_T1w.nii.gz", "--in-plane", "--out", tmp_path / "out")
    assert upsample(folder, thick_model, *options) == 2
    assert "choose one of the two" in capsys.readouterr().err
