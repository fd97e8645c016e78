"""Whether two scans show the same head, whatever their contrasts: one follows the other better than its mirror image.

The halves of a brain are about as alike as two brains that lie on each other. So the mirror image of a scan, registered
again, says how well the scan of another head would fit. Knows scans in memory; no files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vcm.imaging.geometry import resample
from vcm.imaging.registration import align_to
from vcm.imaging.volume import Volume
from vcm.upsampling.scans.neighbourhoods import local_moments
from vcm.upsampling.scans.space import Image, ResultSpace
from vcm.upsampling.scans.thick_scan import ThickScan

#: A scan of the same head explains this many times what its mirror image explains: at least 1.6 times in scans of four
#: people, of other heads at most 1.35 times (docs/study/any_contrast.md).
SAME_HEAD = 1.45
#: What explains so much is of the same head even if that is its own mirror image, as a template is.
SURELY_SAME = 0.7
#: Voxels that scans are compared and registered on, and the standard deviation of a neighbourhood [mm].
SEEN, WINDOW = 2.0, 4.0
#: The voxels are at most this share of how far the slices are apart.
REFINES = 0.75
#: Share of a voxel of the slices that must lie in the brain, and the variance below which nothing is explained.
INSIDE, LEAST_VARIANCE = 0.9, 1e-6


@dataclass(frozen=True)
class ShownBrain:
    """A brain on voxels of its own.

    Attributes:
        image: (X, Y, Z), 0 outside.
        inside: (X, Y, Z) its voxels.
    """

    image: Volume
    inside: NDArray[np.bool_]

    def moved(self, motion: NDArray[np.float64]) -> ShownBrain:
        """The same elsewhere, by a motion (4, 4) of its world [mm]."""
        return replace(self, image=replace(self.image, affine=motion @ self.image.affine))

    def mirrored(self) -> ShownBrain:
        """The same with left and right exchanged, about its middle."""
        middle = self.image.affine @ np.append(np.argwhere(self.inside).mean(0), 1)
        mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
        mirror[0, 3] = 2 * middle[0]
        return self.moved(mirror)


@dataclass(frozen=True)
class Likeness:
    """How well the slices of a scan follow another scan.

    Attributes:
        agreement: Share of the slices' local variance that the other scan explains, 0..1.
        mirrored: The same of its mirror image.
    """

    agreement: float
    mirrored: float

    @property
    def is_of_one_head(self) -> bool:
        """Whether both show the same head; yes where they share no place to tell it by."""
        return self.agreement >= min(SAME_HEAD * self.mirrored, SURELY_SAME)

    def __str__(self) -> str:
        return (
            f"{self.agreement:.2f} of the local variance is explained, {self.mirrored:.2f} by the mirror image, "
            f"expected at least {SAME_HEAD:g} times that"
        )


def brain_on_slices(scan: ThickScan) -> ShownBrain:
    """The brain of a scan, interpolated to voxels of 2 mm, or finer ones where its slices are nearly as near."""
    own = ResultSpace(_seen(scan))
    inside = own.share_of_brain > 0.5
    shown = np.where(inside, own.cubic, 0).astype(np.float32)
    return ShownBrain(Volume(shown, own.scan.fine.affine), inside)


def likeness(scan: ThickScan, fixed: Volume, other: ShownBrain) -> Likeness:
    """Compare the slices of a scan with another scan and with its mirror image.

    Args:
        scan: It.
        fixed: (X, Y, Z) its brain, see `brain_on_slices`.
        other: The brain of the other scan, registered to this one.
    """
    mirrored = other.mirrored()
    try:
        mirrored = mirrored.moved(align_to(fixed, mirrored.image))
    except RuntimeError:  # of SimpleITK: a slab of one side, whose mirror image lies nowhere near
        return Likeness(agreement(scan, other), 0.0)
    return Likeness(agreement(scan, other), agreement(scan, mirrored))


def agreement(scan: ThickScan, other: ShownBrain) -> float:
    """Share of the slices' local variance, 0..1, that a line explains in every neighbourhood.

    Args:
        scan: With its slices.
        other: Of another scan, where it lies on this one.
    """
    coarse = _seen(scan)
    cut = replace(coarse, lost=()).degradation.degrade
    image, found = other.image, other.inside.astype(np.float32)
    there = resample(image.with_data(found), coarse.fine, order=1)
    inside = (cut(there) > INSIDE) & scan.measured_brain
    by = cut(resample(image, coarse.fine, order=1)).astype(np.float32)
    return explained_share(scan.volume.data, by, inside, scan.volume.grid.spacing)


def _seen(scan: ThickScan) -> ThickScan:
    """The scan with the voxels that it is compared on; they refine its slices whatever these are."""
    return scan.at_spacing(min(SEEN, REFINES * scan.acquisition.spacing))


def explained_share(
    image: Image, by: Image, inside: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> float:
    """The same of two images (X, Y, Z) on one grid, over the voxels `inside`; 0 where there is none."""
    covariance, variance, whole = local_moments(by, image, inside, spacing, WINDOW)
    explained = covariance**2 / np.maximum(variance, LEAST_VARIANCE)
    total = float(np.maximum(whole, LEAST_VARIANCE)[inside].sum())
    return float(explained[inside].sum()) / total if total else 0.0
