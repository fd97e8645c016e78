"""Pictures are read back: what is drawn where."""

import numpy as np
from matplotlib.image import imread

from vcm.report.picture import mosaic


def test_a_mosaic_outlines_the_maps_that_there_are(tmp_path):
    volume = np.full((20, 24, 20), 0.5, np.float32)
    classes = np.zeros(volume.shape, np.uint8)
    classes[4:16, 4:20, 4:16] = 3
    names = ["with", "without"]
    plain = imread(mosaic(iter([volume] * 2), tmp_path / "plain.png", names))[..., :3]
    drawn = imread(mosaic(iter([volume] * 2), tmp_path / "drawn.png", names, iter([classes, None])))
    drawn = drawn[..., :3]
    blue = (drawn[..., 2] > 0.9) & (drawn[..., 0] < 0.5)
    assert blue.any() and not (np.ptp(plain, axis=-1) > 0.1).any()
    left, right = np.split(blue, [blue.shape[1] // 2], axis=1)
    assert left.mean() > 0.02 and not right.any()
    # Lines, not areas: the inside of the class is as it was.
    assert left.mean() < 0.2
