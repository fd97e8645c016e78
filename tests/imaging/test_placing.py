"""What is given to the model is brought to its grid as training brought it there."""

import numpy as np
import pytest

from vcm.errors import VCMError
from vcm.imaging import brain, placing
from vcm.imaging.brain import align_brain
from vcm.imaging.conditions import as_contrast
from vcm.imaging.geometry import model_grid
from vcm.imaging.partial import as_partial
from vcm.imaging.placing import place_partial, unconditioned
from vcm.imaging.registration import common_template
from vcm.imaging.volume import Volume, write_volume


@pytest.fixture
def scan(tmp_path, monkeypatch):
    """(image, mask of its right half) written to files; the head lies where it is to lie."""
    for room in (brain, placing):
        monkeypatch.setattr(room, "align_rigid", lambda image: np.eye(4))
    template = common_template()
    data = np.where(template.data > 0.15, 1000 * template.data, 0).astype(np.float32)
    half = np.zeros(data.shape, np.uint8)
    half[data.shape[0] // 2 :] = 1
    image = Volume(data, template.affine, source="head")
    write_volume(image, tmp_path / "head.nii.gz")
    write_volume(image.with_data(half), tmp_path / "half.nii.gz")
    return image, half > 0


def test_a_part_of_a_whole_image_is_what_training_makes_of_it(scan, tmp_path):
    image, _ = scan
    grid = model_grid()
    given = place_partial(tmp_path / "head.nii.gz", tmp_path / "half.nii.gz", unconditioned(grid))
    trained = align_brain(image, image.data > 0, grid).image
    known = given.partial[1] > 0
    assert 0.4 < known.mean() < 0.6
    np.testing.assert_array_equal(given.partial, as_partial(trained, known))


def test_a_part_alone_lies_on_the_same_voxels_in_its_own_range(scan, tmp_path):
    image, half = scan
    write_volume(image.with_data(np.where(half, image.data, 0)), tmp_path / "part.nii.gz")
    place = unconditioned(model_grid())
    whole, part = (
        place_partial(tmp_path / name, tmp_path / "half.nii.gz", place).partial
        for name in ("head.nii.gz", "part.nii.gz")
    )
    np.testing.assert_array_equal(part[1], whole[1])
    assert np.abs(part[0] - whole[0]).mean() < 0.01


def test_a_mask_that_selects_nothing_is_refused(scan, tmp_path):
    image, _ = scan
    corner = np.zeros(image.data.shape, np.uint8)
    corner[:3, :3, :3] = 1
    write_volume(image.with_data(corner), tmp_path / "corner.nii.gz")
    with pytest.raises(VCMError, match="selects no brain voxel"):
        place_partial(
            tmp_path / "head.nii.gz", tmp_path / "corner.nii.gz", unconditioned(model_grid())
        )


@pytest.mark.parametrize("shear", [0.0, 0.3])
def test_a_fine_label_map_is_aligned_at_1_mm_where_it_lies(monkeypatch, head_map, shear):
    classes, affine = head_map
    affine = affine.copy()
    affine[0, 1] += shear
    fine = Volume(classes, affine)
    monkeypatch.setattr(placing, "FINE", 2.5)
    picture = placing._contrast_of(fine)
    np.testing.assert_allclose(picture.grid.spacing, 1)
    assert not picture.grid.is_sheared
    np.testing.assert_allclose(centre(picture), centre(as_contrast(fine)), atol=0.3)


def centre(picture: Volume) -> np.ndarray:
    """Of mass, in the world [mm]."""
    index = np.argwhere(picture.data > 0)
    weights = picture.data[picture.data > 0]
    return (
        picture.affine[:3, :3] @ np.average(index, axis=0, weights=weights) + picture.affine[:3, 3]
    )
