import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vcm.imaging.registration import align_rigid, common_template
from vcm.imaging.volume import Volume


@pytest.mark.slow
def test_a_turned_brain_is_turned_back_and_the_same_each_time():
    template = common_template()
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", [9, -6, 11], degrees=True).as_matrix()
    motion[:3, 3] = (25, -14, 37)
    moved = Volume(template.data, motion @ template.affine)
    found = align_rigid(moved)
    corners = np.array([[x, y, z, 1] for x in (-60, 60) for y in (-90, 60) for z in (-40, 70)])
    missed = np.linalg.norm((corners @ (found @ motion).T - corners)[:, :3], axis=1)
    assert missed.max() < 1.0
    assert np.array_equal(align_rigid(moved), found)
