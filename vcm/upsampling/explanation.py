"""Volumes that explain the thick scans of one head: a model's brain, brought there and projected.

Everything lies on the fine grid of the first scan, in 0..1 of its brain. Outside the brain the scan
is interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from vcm.imaging.degradation import LinearScan, project_all
from vcm.imaging.geometry import from_model_grid, resample
from vcm.imaging.thick import as_thick
from vcm.imaging.turned import degradation_between
from vcm.upsampling.thick_scan import ThickScan

Image = NDArray[np.float32]


@dataclass(frozen=True)
class Explanation:
    """scan: gives the grid; others: of the same head; noise: see Degradation.project."""

    scan: ThickScan
    others: tuple[ThickScan, ...] = ()
    noise: float = 0.1

    @cached_property
    def cubic(self) -> Image:
        """The first scan alone, by cubic interpolation."""
        return self.scan.interpolated()

    @cached_property
    def share_of_brain(self) -> Image:
        """1 inside the brain, 0 outside it and beyond the model's view, smooth over about 2 mm."""
        scan = self.scan
        inside = resample(scan.volume.with_data(scan.brain.astype(np.float32)), scan.fine, order=1)
        seen = from_model_grid(
            np.ones(scan.model.shape, np.float32), scan.model, scan.fine, scan.to_common, order=0
        )
        share = np.where((inside > 0.5) & (seen > 0.5), 1.0, 0.0).astype(np.float32)
        sigma = [1.0 / s for s in scan.fine.spacing]
        return np.asarray(gaussian_filter(share, sigma), dtype=np.float32)

    @cached_property
    def interpolated(self) -> Image:
        """Linear interpolation of the first scan, made to explain all: the best guess without a model."""
        return self.explain(self.scan.interpolated(order=1))

    def placed(self, brain: NDArray[np.float32]) -> Image:
        """A brain (X, Y, Z) on the model's grid -> the fine grid, intensities matched to the slices."""
        scan = self.scan
        moved = from_model_grid(brain, scan.model, scan.fine, scan.to_common, order=3)
        gain, offset = _match(moved, scan)
        return self.in_brain(gain * moved + offset)

    def in_brain(self, image: NDArray) -> Image:
        """The image where the brain is, the cubic interpolation elsewhere."""
        share = self.share_of_brain
        return (share * image + (1 - share) * self.cubic).astype(np.float32)

    def explain(self, image: Image) -> Image:
        """The nearest image that explains every scan."""
        if not self.others:
            return self.scan.degradation.project(image, self.scan.volume.data, self.noise)
        return project_all(image, self._terms)

    def residual(self, image: NDArray) -> float:
        """Root mean square of measured minus degraded image inside the brain of the first scan."""
        return self.scan.degradation.residual(image, self.scan.volume.data, self.scan.brain)

    def read(self, expected: Image) -> NDArray[np.float32]:
        """(3, X, Y, Z) as DetailNet reads it; `expected`: the model's brain, placed and explained."""
        scan = self.scan
        nearness = as_thick(scan.volume, scan.acquisition, scan.fine)[1]
        read = np.stack([self.interpolated, nearness, expected])
        return np.moveaxis(read, 1 + self.across, -1)

    @property
    def across(self) -> int:
        """Axis of the fine grid that runs across the slices."""
        return self.scan.degradation.axes[self.scan.acquisition.axis]

    @cached_property
    def _terms(self) -> list[tuple[LinearScan, Image, float]]:
        scan = self.scan
        terms: list[tuple[LinearScan, Image, float]] = [
            (scan.degradation, scan.volume.data, self.noise)
        ]
        for other in self.others:
            onto = degradation_between(scan.fine, other.volume.grid, other.acquisition)
            terms.append((onto, _in_scale_of(scan, other), self.noise))
        return terms


def _match(placed: NDArray, scan: ThickScan) -> tuple[float, float]:
    """(gain, offset) that bring the degraded sample to the measured slices, inside the brain.

    Percentiles of thick slices are not those of the brain they show, so the scale that they set is
    off by a few percent.
    """
    degraded = scan.degradation.degrade(placed)[scan.brain]
    measured = scan.volume.data[scan.brain]
    if degraded.std() < 1e-4:  # a brain without contrast has no scale
        return 1.0, float(measured.mean() - degraded.mean())
    slope = ((degraded - degraded.mean()) * (measured - measured.mean())).mean() / degraded.var()
    gain = float(np.clip(slope, 0.5, 2.0))
    return gain, float(measured.mean()) - gain * float(degraded.mean())


def _in_scale_of(scan: ThickScan, other: ThickScan) -> Image:
    """Values of another scan, scaled as the first: medians and spreads of the two brains agree."""
    one, two = scan.volume.data[scan.brain], other.volume.data[other.brain]
    (low, middle, high), own = (np.percentile(v, [25, 50, 75]) for v in (one, two))
    gain = (high - low) / max(own[2] - own[0], 1e-6)
    return (middle + gain * (other.volume.data - own[1])).astype(np.float32)
