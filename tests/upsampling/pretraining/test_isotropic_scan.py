"""Training scans as vcm upsample is to give them back: on their own axes, in the scale of ThickScan."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vcm.imaging.geometry import model_grid, resample
from vcm.imaging.registration import common_template
from vcm.imaging.source import Scan
from vcm.imaging.volume import Grid, Volume, write_volume
from vcm.upsampling.pretraining.isotropic_scan import IsotropicScan

GRID = model_grid()


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> tuple[Scan, Volume]:
    """The MNI152 brain, turned and flipped, in voxels of 1.6 x 2.4 x 2 mm; values 100..900, outside 0."""
    template = common_template()
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (9, -4, 6), degrees=True).as_matrix()
    affine[:3, :3] *= (-1.6, 2.4, 2.0)
    shape = (104, 84, 90)
    affine[:3, 3] = (0, -18, 6) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    data = resample(Volume(template.data, template.affine), Grid(shape, affine), order=1)
    values = np.where(data > 0.1, 100 + 800 * data, 0).astype(np.float32)
    volume = Volume(values, affine)
    path = write_volume(volume, tmp_path_factory.mktemp("scan") / "sub-1_T1w.nii.gz")
    return Scan("sub-1", path, None, None, None, "train"), volume


@pytest.mark.slow
def test_it_keeps_the_axes_of_the_scan_and_its_sharpness(scan):
    given, source = scan
    found = IsotropicScan.read(given, GRID)
    grid = found.volume.grid
    assert grid.spacing == pytest.approx((2, 2, 2))
    np.testing.assert_allclose(
        grid.affine[:3, :3] / grid.spacing, source.affine[:3, :3] / source.grid.spacing, atol=1e-4
    )
    np.testing.assert_allclose(grid.centre, source.grid.centre, atol=0.5)
    again = resample(source, grid, order=3)
    width = again[found.brain].mean() / found.volume.data[found.brain].mean()
    np.testing.assert_allclose(
        found.volume.data[found.brain] * width, again[found.brain], rtol=1e-3
    )
    # 0 and 1 are percentiles of the brain, as in vcm upsample; background lies below.
    assert 0 < (found.scaled[found.brain] < 0).mean() < 0.02
    assert 0 < (found.scaled[found.brain] > 1).mean() < 0.02
    np.testing.assert_allclose(found.scaled[~found.brain], -found.floor)
    assert found.floor > 0.1


@pytest.mark.slow
def test_its_thick_slices_are_those_of_the_scan(scan):
    found = IsotropicScan.read(scan[0], GRID)
    for seed in range(4):
        thick = found.in_thick_slices(np.random.default_rng(seed))
        degraded = thick.degradation.degrade(found.scaled)
        error = (thick.volume.data - degraded)[thick.brain]
        # Noise, gains, and what a slice at the rim shows beside the brain.
        assert np.sqrt(np.square(error).mean()) < 0.05
        np.testing.assert_allclose(thick.volume.data[~thick.brain], -found.floor, atol=1e-6)
        assert thick.fine.shape == found.volume.data.shape
    same = found.in_thick_slices(np.random.default_rng(0))
    again = found.in_thick_slices(np.random.default_rng(0))
    np.testing.assert_array_equal(same.volume.data, again.volume.data)
