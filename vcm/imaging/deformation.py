"""Many brains from few: smooth deformations of a scan and its label map together, on any device.

Scan and label map are refined to half their voxel size first, so that sampling them at displaced
places blurs little and moves borders by parts of a voxel. A displacement is an affine and two smooth
random fields. All are drawn on the CPU from a numpy generator, so that a draw depends on its seed
alone, and applied where the scans are. Knows tensors on an isotropic grid; no files and no atlas.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional as F

#: Control points per axis of the coarse and the fine field.
COARSE, FINE = (4, 5, 4), (7, 9, 7)


@dataclass(frozen=True)
class DeformationSizes:
    """How far deformations go: standard deviations of what is drawn.

    Attributes:
        coarse: Displacements of the coarse field's control points [mm].
        fine: Displacements of the fine field's control points [mm].
        rotation: Angle about each axis [rad].
        scale: Logarithm of the scale along each axis.
        shift: Along each axis [mm].
        gain: Logarithm of the gain of intensities.
        gamma: Logarithm of the exponent of intensities.
        mirror: Share that is mirrored in the first axis, 0..1; no standard deviation. Labels are not
            exchanged: choose 0 where they tell left from right.
    """

    coarse: float = 3.0
    fine: float = 1.2
    rotation: float = 0.03
    scale: float = 0.03
    shift: float = 1.5
    gain: float = 0.03
    gamma: float = 0.05
    mirror: float = 0.5

    def times(self, factor: float) -> DeformationSizes:
        """All standard deviations multiplied by a factor; the mirrored share stays."""
        kept = {k: v * factor for k, v in self.__dict__.items() if k != "mirror"}
        return DeformationSizes(**kept, mirror=self.mirror)


def draw_deformations(
    count: int, sizes: DeformationSizes, random: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw deformations; B of them, float32 on the CPU.

    Args:
        count: B.
        sizes: How far they go.
        random: Decides everything that is drawn.

    Returns:
        Affines (B, 3, 4) [mm], control points of the coarse field (B, 3, *COARSE) and of the fine one
        (B, 3, *FINE) [mm], and appearance (B, 3): gain, gamma, and 1 for mirrored or 0.
    """
    angles = random.normal(0, sizes.rotation, (count, 3))
    scales = np.exp(random.normal(0, sizes.scale, (count, 3)))
    affine = np.zeros((count, 3, 4))
    for k in range(count):
        affine[k, :, :3] = (
            Rotation.from_euler("XYZ", angles[k] * (1, -1, 1)).as_matrix() * scales[k]
        )
    affine[:, :, 3] = random.normal(0, sizes.shift, (count, 3))
    coarse = random.normal(0, sizes.coarse, (count, 3, *COARSE))
    fine = random.normal(0, sizes.fine, (count, 3, *FINE))
    appearance = np.stack(
        [
            np.exp(random.normal(0, sizes.gain, count)),
            np.exp(random.normal(0, sizes.gamma, count)),
            random.random(count) < sizes.mirror,
        ],
        1,
    )
    return _single(affine), _single(coarse), _single(fine), _single(appearance)


def sampling_grid(
    affine: Tensor,
    coarse: Tensor,
    fine: Tensor,
    mirror: Tensor,
    shape: tuple[int, ...],
    spacing: float,
) -> Tensor:
    """Where each voxel of the deformed grid is read.

    Args:
        affine: (B, 3, 4) [mm], about the grid's centre, along its axes.
        coarse: (B, 3, ...) displacements of control points [mm].
        fine: (B, 3, ...) displacements of control points [mm].
        mirror: (B,) 1 to mirror the first axis, or 0.
        shape: Of the grid (X, Y, Z).
        spacing: Voxel size of the grid, isotropic [mm].

    Returns:
        (B, X, Y, Z, 3) places in -1..1, in the order of axes that F.grid_sample reads, for
        align_corners=False; on the affine's device.
    """
    device, half = affine.device, [0.5 * spacing * n for n in shape]
    axes = [
        torch.linspace(-h + spacing / 2, h - spacing / 2, n, device=device)
        for h, n in zip(half, shape, strict=True)
    ]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"))  # (3, X, Y, Z) [mm]
    moved = (
        torch.einsum("bij,jxyz->bixyz", affine[:, :, :3], place) + affine[:, :, 3, None, None, None]
    )
    for points in (coarse, fine):
        moved = moved + F.interpolate(
            _smoothed(points), size=shape, mode="trilinear", align_corners=True
        )
    sign = torch.ones(len(affine), 3, device=device)
    sign[:, 0] = 1 - 2 * mirror
    ends = torch.tensor(half, device=device)
    unit = moved * sign[..., None, None, None] / ends[:, None, None, None]
    return unit.flip(1).movedim(1, -1)  # grid_sample wants the last axis first


def deform(
    images: Tensor, classes: Tensor | None, grid: Tensor, appearance: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Sample refined images and label maps at the places of a grid.

    Args:
        images: (B, 1, 2X, 2Y, 2Z) in 0..1, see `refine_image`.
        classes: (B, 1, 2X, 2Y, 2Z) labels, see `refine_classes`; None: images alone.
        grid: (B, X, Y, Z, 3), see `sampling_grid`; outside of the image is 0.
        appearance: (B, 3) gain and gamma, x -> gain x^gamma, and the mirror, which the grid holds.

    Returns:
        (B, 1, X, Y, Z) images in 0..1, and labels (uint8) or None.
    """
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    gain, gamma = (appearance[:, n, None, None, None, None] for n in (0, 1))
    moved = (gain * moved.clamp(min=0).pow(gamma)).clamp(0, 1)
    if classes is None:
        return moved, None
    named = F.grid_sample(
        classes.to(moved.dtype), grid, mode="nearest", padding_mode="zeros", align_corners=False
    )
    return moved, named.to(torch.uint8)


@torch.no_grad()
def refine_image(image: Tensor) -> Tensor:
    """Image at half the voxel size, sharpened against the linear interpolation that reads it.

    Cubic interpolation per axis; then the inverse, to fourth order, of the blur of a linear
    interpolation averaged over shifts, sinc^2(f) = 1 - (pi f)^2 / 3 + ...: weights -1/12, 7/6, -1/12.

    Args:
        image: (B, 1, X, Y, Z).

    Returns:
        (B, 1, 2X, 2Y, 2Z); may leave the range of the image a little.
    """
    kernel = torch.tensor([-1 / 12, 7 / 6, -1 / 12], device=image.device)
    for axis in (2, 3, 4):
        lines = image.movedim(axis, -1)
        shape = lines.shape
        flat = lines.reshape(1, 1, -1, shape[-1])
        flat = F.interpolate(
            flat, size=(flat.shape[2], 2 * shape[-1]), mode="bicubic", align_corners=False
        )
        padded = F.pad(flat, (1, 1, 0, 0), mode="replicate")
        flat = sum(k * padded[..., n : n + flat.shape[-1]] for n, k in enumerate(kernel))
        image = flat.reshape(*shape[:-1], -1).movedim(-1, axis)
    return image


@torch.no_grad()
def refine_classes(classes: Tensor, count: int = 9) -> Tensor:
    """Label map at half the voxel size: the class with the greatest linearly interpolated share.

    Args:
        classes: (B, 1, X, Y, Z) labels 0..count - 1.
        count: Of classes, with the background.

    Returns:
        (B, 1, 2X, 2Y, 2Z) uint8.

    Raises:
        ValueError: A label is not below count: it would become background.
    """
    if int(classes.max()) >= count:
        raise ValueError(f"label {int(classes.max())} is not below the number of classes, {count}")
    best = torch.zeros_like(classes, dtype=torch.float32)
    size = [2 * n for n in classes.shape[2:]]
    best = F.interpolate(best, size=size)
    found = torch.zeros(best.shape, dtype=torch.uint8, device=classes.device)
    for c in range(count):
        share = F.interpolate(
            (classes == c).float(), size=size, mode="trilinear", align_corners=False
        )
        better = share > best
        found[better] = c
        best = torch.where(better, share, best)
    return found


def _smoothed(points: Tensor) -> Tensor:
    """Control points (B, 3, a, b, c) -> 3n - 2 per axis, averaged over neighbours."""
    size = [3 * n - 2 for n in points.shape[2:]]
    finer = F.interpolate(points, size=size, mode="trilinear", align_corners=True)
    return F.avg_pool3d(F.pad(finer, (1,) * 6, mode="replicate"), 3, stride=1)


def _single(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
