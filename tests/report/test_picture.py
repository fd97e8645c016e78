"""Pictures are read back: what is drawn where."""

import numpy as np
import pytest
from matplotlib.image import imread

from vcm.report.picture import OUTLINE_COLOURS, mosaic, outlined


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


@pytest.mark.parametrize("draw", ["outlined", "mosaic"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16])
def test_classes_beyond_the_colours_are_outlined_too(tmp_path, draw, kind):
    """In the colours of the first ones."""
    volume = np.full((20, 24, 20), 0.5, np.float32)

    def drawn(number):
        classes = np.zeros(volume.shape, kind)
        classes[4:16, 4:20, 4:16] = number
        path = tmp_path / f"{number}.png"
        if draw == "outlined":
            return imread(outlined([volume], classes, path))
        return imread(mosaic(iter([volume]), path, ["one"], iter([classes])))

    first, count = drawn(1), len(OUTLINE_COLOURS)
    assert (np.ptp(first[..., :3], axis=-1) > 0.1).any()
    assert np.array_equal(drawn(count + 1), first) and np.array_equal(drawn(8 * count + 1), first)
    assert not np.array_equal(drawn(2 * count), first)
