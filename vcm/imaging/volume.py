"""3D volumes: values and the place where they lie. Read and written as NIfTI.

Frames: `affine` maps voxel indices (i, j, k) to world coordinates RAS+ [mm]. What a file must be to be
read is in vcm.imaging.nifti; what values mean is known elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.nifti1 import Nifti1Header
from numpy.typing import DTypeLike, NDArray

from vcm.errors import VCMError
from vcm.files import write_whole
from vcm.imaging.nifti import (
    NiftiFile,
    damaged,
    farthest_apart,
    handedness,
    open_nifti,
    transforms,
)

#: Cosine between two voxel axes that rounding may cause; the scans at hand stay below 1e-7. A grid with
#: more is sheared.
SHEAR = 1e-3
#: Most distance, in voxels, between a voxel of a scan and that of a map on the same voxels: rounding.
BESIDE = 0.1


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
    def cosine(self) -> float:
        """Largest cosine between two voxel axes: 0 at right angles."""
        directions = self.affine[:3, :3] / self.spacing
        return float(np.abs(directions.T @ directions - np.eye(3)).max())

    @property
    def is_sheared(self) -> bool:
        """Whether the voxel axes are not at right angles, as after a gantry tilt or an affine registration."""
        return self.cosine > SHEAR

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
    """Voxel values (X, Y, Z) with the place where they lie.

    Attributes:
        data: Values.
        affine: (4, 4), voxel -> RAS+ [mm].
        header: Of the file that the values came from, as it lies on the disk: both transforms, their
            codes, units.
        source: Name of that file, for messages.
    """

    data: NDArray
    affine: NDArray[np.float64]
    header: Nifti1Header | None = None
    source: str = "volume"

    @property
    def grid(self) -> Grid:
        """Where the values lie."""
        i, j, k = self.data.shape
        return Grid((i, j, k), self.affine)

    def with_data(self, data: NDArray) -> Volume:
        """Other values on the same voxels."""
        if data.shape != self.data.shape:
            raise ValueError(f"shape {data.shape} does not lie on a grid of {self.data.shape}")
        return replace(self, data=data)

    def __repr__(self) -> str:
        """Shape, voxel sizes, orientation and source."""
        sizes = "x".join(f"{s:.3g}" for s in self.grid.spacing)
        return f"Volume({self.data.shape}, {sizes} mm, {self.grid.orientation}, {self.source})"


def read_volume(path: str | Path) -> Volume:
    """Read one 3D scan, values as float32 with the header's slope and intercept applied.

    Args:
        path: A NIfTI file. A trailing axis of length 1 is dropped.

    Raises:
        VCMError: What `vcm.imaging.nifti.open_nifti` refuses, NaN or infinite values, constant values.
    """
    path = Path(path)
    file = open_nifti(path)
    data = _values(file, path, np.float32)
    _check_values(data, path)
    return Volume(data, file.affine, file.header, path.name)


def read_label_map(path: str | Path, *, empty: bool = False) -> Volume:
    """Read one 3D label map, values as whole numbers of at most 32 bits.

    Args:
        path: A NIfTI file. A trailing axis of length 1 is dropped.
        empty: Whether a map of background alone is read, such as that of a scan without a lesion. Else it is
            refused as any constant one.

    Raises:
        VCMError: What `read_volume` refuses, values that are not whole numbers (probabilities), and
            negative ones.
    """
    path = Path(path)
    file = open_nifti(path)
    stored = file.header.get_data_dtype().newbyteorder("=")
    if not file.is_scaled and stored.name in ("uint8", "int8", "uint16", "int16", "int32"):
        labels = _values(file, path, stored)
    else:
        exact = stored if stored.name == "float32" and not file.is_scaled else np.dtype(float)
        labels = _whole_numbers(_values(file, path, exact), path)
    if not empty or labels.any():
        _check_values(labels, path)
    if labels.min() < 0:
        raise VCMError(
            f"{path.name} holds the negative label {labels.min()}, but labels are 0 "
            "(background) or positive: give background the value 0."
        )
    return Volume(labels, file.affine, file.header, path.name)


def refuse_other_voxels(given: Volume, scan: Volume, remedy: str) -> None:
    """Refuse a label map or mask that does not lie on the voxels of its scan.

    Args:
        given: The label map or mask.
        scan: What it belongs to.
        remedy: What to do about it, for the message.

    Raises:
        VCMError: Their shapes differ, or a voxel lies more than a tenth of its size beside its own.
    """
    if given.data.shape != scan.data.shape:
        raise VCMError(
            f"{given.source} has shape {given.data.shape} and its scan {scan.data.shape}: {remedy}."
        )
    apart = farthest_apart(scan.grid.shape, given.affine, scan.affine)
    if apart > BESIDE * min(scan.grid.spacing):
        raise VCMError(
            f"{given.source} lies up to {apart:.2g} mm beside its scan, whose affine is another: {remedy}."
        )


def write_volume(volume: Volume, path: str | Path, description: str = "") -> Path:
    """Write NIfTI in one move.

    On the voxels of the file that the volume came from, sform, qform, both codes, voxel sizes and units
    are those of that file. On other voxels in the same world both transforms follow to these voxels.

    Args:
        volume: Its `header` tells where it came from; without one the sform gets the code 1.
        path: A .nii or .nii.gz file, which is replaced if it is there.
        description: For the field `descrip`, at most 79 letters.

    Raises:
        VCMError: The file cannot be written.
    """
    path = Path(path)
    image = nib.Nifti1Image(volume.data, volume.affine)
    if volume.header is None:
        image.set_sform(volume.affine, 1)
        if not volume.grid.is_sheared:  # which a qform cannot say
            image.set_qform(volume.affine, 1)
        image.header.set_xyzt_units("mm", "sec")
    else:
        _take_place(image, volume, volume.header)
    image.header["descrip"] = description.encode()[:79]
    write_whole(path, lambda part: nib.save(image, part))
    return path


#: What a header says of the place of its voxels.
_PLACE = (
    "sform_code", "srow_x", "srow_y", "srow_z", "qform_code", "quatern_b", "quatern_c", "quatern_d",
    "qoffset_x", "qoffset_y", "qoffset_z", "pixdim", "xyzt_units",
)  # fmt: skip
#: Code of a transform that is known to be some alignment, and no more.
_ALIGNED = 2


def _take_place(image: nib.Nifti1Image, volume: Volume, source: Nifti1Header) -> None:
    """Set the transforms of `image` from the header of the file that its values came from."""
    sform, qform = transforms(source)
    before = sform if sform is not None else qform
    if before is None:
        before = source.get_base_affine()
    if _shape(source) == volume.data.shape and np.allclose(before, volume.affine, atol=1e-5):
        for name in _PLACE:
            image.header[name] = source[name]
        if sform is None and qform is not None:  # nibabel refuses to write a 0 there
            image.header["pixdim"][0] = handedness(source)
        return
    steps = np.linalg.inv(before) @ volume.affine  # voxels of `volume` -> voxels of the source
    image.header["qform_code"] = 0
    image.header["sform_code"] = 0
    image.header.set_zooms(volume.grid.spacing)
    if qform is not None:
        moved = Grid(volume.grid.shape, qform @ steps)
        if np.isfinite(moved.affine).all() and not moved.is_sheared:
            image.header.set_qform(moved.affine, int(source["qform_code"]))
    if sform is not None or not image.header["qform_code"]:
        image.header.set_sform(volume.affine, int(source["sform_code"]) or _ALIGNED)
    image.header.set_xyzt_units("mm", "sec")


def _shape(header: Nifti1Header) -> tuple[int, ...]:
    return tuple(int(n) for n in header["dim"][1:4])


def _values(file: NiftiFile, path: Path, dtype: DTypeLike) -> NDArray:
    """All values, scaled as the header says."""
    try:
        with np.errstate(over="ignore"):  # what overflows is infinite then, and named
            return np.asarray(file.image.dataobj, dtype=dtype).reshape(file.shape)
    except Exception as error:  # the stream was read to its end before, so this is rare
        raise damaged(path, " ".join(str(error).split())) from error


def _whole_numbers(values: NDArray, path: Path) -> NDArray[np.int32]:
    """Values that are whole numbers to a thousandth -> int32, plane by plane to save memory."""
    labels = np.empty(values.shape, np.int32, order="F")
    for k in range(values.shape[2]):
        plane = values[:, :, k]
        rounded = np.rint(plane)
        with np.errstate(invalid="ignore"):
            wrong = ~(np.abs(plane - rounded) <= 1e-3) & np.isfinite(plane)
        if wrong.any():
            raise VCMError(
                f"{path.name} holds fractions (such as {plane[wrong][0]:.3g}), but a label map holds "
                "whole numbers: this looks like a probability map or a resampled one; take the most "
                "probable label per voxel first, or resample with nearest neighbour."
            )
        if not np.isfinite(rounded).all() or np.abs(rounded).max(initial=0) >= 2**31:
            raise VCMError(
                f"{path.name} holds values that are NaN, infinite or beyond 32 bits, but every voxel "
                "needs a label: check that it is a label map."
            )
        labels[:, :, k] = rounded
    return labels


def distinct(labels: NDArray) -> NDArray:
    """The labels that occur in a map (X, Y, Z), ascending; plane by plane, so that large maps fit."""
    return np.unique(np.concatenate([np.unique(plane) for plane in np.moveaxis(labels, -1, 0)]))


def _check_values(data: NDArray, path: Path) -> None:
    wrong = int(data.size - np.isfinite(data).sum()) if data.dtype.kind == "f" else 0
    if wrong:
        raise VCMError(
            f"{path.name} holds {wrong} NaN or infinite voxels, but every voxel needs a value: "
            "replace them first, for instance with numpy.nan_to_num."
        )
    if data.min() == data.max():
        raise VCMError(
            f"{path.name} is constant (every voxel is {data.flat[0]:g}), so it shows nothing: "
            "check that the right file was given."
        )
