import nibabel as nib
import numpy as np
import pytest

from vcm.errors import VCMError
from vcm.imaging.volume import (
    Volume,
    read_label_map,
    read_volume,
    refuse_other_voxels,
    write_volume,
)

RAMP = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)


def save(path, data, affine=None, unit="mm"):
    image = nib.Nifti1Image(data, np.eye(4) if affine is None else affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_values_and_place_survive(tmp_path, dtype, suffix):
    affine = np.array([[0, -2.0, 0.1, 3], [1.5, 0, 0, -4], [0, 0.1, 3, 5], [0, 0, 0, 1]])
    volume = read_volume(save(tmp_path / f"a{suffix}", RAMP.astype(dtype), affine))
    again = read_volume(write_volume(volume, tmp_path / f"b{suffix}"))
    np.testing.assert_array_equal(again.data, RAMP)
    np.testing.assert_allclose(again.affine, affine, atol=1e-5)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"a{suffix}", f"b{suffix}"]


def broken(name):
    values, affine, unit = RAMP.copy(), np.eye(4), "mm"
    if name == "4-D":
        values = np.stack([values, values], -1)
    elif name == "NaN":
        values[0, 0, 0] = np.nan
    elif name == "constant":
        values[:] = 3
    elif name == "singular":
        affine = np.diag([1.0, 1.0, 0.0, 1.0])
    elif name == "metres":
        unit = "meter"
    elif name == "tiny":
        affine = np.diag([0.001, 0.001, 0.001, 1.0])
    return values, affine, unit


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("4-D", "dimensions"),
        ("NaN", "NaN"),
        ("constant", "constant"),
        ("singular", "inverted"),
        ("metres", "millimetres"),
        ("tiny", "millimetres"),
    ],
)
def test_unusable_scans_are_refused_in_one_sentence(tmp_path, name, word):
    values, affine, unit = broken(name)
    path = tmp_path / "bad.nii.gz"
    image = nib.Nifti1Image(values, None)
    image.header.set_sform(affine, 1)
    image.header.set_xyzt_units(unit)
    image = nib.Nifti1Image(values, None, image.header)
    nib.save(image, path)
    with pytest.raises(VCMError, match=word) as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)


def test_damaged_and_missing_files_are_refused(tmp_path):
    path = save(tmp_path / "a.nii.gz", np.random.default_rng(0).random((20, 20, 20)))
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(VCMError, match="truncated"):
        read_volume(path)
    with pytest.raises(VCMError, match="does not exist"):
        read_volume(tmp_path / "none.nii.gz")
    (tmp_path / "text.nii").write_text("hello")
    with pytest.raises(VCMError, match="NIfTI"):
        read_volume(tmp_path / "text.nii")


@pytest.mark.parametrize(
    ("name", "content", "remedy"),
    [
        ("a.nii", "gzip", "it is compressed, so name it a.nii.gz"),
        ("a.nii.gz", "plain", "it is not compressed, so name it a.nii"),
        ("a.nii.gz", b"<html>not found</html>", "convert it again from its source"),
        ("a.nii", b"version https://git-lfs.github.com/spec/v1\n", "only points to its content"),
        ("a.nii.gz", b"/annex/objects/MD5E-s9--0.nii.gz\n", "only points to its content"),
    ],
)
def test_what_is_no_nifti_as_it_is_named_comes_with_its_own_remedy(tmp_path, name, content, remedy):
    if isinstance(content, str):
        made = save(tmp_path / ("b.nii.gz" if content == "gzip" else "b.nii"), RAMP)
        content = made.read_bytes()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VCMError, match=remedy):
        read_volume(tmp_path / name)


def test_a_file_that_may_not_be_read_is_to_be_allowed(tmp_path, monkeypatch):
    path = save(tmp_path / "a.nii", RAMP)

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("nibabel.load", refuse)
    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(VCMError, match=r"Permission denied\): allow it to be read"):
        read_volume(path)


def changed_header(path, **fields):
    """The file again, with these fields of its header."""
    raw = path.read_bytes()
    header = nib.Nifti1Header(raw[:348])
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.binaryblock + raw[348:])
    return path


def test_a_header_whose_voxels_begin_inside_it_is_refused(tmp_path):
    path = changed_header(save(tmp_path / "a.nii", RAMP), vox_offset=0)
    with pytest.raises(VCMError, match=r"begin at byte 0 \(vox_offset\).* set it to 352"):
        read_volume(path)


def test_a_qform_without_its_sign_is_written_again(tmp_path):
    path = save(tmp_path / "a.nii", RAMP, np.diag([2.0, 3.0, 4.0, 1.0]))
    pixdim = [0, 2, 3, 4, 0, 0, 0, 0]
    given = read_volume(changed_header(path, pixdim=pixdim, sform_code=0, qform_code=1))
    again = read_volume(write_volume(given, tmp_path / "b.nii"))
    np.testing.assert_allclose(again.affine, given.affine)
    assert again.header["qform_code"] == 1 and again.header["sform_code"] == 0


def test_probabilities_are_not_labels(tmp_path):
    with pytest.raises(VCMError, match="probabilit"):
        read_label_map(save(tmp_path / "p.nii", RAMP / RAMP.max()))
    with pytest.raises(VCMError, match="negative"):
        read_label_map(save(tmp_path / "n.nii", RAMP.astype(np.int16) - 1))


def test_failed_writing_leaves_nothing(tmp_path):
    with pytest.raises(nib.spatialimages.HeaderDataError):
        write_volume(Volume(np.zeros((2, 2, 2), np.complex256), np.eye(4)), tmp_path / "x.nii.gz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("turn", "refused"), [(1e-5, False), (5e-3, True)])
def test_a_map_beside_its_scan_is_refused_however_small_its_turn(turn, refused):
    """Five thousandths of a voxel per voxel are more than half a voxel at the far end of a scan."""
    scan = Volume(np.zeros((128, 128, 8)), np.diag([1.0, 1, 5, 1]), source="scan")
    affine = scan.affine.copy()
    affine[0, 1] += turn
    given = Volume(scan.data, affine, source="map")
    if not refused:
        return refuse_other_voxels(given, scan, "resample it")
    with pytest.raises(VCMError, match=r"up to 0\.6\d* mm beside its scan"):
        refuse_other_voxels(given, scan, "resample it")
