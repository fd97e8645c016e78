"""Files as transfers, converters and other software leave them: read whole, or refused in one sentence."""

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest

from vcm.errors import VCMError
from vcm.imaging.volume import read_label_map, read_volume

SHAPE = (9, 8, 7)
#: Offsets in the header of NIfTI-1.
DIM, DATATYPE, SIZES, OFFSET, SLOPE, UNITS, SFORM_CODE, SROW = 40, 70, 80, 108, 112, 123, 254, 280


@pytest.fixture
def given() -> bytearray:
    """A good file, not compressed."""
    values = np.random.default_rng(0).integers(0, 99, SHAPE).astype(np.int16)
    image = nib.Nifti1Image(values, np.diag([2.0, 2, 2, 1]))
    image.header.set_xyzt_units("mm", "sec")
    return bytearray(image.to_bytes())


def refusal(path, content, read=read_volume) -> str:
    path.write_bytes(bytes(content))
    with pytest.raises(VCMError) as caught:
        read(path)
    sentence = str(caught.value)
    assert "\n" not in sentence and path.name in sentence
    return sentence


PATCHES = {
    "datatype 0": (DATATYPE, "h", [0], "data code 0"),
    "unknown datatype": (DATATYPE, "h", [999], "data code 999"),
    "no dimensions": (DIM, "h", [0], "0 dimensions"),
    "negative dimension": (DIM + 2, "h", [-9], "-9 x 8 x 7"),
    "huge dimensions": (DIM, "4h", [3, 32000, 32000, 32000], "truncated or damaged"),
    "size 0": (SIZES, "f", [0], "voxel sizes 0 x 2 x 2"),
    "negative size": (SIZES + 4, "f", [-2], "voxel sizes 2 x -2 x 2"),
    "size NaN": (SIZES + 8, "f", [np.nan], "voxel sizes 2 x 2 x nan"),
    "size infinite": (SIZES + 8, "f", [np.inf], "voxel sizes 2 x 2 x inf"),
    "slope NaN": (SLOPE, "f", [np.nan], "scl_slope nan"),
    "slope infinite": (SLOPE, "f", [np.inf], "scl_slope inf"),
    "intercept NaN": (SLOPE, "2f", [2, np.nan], "intercept nan"),
    "unit 7": (UNITS, "B", [7], "unit code 7"),
    "unit 5 with seconds": (UNITS, "B", [13], "unit code 5"),
    "metres": (UNITS, "B", [1], "metre"),
    "microns": (UNITS, "B", [3], "micron"),
    "sform code 9": (SFORM_CODE, "h", [9], "sform_code 9"),
    "sform NaN": (SROW, "f", [np.nan], "cannot be inverted"),
    "sform singular": (SROW, "4f", [0, 0, 0, 0], "cannot be inverted"),
    "voxels begin nowhere": (OFFSET, "f", [np.nan], "bad.nii"),
    "voxels begin beyond the end": (OFFSET, "f", [1e8], "truncated or damaged"),
    "not a header": (344, "4s", [b"abcd"], "not a readable NIfTI file"),
}


@pytest.mark.parametrize("name", PATCHES)
def test_an_impossible_header_is_refused(tmp_path, given, name, capfd):
    offset, form, values, words = PATCHES[name]
    struct.pack_into(f"<{form}", given, offset, *values)
    assert words in refusal(tmp_path / "bad.nii", given)
    assert capfd.readouterr().err == ""  # a sentence of nibabel's repairs would contradict it


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        ([("R", "u1"), ("G", "u1"), ("B", "u1")], "holds colours (RGB)"),
        ([("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")], "holds colours (RGBA)"),
        (np.complex64, "complex numbers"),
    ],
)
def test_values_that_are_no_real_numbers_are_refused(tmp_path, dtype, words):
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, dtype), np.eye(4)), tmp_path / "c.nii.gz")
    for read in (read_volume, read_label_map):
        assert words in refusal(tmp_path / "c.nii.gz", (tmp_path / "c.nii.gz").read_bytes(), read)


@pytest.mark.parametrize("slices", [1, 2, 3])
@pytest.mark.parametrize("axis", [0, 2])
def test_a_few_slices_are_no_volume(tmp_path, slices, axis):
    shape = [9, 8, 7]
    shape[axis] = slices
    image = nib.Nifti1Image(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), np.eye(4))
    assert "at least 4 along each axis" in refusal(tmp_path / "few.nii", image.to_bytes())


def test_frames_are_refused_and_a_single_one_is_read(tmp_path, given):
    frames = nib.Nifti1Image(np.zeros((*SHAPE, 2), np.int16), np.eye(4))
    assert "4 dimensions (9, 8, 7, 2)" in refusal(tmp_path / "frames.nii", frames.to_bytes())
    struct.pack_into("<6h", given, DIM, 5, *SHAPE, 1, 1)
    (tmp_path / "one.nii").write_bytes(given)
    assert read_volume(tmp_path / "one.nii").data.shape == SHAPE


DAMAGE = {
    "checksum": lambda b: b[:-8] + bytes([b[-8] ^ 1]) + b[-7:],
    "length": lambda b: b[:-4] + bytes([b[-4] ^ 1]) + b[-3:],
    "cut": lambda b: b[: len(b) // 2],
    "cut in the last bytes": lambda b: b[:-3],
    "a bit in the middle": lambda b: (
        b[: len(b) // 2] + bytes([b[len(b) // 2] ^ 16]) + b[len(b) // 2 + 1 :]
    ),
    "something behind it": lambda b: b + b"more",
    "empty": lambda b: b"",
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("read", [read_volume, read_label_map])
def test_a_damaged_stream_is_refused(tmp_path, given, name, read):
    assert "damaged" in refusal(tmp_path / "a.nii.gz", DAMAGE[name](gzip.compress(given)), read)


@pytest.mark.parametrize("change", [-1, 1, 100])
def test_a_file_shorter_or_longer_than_its_header_says_is_refused(tmp_path, given, change):
    content = given[:change] if change < 0 else given + b"\0" * change
    assert "its header promises 1360" in refusal(tmp_path / "a.nii", content)
    assert "its header promises 1360" in refusal(tmp_path / "a.nii.gz", gzip.compress(content))


def test_content_that_was_not_fetched_is_named(tmp_path):
    link = tmp_path / "annexed.nii.gz"
    link.symlink_to(tmp_path / "objects" / "none")
    with pytest.raises(VCMError, match="fetch its content"):
        read_volume(link)


@pytest.mark.parametrize(
    "dtype", ["u1", "i1", "<i2", ">i2", "<u2", "<i4", ">i4", "<u4", "<i8", "<f4", ">f8"]
)
def test_labels_are_whole_numbers_whatever_they_are_stored_as(tmp_path, dtype):
    labels = np.random.default_rng(1).integers(0, 100, SHAPE)
    header = nib.Nifti1Header(endianness=dtype[0] if dtype[0] in "<>" else "<")
    header.set_data_dtype(np.dtype(dtype))
    nib.save(nib.Nifti1Image(labels.astype(dtype), np.eye(4), header), tmp_path / "l.nii.gz")
    found = read_label_map(tmp_path / "l.nii.gz").data
    assert found.dtype.kind in "iu" and found.dtype.itemsize <= 4 and found.dtype.isnative
    np.testing.assert_array_equal(found, labels)


def test_scaled_labels_are_read_as_scaled(tmp_path, given):
    struct.pack_into("<2f", given, SLOPE, 10, 3)
    (tmp_path / "s.nii").write_bytes(given)
    stored = np.asarray(nib.load(tmp_path / "s.nii").dataobj)
    np.testing.assert_array_equal(read_label_map(tmp_path / "s.nii").data, stored)
    struct.pack_into("<2f", given, SLOPE, 0.1, 0)
    assert "fractions" in refusal(tmp_path / "f.nii", given, read_label_map)


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e9])
def test_values_that_are_no_labels_are_refused(tmp_path, value):
    values = np.random.default_rng(1).integers(0, 9, SHAPE).astype(np.float32)
    values[4, 4, 4] = value
    content = nib.Nifti1Image(values, np.eye(4)).to_bytes()
    assert "every voxel needs a label" in refusal(tmp_path / "n.nii", content, read_label_map)


CASES = {
    "crc_wrong.nii.gz": "damaged",
    "rgb.nii.gz": "colours",
    "scl_inter_nan.nii.gz": "intercept nan",
    "three_slices.nii.gz": "77 x 92 x 3 voxels",
    "units_odd.nii.gz": "unit code 7",
}


@pytest.mark.parametrize("name", CASES)
def test_files_of_real_users_are_refused(real_scans, name):
    path = real_scans.parent / "cases" / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    for read in (read_volume, read_label_map):
        with pytest.raises(VCMError, match=CASES[name]):
            read(path)
