"""A header that exchanges two dimensions scrambles the voxels: what lies beside a voxel is not its neighbour."""

import numpy as np
import pytest

from vcm.errors import VCMError
from vcm.imaging.brain import align_brain, refuse_scrambled
from vcm.imaging.degradation import simulate_thick
from vcm.imaging.geometry import model_grid
from vcm.imaging.placing import place_label_map
from vcm.imaging.registration import common_template
from vcm.imaging.volume import Volume

GRID = model_grid()


@pytest.fixture(scope="module")
def brain():
    """Of 80 x 112 x 80 voxels, so that exchanged dimensions are 80 x 80 x 112 or 112 x 80 x 80."""
    template = common_template()
    values = np.where(template.data > 0.2, 500 * template.data, 0)[9:89, 2:114, 8:88]
    return Volume(values.astype(np.float32), template.affine, source="sub-1_T1w.nii.gz")


def exchanged(volume, order):
    """The same bytes, read with the dimensions in another order."""
    shape = [volume.data.shape[axis] for axis in order]
    data = volume.data.ravel(order="F").reshape(shape, order="F")
    return Volume(data, volume.affine, source=volume.source)


@pytest.mark.parametrize("order", [(0, 2, 1), (1, 0, 2)])
def test_a_scan_and_a_label_map_are_refused(brain, order):
    scan = exchanged(brain, order)
    with pytest.raises(VCMError, match=r"sub-1_T1w.* have a correlation of .* convert it again"):
        align_brain(scan, scan.data > 0, GRID)
    classes = scan.with_data(np.digitize(scan.data, [100, 300, 400]).astype(np.uint8))
    with pytest.raises(VCMError, match="dimensions in its header may be exchanged"):
        place_label_map(classes, "vcm8", GRID)


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_thick_slices_and_a_part_of_a_brain_are_not(brain, axis):
    refuse_scrambled(brain.data > 0, "whole")
    refuse_scrambled(simulate_thick(brain, axis, 10.0)[0].data, "thick")
    refuse_scrambled(np.ones((4, 4, 4), bool), "full")
