"""The box around a mask holds it and its margin, and is as wide as was asked where there is room."""

import numpy as np

from vcm.upsampling.scans.box import box_around


def test_a_box_holds_the_mask_and_is_wide_enough():
    mask = np.zeros((60, 40, 10), bool)
    assert box_around(mask, 8, 16) == (slice(0, 60), slice(0, 40), slice(0, 10))
    mask[55:58, 2:30, 4] = True
    assert box_around(mask, 8, 16) == (slice(44, 60), slice(0, 38), slice(0, 10))
    assert box_around(mask, 1, 3) == (slice(54, 59), slice(1, 31), slice(3, 6))
