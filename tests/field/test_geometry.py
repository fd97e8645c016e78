"""Headers as scanners, converters and registrations leave them: no result lies where it should not.

The oracle is a field that is linear in the world: interpolation reproduces it exactly on any grid, so each
value says at which point of the world [mm] it was read.
"""

import warnings

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from vcm import files
from vcm.errors import VCMError, VCMWarning
from vcm.imaging.geometry import from_model_grid, resample, straightened, to_model_grid
from vcm.imaging.nifti import SAME_SIZE
from vcm.imaging.registration import align_rigid, common_template, to_itk
from vcm.imaging.volume import Grid, Volume, read_volume, write_volume

HEADERS = 1000
PLACE = (
    "sform_code", "srow_x", "srow_y", "srow_z", "qform_code", "quatern_b", "quatern_c", "quatern_d",
    "qoffset_x", "qoffset_y", "qoffset_z", "pixdim", "xyzt_units",
)  # fmt: skip
#: (X, Y, Z) direction of the field in the world, and its value at the origin.
SLOPE, LEVEL = np.array([1.0, 0.31, -0.57]), 40.0


def field_at(points):
    return points @ SLOPE + LEVEL


def centres(grid):
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    return index @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def random_frame(random):
    """Rotation, order and direction of the axes, voxel sizes; (4, 4)."""
    affine = np.eye(4)
    turn = Rotation.from_euler(
        "xyz", random.uniform(-60, 60, 3) * (random.random() < 0.7), degrees=True
    )
    axes = np.eye(3)[:, random.permutation(3)] * random.choice([-1, 1], 3)
    affine[:3, :3] = turn.as_matrix() @ axes * random.uniform(0.6, 5, 3)
    affine[:3, 3] = random.uniform(-80, 80, 3)
    return affine


def random_header(random):
    """(header, affine that holds, whether a warning is due), of a shape of 7 to 12 voxels."""
    shape = tuple(int(n) for n in random.integers(7, 13, 3))
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.float32)
    header["sform_code"], header["qform_code"] = random.integers(0, 5, 2)
    header["xyzt_units"] = random.choice([0, 2, 10])
    straight, other = random_frame(random), random_frame(random)
    header.set_qform(straight, int(header["qform_code"]), strip_shears=True)
    sheared = straight.copy()
    shear = np.eye(3)
    if random.random() < 0.5:
        row, column = random.permutation(3)[:2]
        shear[row, column] = np.tan(np.radians(random.uniform(-25, 25)))
    sheared[:3, :3] = straight[:3, :3] @ np.diag(1 / header["pixdim"][1:4].astype(float))
    sheared[:3, :3] = sheared[:3, :3] @ shear @ np.diag(header["pixdim"][1:4].astype(float))
    sform = other if random.random() < 0.3 else sheared
    header.set_sform(sform, int(header["sform_code"]))
    if header["sform_code"]:
        affine = header.get_sform()
    elif header["qform_code"]:
        affine = header.get_qform()
    else:
        sizes = header["pixdim"][1:4] * [-1, 1, 1]
        affine = np.diag([*sizes, 1.0])
        affine[:3, 3] = -sizes * (np.array(shape) - 1) / 2
    both = header["sform_code"] and header["qform_code"]
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    corners[:, :3] *= np.array(shape) - 1
    apart = corners @ (header.get_sform() - header.get_qform()).T
    half = np.linalg.norm(affine[:3, :3], axis=0).min() / 2
    doubt = both and np.linalg.norm(apart, axis=1).max() > half
    # A lone sform that was not made of these voxel sizes, and has no shear that changed them.
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    alone = header["sform_code"] and not header["qform_code"] and sform is other
    doubt = doubt or (alone and not np.allclose(sizes, header["pixdim"][1:4], rtol=SAME_SIZE))
    return header, affine, bool(doubt) or not (header["sform_code"] or header["qform_code"])


def store(path, header, data):
    """As other software writes it: the header's bytes, then the voxels."""
    header["magic"], header["vox_offset"] = b"n+1\0", 352
    header["scl_slope"], header["scl_inter"] = 1, 0
    path.write_bytes(header.binaryblock + b"\0" * 4 + data.astype("<f4").tobytes(order="F"))


@pytest.mark.parametrize(
    "numbers", [range(100), pytest.param(range(100, HEADERS), marks=pytest.mark.slow)]
)
def test_of_1000_headers_no_result_is_misplaced(tmp_path, monkeypatch, numbers):
    monkeypatch.setattr(files, "_to_disk", lambda descriptor: None)
    source, result = tmp_path / "given.nii", tmp_path / "result.nii"
    sheared = 0
    for number in numbers:
        random = np.random.default_rng(number)
        header, affine, doubt = random_header(random)
        shape = header.get_data_shape()
        store(source, header, field_at(centres(Grid(shape, affine))))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            scan = read_volume(source)
        assert [w.category for w in said] == [VCMWarning] * doubt, number
        np.testing.assert_allclose(scan.affine, affine, atol=1e-4, err_msg=str(number))

        # A result on the scan's voxels carries the scan's own header.
        write_volume(scan.with_data(scan.data + 1), result)
        found = nib.load(result)
        np.testing.assert_allclose(found.affine, affine, atol=1e-4, err_msg=str(number))
        for name in PLACE:
            assert found.header[name].tobytes() == header[name].tobytes(), (number, name)

        # The frame that the registration sees.
        straight = straightened(scan)
        sheared += straight is not scan
        assert not straight.grid.is_sheared
        true = field_at(centres(straight.grid))
        seen = inside(straight.grid, scan.grid)
        assert seen.sum() >= 50
        np.testing.assert_allclose(straight.data[seen], true[seen], atol=0.02, err_msg=str(number))
        index = [int(n) for n in random.integers(0, straight.data.shape)]
        point = np.array(to_itk(straight).TransformIndexToPhysicalPoint(index)) * [-1, -1, 1]
        np.testing.assert_allclose(
            point, (straight.affine @ [*index, 1])[:3], atol=1e-3, err_msg=str(number)
        )

        # To the model's grid and back, through any rigid motion.
        motion = np.eye(4)
        motion[:3, :3] = Rotation.random(random_state=number).as_matrix()
        motion[:3, 3] = random.uniform(-50, 50, 3)
        model = Grid((5, 6, 7), motion @ scan.affine @ around(scan.grid, (5, 6, 7), 0.6))
        moved = to_model_grid(scan, model, motion, order=1)
        points = centres(model) @ np.linalg.inv(motion)[:3, :3].T + np.linalg.inv(motion)[:3, 3]
        np.testing.assert_allclose(moved, field_at(points), atol=0.02, err_msg=str(number))
        target = Grid((3, 3, 3), scan.affine @ around(scan.grid, (3, 3, 3), 0.5))
        back = from_model_grid(moved, model, target, motion)
        np.testing.assert_allclose(back, field_at(centres(target)), atol=0.02, err_msg=str(number))

        if number % 4:
            continue
        # A result on other voxels of the scan's world: both transforms follow.
        write_volume(Volume(back, target.affine, scan.header), result)
        found = nib.load(result)
        np.testing.assert_allclose(found.affine, target.affine, atol=1e-3, err_msg=str(number))
        if header["sform_code"] and found.header["qform_code"]:
            steps = np.linalg.inv(affine) @ target.affine
            np.testing.assert_allclose(found.get_qform(), header.get_qform() @ steps, atol=1e-3)
    assert sheared > len(numbers) / 8


def around(grid, shape, share):
    """Voxels of `shape` about the middle of the grid, as long on each axis as `share` of its least voxel
    size, so that nothing is smoothed; (4, 4), in voxels of the grid."""
    sizes = share * min(grid.spacing) / np.array(grid.spacing)
    steps = np.diag([*sizes, 1.0])
    steps[:3, 3] = (np.array(grid.shape) - 1) / 2 - sizes * (np.array(shape) - 1) / 2
    return steps


def inside(grid, other):
    """Which voxels of `grid` lie between voxel centres of `other`."""
    to_other = np.linalg.inv(other.affine)
    index = centres(grid) @ to_other[:3, :3].T + to_other[:3, 3]
    return ((index > 1e-3) & (index < np.array(other.shape) - 1 - 1e-3)).all(-1)


def gantry_tilt(grid, angle, row, column):
    """The same head on voxels whose axes are sheared by `angle` [degrees], about the same centre."""
    shear = np.eye(3)
    shear[row, column] = np.tan(np.radians(angle))
    affine = grid.affine.copy()
    affine[:3, :3] = shear @ affine[:3, :3]
    shape = tuple(int(n) + 40 for n in grid.shape)
    affine[:3, 3] = grid.centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


@pytest.mark.slow
@pytest.mark.parametrize(("angle", "row", "column"), [(10, 1, 2), (25, 0, 1)])
def test_a_sheared_head_is_aligned_as_the_straight_one(angle, row, column):
    """Landmarks all over the head, to half a voxel of 2 mm."""
    template = common_template()
    grid = gantry_tilt(template.grid, angle, row, column)
    tilted = Volume(resample(template, grid).astype(np.float32), grid.affine)
    points = np.argwhere(template.data > 0.2)[::499] @ template.affine[:3, :3].T
    points += template.affine[:3, 3]
    motion = align_rigid(tilted)
    moved = points @ motion[:3, :3].T + motion[:3, 3]
    assert np.linalg.norm(moved - points, axis=1).max() < 1.0


def test_axes_that_nearly_coincide_are_refused(tmp_path):
    affine = np.diag([2.0, 2, 2, 1])
    affine[0, 1] = 5
    image = nib.Nifti1Image(np.arange(216, dtype=np.float32).reshape(6, 6, 6), None)
    image.set_sform(affine, 1)
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(VCMError, match="22 degrees to each other"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize(
    ("sform", "qform", "word"), [(4, 1, "disagree by up to 20.0 mm"), (0, 0, "says nothing")]
)
def test_a_doubt_about_the_place_is_said_once(tmp_path, sform, qform, word):
    image = nib.Nifti1Image(np.arange(216, dtype=np.float32).reshape(6, 6, 6), None)
    shifted = np.diag([2.0, 2, 2, 1])
    shifted[0, 3] = 20
    image.set_sform(np.diag([2.0, 2, 2, 1]), sform)
    image.set_qform(shifted, qform)
    nib.save(image, tmp_path / "a.nii")
    with pytest.warns(VCMWarning, match=word) as said:
        read_volume(tmp_path / "a.nii")
    assert len(said) == 1 and "\n" not in str(said[0].message)


def test_voxel_sizes_that_the_header_gives_twice_and_differ_are_said(tmp_path):
    image = nib.Nifti1Image(
        np.arange(216, dtype=np.float32).reshape(6, 6, 6), np.diag([2.0, 2, 2, 1])
    )
    image.header["pixdim"][1:4] = 1
    content = bytearray(image.to_bytes())
    content[80:92] = np.ones(3, "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.warns(VCMWarning, match="1 x 1 x 1 mm by its pixdim and of 2 x 2 x 2 mm") as said:
        assert read_volume(tmp_path / "a.nii").grid.spacing == (2, 2, 2)
    assert len(said) == 1
