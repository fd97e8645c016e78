"""Project an image onto what the slices measured, so that they come out again when it is degraded.

Knows the slices of one or more scans of one head and the degradation of each (vcm.imaging.degradation);
nothing of networks or files. Images lie on the fine grid of the first scan, in 0..1 of its brain.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vcm.imaging.degradation import LinearScan, project_all
from vcm.imaging.turned import degradation_between
from vcm.upsampling.scans.lost_slices import without_lost
from vcm.upsampling.scans.space import Image
from vcm.upsampling.scans.thick_scan import ThickScan


@dataclass(frozen=True)
class Projection:
    """How results are made consistent with the measured slices.

    Attributes:
        consistency: Project at all. Without, no network adds detail either.
        noise: Assumed noise of a slice relative to the error of the model, above 0.
        detail_noise: The same relative to the error of the result after a detail network.
        mirrors: Average a detail network over mirror images.
    """

    consistency: bool
    noise: float
    detail_noise: float
    mirrors: bool


@dataclass(frozen=True)
class DataConsistency:
    """The measurements that a result must agree with.

    Attributes:
        scan: Gives the fine grid and the intensity scale.
        others: Further scans of the same head and contrast.
        noise: Standard deviation of a slice's error over that of the image's, see Degradation.project.
    """

    scan: ThickScan
    others: tuple[ThickScan, ...] = ()
    noise: float = 0.1

    def project(self, image: Image) -> Image:
        """The nearest image (X, Y, Z) that agrees with every scan."""
        if not self.others:
            return self.scan.degradation.project(image, self.scan.slices, self.noise)
        return project_all(image, self._terms)

    def residual(self, image: Image) -> float:
        """Root mean square of measured minus degraded image inside the brain of the first scan."""
        scan = self.scan
        return scan.degradation.residual(image, scan.volume.data, scan.measured_brain)

    @cached_property
    def interpolated(self) -> Image:
        """Linear interpolation of the first scan, projected: the best guess without a model."""
        return self.project(self.scan.interpolated(order=1))

    @cached_property
    def _terms(self) -> list[tuple[LinearScan, Image, float]]:
        scan = self.scan
        terms: list[tuple[LinearScan, Image, float]] = [(scan.degradation, scan.slices, self.noise)]
        for other in self.others:
            onto = degradation_between(scan.fine, other.volume.grid, other.acquisition)
            onto = without_lost(onto, other.acquisition.axis, other.lost)
            gain, offset = scale_between(scan, other)
            terms.append((onto, (gain * other.slices + offset).astype(np.float32), self.noise))
        return terms


def scale_between(scan: ThickScan, other: ThickScan) -> tuple[float, float]:
    """(gain, offset) that bring values of another scan to the scale of a first.

    Medians and spreads of the two brains agree then.
    """
    if other is scan:
        return 1.0, 0.0
    one = scan.volume.data[scan.measured_brain]
    two = other.volume.data[other.measured_brain]
    (low, middle, high), theirs = (np.percentile(v, [25, 50, 75]) for v in (one, two))
    gain = float((high - low) / max(theirs[2] - theirs[0], 1e-6))
    return gain, float(middle - gain * theirs[1])
