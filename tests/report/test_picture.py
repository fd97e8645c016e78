"""Pictures are read back: what is drawn where."""

import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread
from scipy import ndimage

from vcm.report.picture import OUTLINE_COLOURS, compared, mosaic, outlined

RAS = np.eye(4)


def test_a_mosaic_outlines_the_maps_that_there_are(tmp_path):
    volume = np.full((20, 24, 20), 0.5, np.float32)
    classes = np.zeros(volume.shape, np.uint8)
    classes[4:16, 4:20, 4:16] = 3
    names = ["with", "without"]
    plain = imread(mosaic(iter([volume] * 2), tmp_path / "plain.png", names, RAS))[..., :3]
    drawn = imread(
        mosaic(iter([volume] * 2), tmp_path / "drawn.png", names, RAS, iter([classes, None]))
    )
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
            return imread(outlined([volume], classes, path, RAS))
        return imread(mosaic(iter([volume]), path, ["one"], RAS, iter([classes])))

    first, count = drawn(1), len(OUTLINE_COLOURS)
    assert (np.ptp(first[..., :3], axis=-1) > 0.1).any()
    assert np.array_equal(drawn(count + 1), first) and np.array_equal(drawn(8 * count + 1), first)
    assert not np.array_equal(drawn(2 * count), first)


def drawn(draw: str, volume: np.ndarray, affine: np.ndarray, path, **more) -> np.ndarray:
    """The picture of one volume, grey values (H, W)."""
    if draw == "outlined":
        outlined([volume], None, path, affine, ["a"])
    elif draw == "mosaic":
        mosaic([volume], path, ["a"], affine)
    else:
        compared([volume], ["a"], affine, path, **more)
    return imread(path)[..., 0]


@pytest.mark.parametrize("draw", ["outlined", "mosaic", "compared"])
def test_the_same_brain_is_drawn_alike_however_its_voxels_run(tmp_path, draw):
    """The patient's left is on the left, as in the viewer of the page."""
    random = np.random.default_rng(0)
    volume = random.uniform(0, 1, (20, 24, 22)).astype(np.float32)
    volume[:10] = 0  # the left half
    first = drawn(draw, volume, RAS, tmp_path / "RAS.png")
    for axes in ("LAS", "PSR", "SAL"):
        turn = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes)
        )
        turned = nib.orientations.apply_orientation(volume, turn)
        affine = nib.orientations.inv_ornt_aff(turn, volume.shape)
        assert nib.aff2axcodes(affine) == tuple(axes)
        assert np.array_equal(drawn(draw, turned, affine, tmp_path / f"{axes}.png"), first)


@pytest.mark.parametrize("draw", ["outlined", "mosaic", "compared"])
def test_voxels_are_as_high_as_they_are(tmp_path, draw):
    """A ball in slices of 4 mm is round."""
    x = (np.indices((48, 48, 12)) - np.reshape([23.5, 23.5, 5.5], (3, 1, 1, 1))).T * [1, 1, 4]
    volume = ((x**2).sum(-1).T < 20**2).astype(np.float32)
    grey = drawn(draw, volume, np.diag([1.0, 1, 4, 1]), tmp_path / "ball.png")
    planes, count = ndimage.label(ndimage.binary_opening(grey > 0.9, iterations=4))
    found = ndimage.find_objects(planes)
    assert count == (2 if draw == "mosaic" else 3)
    for rows, columns in found:
        ratio = (rows.stop - rows.start) / (columns.stop - columns.start)
        assert ratio == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("shape", [(1, 20, 20), (20, 1, 20), (20, 20, 1)])
def test_a_volume_of_one_voxel_along_an_axis_is_outlined(tmp_path, shape):
    volume = np.full(shape, 0.5, np.float32)
    classes = (np.indices(shape).sum(0) > 18).astype(np.uint8)
    for path in (
        outlined([volume], classes, tmp_path / "a.png", RAS),
        compared([volume], ["a"], RAS, tmp_path / "b.png", classes > 0),
    ):
        assert (np.ptp(imread(path)[..., :3], axis=-1) > 0.1).any()


def test_names_with_dollars_are_no_formulas(tmp_path):
    volume = np.zeros((8, 8, 8), np.float32)
    name = r"sub-$\frac$, real"
    assert mosaic([volume], tmp_path / "a.png", [name], RAS).is_file()
    assert outlined([volume], None, tmp_path / "b.png", RAS, [name]).is_file()
    assert compared([volume], [name], RAS, tmp_path / "c.png").is_file()
