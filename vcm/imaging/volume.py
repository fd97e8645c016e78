"""Read and write 3D NIfTI volumes. Knows headers and files; refuses what is not one 3D scan.

Frames: `affine` maps voxel indices (i, j, k) to world coordinates RAS+ [mm].
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from vcm.errors import VCMError
from vcm.files import write_whole

#: Voxel sizes outside this range [mm] mean a header in metres, microns, or a broken one.
SPACING_RANGE = (0.05, 20.0)


@dataclass(frozen=True)
class Grid:
    """Where voxels lie: a shape and an affine, voxel -> RAS+ [mm]."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel edge lengths [mm]."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def orientation(self) -> str:
        """Axis codes, for instance 'RAS' or 'LAS'."""
        return "".join(nib.orientations.aff2axcodes(self.affine))

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel [mL]."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @property
    def centre(self) -> NDArray[np.float64]:
        """World position of the grid's centre, RAS+ [mm]."""
        middle = (np.asarray(self.shape) - 1) / 2
        return self.affine[:3, :3] @ middle + self.affine[:3, 3]


@dataclass(frozen=True)
class Volume:
    """Voxel values with the place where they lie; `header` keeps units and codes of the source."""

    data: NDArray
    affine: NDArray[np.float64]
    header: nib.Nifti1Header | None = None
    source: str = "volume"

    @property
    def grid(self) -> Grid:
        i, j, k = self.data.shape
        return Grid((i, j, k), self.affine)

    def with_data(self, data: NDArray) -> Volume:
        """Other values on the same voxels."""
        if data.shape != self.data.shape:
            raise ValueError(f"shape {data.shape} does not lie on a grid of {self.data.shape}")
        return replace(self, data=data)

    def __repr__(self) -> str:
        sizes = "x".join(f"{s:.3g}" for s in self.grid.spacing)
        return f"Volume({self.data.shape}, {sizes} mm, {self.grid.orientation}, {self.source})"


def read_volume(path: str | Path) -> Volume:
    """Read one 3D scan, values as float32 with the header's slope and intercept applied.

    A trailing axis of length 1 is dropped. Raises VCMError for: no such file, not NIfTI,
    truncated, not 3D, empty, NaN or infinite values, constant values, an affine that cannot
    be inverted, and voxel sizes that are not plausible millimetres.
    """
    path = Path(path)
    image = _open(path)
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise VCMError(
            f"{path.name} has {len(image.shape)} dimensions {tuple(image.shape)}, but one 3D volume is "
            "needed: extract one frame first (for instance nibabel.four_to_three or fslroi)."
        )
    affine = _checked_affine(image, path)
    try:
        data = np.asarray(image.dataobj, dtype=np.float32).reshape(shape)
    except (EOFError, OSError, ValueError) as error:
        raise VCMError(
            f"{path.name} cannot be read to its end ({error}): the file is truncated or damaged; "
            "copy or download it again."
        ) from error
    _check_values(data, path)
    return Volume(data, affine, image.header, path.name)


def read_label_map(path: str | Path) -> Volume:
    """Read one 3D label map, values as int32. Raises VCMError as `read_volume`, and for
    values that are not whole numbers (probabilities) or are negative."""
    volume = read_volume(path)
    labels = np.rint(volume.data).astype(np.int32)
    distance = float(np.abs(volume.data - labels).max())
    if distance > 1e-3:
        raise VCMError(
            f"{volume.source} holds fractions (values {volume.data.min():.3g} to "
            f"{volume.data.max():.3g}), but a label map holds whole numbers: this looks like a "
            "probability map or a resampled one; take the most probable label per voxel first, "
            "or resample with nearest neighbour."
        )
    if labels.min() < 0:
        raise VCMError(
            f"{volume.source} holds the negative label {labels.min()}, but labels are 0 "
            "(background) or positive: give background the value 0."
        )
    return volume.with_data(labels)


def refuse_other_voxels(given: Volume, scan: Volume, remedy: str) -> None:
    """Raise VCMError where a label map or mask does not lie on the voxels of its scan."""
    same = given.data.shape == scan.data.shape
    if not same or not np.allclose(given.affine, scan.affine, atol=1e-2):
        raise VCMError(
            f"{given.source} lies on a grid of {given.data.shape}, its scan on {scan.data.shape} (or at "
            f"another place): {remedy}."
        )


def write_volume(volume: Volume, path: str | Path, description: str = "") -> Path:
    """Write NIfTI in one move: to a temporary name beside `path`, then renamed.

    Keeps affine, qform/sform codes and units of the source header.
    """
    path = Path(path)
    image = nib.Nifti1Image(volume.data, volume.affine)
    code_s, code_q, units = 1, 1, ("mm", "sec")
    if volume.header is not None:
        code_s = int(volume.header["sform_code"])
        code_q = int(volume.header["qform_code"])
        units = volume.header.get_xyzt_units()
    image.set_sform(volume.affine, code_s or 1)
    if code_q:
        image.set_qform(volume.affine, code_q)
    image.header.set_xyzt_units("mm", units[1] if units[1] != "unknown" else None)
    image.header["descrip"] = description.encode()[:79]
    write_whole(path, lambda part: nib.save(image, part))
    return path


def _open(path: Path) -> nib.Nifti1Pair:
    if not path.is_file():
        raise VCMError(f"{path} does not exist: give the path of a .nii or .nii.gz file.")
    try:
        image = nib.load(path)
    except (ImageFileError, OSError, EOFError, ValueError) as error:
        raise VCMError(
            f"{path.name} is not a readable NIfTI file ({error}): give a .nii or .nii.gz file."
        ) from error
    if not isinstance(image, nib.Nifti1Image | nib.Nifti1Pair):
        raise VCMError(
            f"{path.name} is {type(image).__name__}, but NIfTI is needed: convert it, "
            "for instance with mri_convert or nibabel."
        )
    return image


def _checked_affine(image: nib.Nifti1Pair, path: Path) -> NDArray[np.float64]:
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise VCMError(
            f"{path.name} has an affine that cannot be inverted ({affine[:3].round(3).tolist()}), so its "
            "voxels have no place in the world: repair the header's sform or qform."
        )
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    unit = image.header.get_xyzt_units()[0]
    low, high = SPACING_RANGE
    if unit in ("meter", "micron") or spacing.min() < low or spacing.max() > high:
        raise VCMError(
            f"{path.name} has voxels of {'x'.join(f'{s:.4g}' for s in spacing)} (unit in the header: "
            f"{unit}), but sizes in millimetres between {low} and {high} are needed: correct the "
            "header's units and affine."
        )
    return affine


def _check_values(data: NDArray[np.float32], path: Path) -> None:
    if data.size == 0:
        raise VCMError(f"{path.name} is empty (shape {data.shape}): give a volume with voxels.")
    wrong = int(data.size - np.isfinite(data).sum())
    if wrong:
        raise VCMError(
            f"{path.name} holds {wrong} NaN or infinite voxels, but every voxel needs a value: "
            "replace them first, for instance with numpy.nan_to_num."
        )
    if data.min() == data.max():
        raise VCMError(
            f"{path.name} holds the one value {data.flat[0]:g} everywhere, so there is nothing to see: "
            "check that the right file was given."
        )
