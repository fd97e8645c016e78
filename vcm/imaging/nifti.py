"""NIfTI files as they lie on the disk: read to their end, every field of the header checked.

Knows headers and bytes; nothing of what the voxels show. A field that the standard leaves no room for is
refused, never repaired: a repaired header puts a brain where it does not lie.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.openers import ImageOpener
from numpy.typing import NDArray

from vcm.errors import VCMError, VCMWarning

#: Voxel sizes outside this range [mm] mean a header in metres, microns, or a broken one.
SPACING_RANGE = (0.05, 20.0)
#: A volume has at least this many voxels along each axis; fewer show no head.
FEWEST_VOXELS = 4
#: Voxel axes nearer to each other than this [degrees] are no frame of a scan.
LEAST_ANGLE = 30.0
#: Codes of xyzt_units for lengths; 0 says nothing, and millimetres are meant.
_UNITS = {0: "unknown", 1: "metre", 2: "millimetre", 3: "micron"}
#: Voxel sizes that differ by more than this share in two places of a header are two sizes.
SAME_SIZE = 0.01
#: A file of fewer bytes may be a pointer to content that was not fetched.
_LARGEST_POINTER = 1000
#: Where a NIfTI-1 header says that it is one.
_MAGIC = slice(344, 348)
#: Codes of sform and qform that the standard knows.
_LARGEST_CODE = 5


@dataclass(frozen=True)
class NiftiFile:
    """A checked file whose values are not read yet.

    Attributes:
        image: As nibabel opens it.
        header: As it lies on the disk, with nothing repaired.
        shape: (X, Y, Z) [voxels].
        affine: Voxel -> RAS+ [mm].
    """

    image: nib.Nifti1Pair
    header: Nifti1Header
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @property
    def is_scaled(self) -> bool:
        """Whether the header scales the stored values."""
        slope, intercept = float(self.header["scl_slope"]), float(self.header["scl_inter"])
        return bool(np.isfinite(slope)) and slope != 0 and (slope, intercept) != (1, 0)


def open_nifti(path: Path) -> NiftiFile:
    """Open one 3D volume and check all but its values.

    Args:
        path: A .nii, .nii.gz or .hdr/.img file. A trailing axis of length 1 is dropped.

    Returns:
        The file with its affine: that of the sform where it has a code, else of the qform, else, with a
        VCMWarning, voxel sizes about the origin. Where sform and qform disagree by more than half a
        voxel, a VCMWarning says that the sform was used.

    Raises:
        VCMError: No such file, not NIfTI, damaged or short, voxels inside the header, not 3D, fewer than 4
            voxels along an axis, values that are not real numbers, an affine that cannot be inverted, and
            sizes, units or scale factors that are not possible.
    """
    image = _load(path)
    header = _header_on_disk(image, path)
    shape = _checked_shape(header, path)
    _check_type(header, path)
    _check_scaling(header, path)
    _check_stream(image, header, path)
    _check_sizes(header, path)
    return NiftiFile(image, header, shape, _checked_affine(header, shape, path))


def damaged(path: Path, reason: object) -> VCMError:
    """The error for a file that cannot be read to its end."""
    return VCMError(
        f"{path.name} cannot be read to its end ({reason}): the file is truncated or damaged; "
        "copy or download it again."
    )


def transforms(header: Nifti1Header) -> tuple[NDArray[np.float64] | None, NDArray | None]:
    """The sform and the qform, voxel -> RAS+ [mm]; None where the code is 0 or the qform no rotation."""
    sform = qform = None
    if header["sform_code"]:
        sform = np.eye(4)
        sform[:3] = [header["srow_x"], header["srow_y"], header["srow_z"]]
    if header["qform_code"]:
        proper = header.copy()
        proper["pixdim"][0] = handedness(header)
        try:
            qform = proper.get_qform()
        except (ValueError, nib.spatialimages.HeaderDataError):
            qform = np.full((4, 4), np.nan)
    return sform, qform


def handedness(header: Nifti1Header) -> int:
    """What the first of pixdim says of the qform's third axis, 1 or -1; the 0 that is there at times means 1."""
    return -1 if header["pixdim"][0] < 0 else 1


def farthest_apart(
    shape: tuple[int, int, int], one: NDArray[np.float64], other: NDArray[np.float64]
) -> float:
    """How far apart [mm] two affines put the same voxel, at most; NaN where one of them is no affine.

    Args:
        shape: (X, Y, Z) of the voxels. A corner of them is the farthest.
        one: (4, 4), voxel -> RAS+ [mm].
        other: Likewise.
    """
    corners = np.stack(np.meshgrid(*([0, n - 1] for n in shape)), -1).reshape(-1, 3)
    apart = corners @ (one - other)[:3, :3].T + (one - other)[:3, 3]
    return float(np.linalg.norm(apart, axis=1).max())


def refuse_missing(*paths: Path) -> None:
    """Raise VCMError for the first that is no file: a command says so before it loads what takes seconds."""
    for path in paths:
        if path.is_file():
            continue
        if path.is_symlink():
            raise VCMError(
                f"{path} is a link to a file that is not there: fetch its content first (for "
                "instance with datalad get or git annex get)."
            )
        what = "is a folder" if path.is_dir() else "does not exist"
        raise VCMError(f"{path} {what}: give the path of a .nii or .nii.gz file.")


def _load(path: Path) -> nib.Nifti1Pair:
    refuse_missing(path)
    if path.stat().st_size == 0:
        raise damaged(path, "it is empty")
    try:
        with _silent_repairs():
            image = nib.load(path)
    # Whatever a parser makes of a file that is not what it seems, the user reads one sentence.
    except Exception as error:
        remedy = _remedy(path) or (
            "give a .nii or .nii.gz file, and if it is one, convert it again from its source"
        )
        raise VCMError(
            f"{path.name} is not a readable NIfTI file ({_in_one_line(error)}): {remedy}."
        ) from error
    if not isinstance(image, nib.Nifti1Image | nib.Nifti1Pair):
        raise VCMError(
            f"{path.name} is {type(image).__name__}, but NIfTI is needed: convert it, "
            "for instance with mri_convert or nibabel."
        )
    return image


def is_pointer(path: Path) -> bool:
    """Whether a file is only a pointer to content that was not fetched."""
    if path.stat().st_size >= _LARGEST_POINTER:
        return False
    start = path.read_bytes()
    return b"/annex/objects/" in start or start.startswith(b"version https://git-lfs")


def _remedy(path: Path) -> str:
    """What to do about a file that is no NIfTI as it is named, where its first bytes tell; else ''."""
    try:
        with path.open("rb") as stream:
            start = stream.read(_MAGIC.stop)
        if is_pointer(path):
            return "it only points to its content, so fetch that (datalad get, git annex get or git lfs pull)"
    except PermissionError:
        return "allow it to be read"
    if start.startswith(b"\x1f\x8b") and not path.name.endswith(".gz"):
        return f"it is compressed, so name it {path.name}.gz"
    if start[_MAGIC] in (b"n+1\0", b"ni1\0") and path.name.endswith(".gz"):
        return f"it is not compressed, so name it {path.name.removesuffix('.gz')}"
    return ""


@contextmanager
def _silent_repairs() -> Iterator[None]:
    """Nibabel says on the terminal what it repairs, but here the header is read as it lies on the disk."""
    logger = logging.getLogger("nibabel.global")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _header_on_disk(image: nib.Nifti1Pair, path: Path) -> Nifti1Header:
    """The header with nothing repaired, as nibabel does with negative sizes and unknown codes."""
    kind = type(image.header)
    holder = image.file_map["header"] if "header" in image.file_map else image.file_map["image"]
    try:
        with ImageOpener(str(holder.filename), "rb") as stream:
            block = stream.read(kind.template_dtype.itemsize)
        header = kind(block, check=False)
    except Exception as error:
        raise damaged(path, _in_one_line(error)) from error
    return header


def _checked_shape(header: Nifti1Header, path: Path) -> tuple[int, int, int]:
    count = int(header["dim"][0])
    dim = [int(n) for n in header["dim"][1 : count + 1]] if 1 <= count <= 7 else []
    shape = list(dim)
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) != 3:
        raise VCMError(
            f"{path.name} has {count} dimensions {tuple(dim)}, but one 3D volume is "
            "needed: extract one frame first (for instance nibabel.four_to_three or fslroi)."
        )
    if min(shape) < FEWEST_VOXELS:
        raise VCMError(
            f"{path.name} has {' x '.join(map(str, shape))} voxels, but at least {FEWEST_VOXELS} along "
            "each axis are needed to show a head: give the whole volume."
        )
    return shape[0], shape[1], shape[2]


def _check_type(header: Nifti1Header, path: Path) -> None:
    dtype = header.get_data_dtype()
    if dtype.names:
        raise VCMError(
            f"{path.name} holds colours ({''.join(dtype.names).upper()}), but one number per voxel is "
            "needed: give the scan or label map itself instead of a coloured picture of it."
        )
    if dtype.kind == "c":
        raise VCMError(
            f"{path.name} holds complex numbers, but real ones are needed: give the magnitude image."
        )
    if dtype.kind not in "iufb":
        raise VCMError(
            f"{path.name} holds values of type {dtype.name} (datatype {int(header['datatype'])}), but "
            "numbers are needed: convert it again from its source."
        )


def _check_scaling(header: Nifti1Header, path: Path) -> None:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    # Both NaN is how nibabel says in memory, and older versions on the disk, that nothing is scaled.
    if np.isfinite(slope + intercept) or (np.isnan(slope) and np.isnan(intercept)):
        return
    raise VCMError(
        f"{path.name} scales its values by scl_slope {slope:g} and scl_inter {intercept:g}, but both "
        "must be finite numbers: correct the header, or convert the file again from its source."
    )


def _check_stream(image: nib.Nifti1Pair, header: Nifti1Header, path: Path) -> None:
    """Read everything once: only at its end a compressed stream tells whether it arrived whole."""
    offset, count = float(header["vox_offset"]), int(header["dim"][0])
    voxels = int(np.prod([int(n) for n in header["dim"][1 : count + 1]], dtype=object))
    itemsize = header.get_data_dtype().itemsize
    single = "header" not in image.file_map
    if not np.isfinite(offset) or offset < 0:
        raise damaged(path, f"its voxels begin at byte {offset:g}")
    if single and offset < header.single_vox_offset:
        raise VCMError(
            f"{path.name} says that its voxels begin at byte {offset:g} (vox_offset), inside its own header, but in a "
            f".nii file they follow it: set it to {header.single_vox_offset}, or convert the file again from its "
            "source."
        )
    expected, found = int(offset) + voxels * itemsize, 0
    try:
        with ImageOpener(str(image.file_map["image"].filename), "rb") as stream:
            while block := stream.read(1 << 22):
                found += len(block)
    # zlib.error, BadGzipFile, EOFError, OSError: however it is damaged, it is.
    except Exception as error:
        raise damaged(path, _in_one_line(error)) from error
    if found != expected:
        raise damaged(
            path, f"it holds {found} bytes where its header promises {expected} with the voxels"
        )


def _check_sizes(header: Nifti1Header, path: Path) -> None:
    sizes = np.asarray(header["pixdim"][1:4], dtype=np.float64)
    if not (np.isfinite(sizes).all() and sizes.min() > 0):
        raise VCMError(
            f"{path.name} has the voxel sizes {' x '.join(f'{s:g}' for s in sizes)} in its header "
            "(pixdim), but they must be above 0: correct the header, or convert the file again."
        )
    unit = int(header["xyzt_units"]) & 7
    if unit not in _UNITS:
        raise VCMError(
            f"{path.name} has the unit code {unit} for lengths (xyzt_units {int(header['xyzt_units'])}), "
            "which NIfTI does not know: set it to 2, millimetres, if the voxel sizes are in them."
        )
    for form in ("sform", "qform"):
        code = int(header[f"{form}_code"])
        if not 0 <= code <= _LARGEST_CODE:
            raise VCMError(
                f"{path.name} has the {form}_code {code}, but NIfTI knows 0 to {_LARGEST_CODE}: correct the "
                "header, or convert the file again from its source."
            )


def _checked_affine(
    header: Nifti1Header, shape: tuple[int, int, int], path: Path
) -> NDArray[np.float64]:
    sform, qform = transforms(header)
    affine = sform if sform is not None else qform
    if affine is None:
        affine = header.get_base_affine()
    directions = affine[:3, :3]
    spacing = np.linalg.norm(directions, axis=0)
    if (
        not np.isfinite(affine).all()
        or spacing.min() <= 0
        or abs(np.linalg.det(directions)) < 1e-9 * spacing.prod()
    ):
        raise VCMError(
            f"{path.name} has an affine that cannot be inverted ({affine[:3].round(3).tolist()}), so its "
            "voxels have no place in the world: repair the header's sform or qform."
        )
    unit = _UNITS[int(header["xyzt_units"]) & 7]
    low, high = SPACING_RANGE
    if unit in ("metre", "micron") or spacing.min() < low or spacing.max() > high:
        raise VCMError(
            f"{path.name} has voxels of {'x'.join(f'{s:.4g}' for s in spacing)} (unit in the header: "
            f"{unit}), but sizes in millimetres between {low} and {high} are needed: correct the "
            "header's units and affine."
        )
    cosines = np.abs((directions / spacing).T @ (directions / spacing) - np.eye(3))
    angle = float(np.degrees(np.arccos(min(cosines.max(), 1.0))))
    if angle < LEAST_ANGLE:
        raise VCMError(
            f"{path.name} has voxel axes at {angle:.0f} degrees to each other, but at least "
            f"{LEAST_ANGLE:.0f} are needed: repair the header's sform, or resample to a grid without shear."
        )
    _warn_of_doubt(sform, qform, affine, shape, path)
    sizes = np.asarray(header["pixdim"][1:4], dtype=np.float64)
    if qform is None and cosines.max() < 1e-3 and not np.allclose(spacing, sizes, rtol=SAME_SIZE):
        warnings.warn(
            f"{path.name} has voxels of {_in_mm(sizes)} by its pixdim and of {_in_mm(spacing)} by its "
            "sform: the sform was used.",
            VCMWarning,
            stacklevel=2,
        )
    return affine


def _warn_of_doubt(
    sform: NDArray[np.float64] | None,
    qform: NDArray | None,
    affine: NDArray[np.float64],
    shape: tuple[int, int, int],
    path: Path,
) -> None:
    """Say which place was taken where the header leaves a doubt."""
    if sform is None and qform is None:
        warnings.warn(
            f"{path.name} says nothing of its place (sform_code and qform_code are 0): its first axis was "
            "taken to run from right to left, its second to the front, its third upward.",
            VCMWarning,
            stacklevel=2,
        )
    elif sform is not None and qform is not None:
        farthest = farthest_apart(shape, sform, qform)
        if not farthest <= np.linalg.norm(affine[:3, :3], axis=0).min() / 2:
            how = f"disagree by up to {farthest:.1f} mm" if np.isfinite(farthest) else "disagree"
            warnings.warn(
                f"{path.name} has a sform and a qform that {how}: the sform was used.",
                VCMWarning,
                stacklevel=2,
            )


def _in_mm(sizes: NDArray[np.float64]) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes) + " mm"


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
