"""Where the result lies, and how a brain of the model comes there. Knows grids and intensities, no files.

Everything lies on the fine grid of a scan, in 0..1 of its brain. Outside the brain the scan is
interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from vcm.imaging.geometry import from_model_grid, resample
from vcm.upsampling.scans.thick_scan import ThickScan

#: Values (X, Y, Z) on the fine grid.
Image = NDArray[np.float32]


@dataclass(frozen=True)
class ResultSpace:
    """The fine grid of a scan, and what is known there without a model."""

    scan: ThickScan

    @cached_property
    def cubic(self) -> Image:
        """The slices by cubic interpolation."""
        return self.scan.interpolated()

    @cached_property
    def as_it_came(self) -> Image:
        """The scan by cubic interpolation, its rim not filled: what a result is compared with."""
        return self.cubic if self.scan.rim is None else self.scan.as_it_came()

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

    @property
    def across(self) -> int:
        """Axis of the fine grid that runs across the slices."""
        return self.scan.degradation.axes[self.scan.acquisition.axis]

    def to_scan_space(self, brain: NDArray[np.float32]) -> Image:
        """A brain (X, Y, Z) on the model's grid -> the fine grid, intensities matched to the slices."""
        scan = self.scan
        moved = from_model_grid(brain, scan.model, scan.fine, scan.to_common, order=3)
        gain, offset = _match(moved, scan)
        return self.in_brain(gain * moved + offset)

    def in_brain(self, image: NDArray) -> Image:
        """The image where the brain is, the cubic interpolation elsewhere."""
        share = self.share_of_brain
        return (share * image + (1 - share) * self.cubic).astype(np.float32)


def _match(image: NDArray, scan: ThickScan) -> tuple[float, float]:
    """(gain, offset) that bring the degraded image to the measured slices, inside the brain.

    Percentiles of thick slices are not those of the brain they show, so the scale that they set is
    off by a few percent.
    """
    brain = scan.measured_brain
    degraded = scan.degradation.degrade(image)[brain]
    measured = scan.volume.data[brain]
    if degraded.std() < 1e-4:  # a brain without contrast has no scale
        return 1.0, float(measured.mean() - degraded.mean())
    slope = ((degraded - degraded.mean()) * (measured - measured.mean())).mean() / degraded.var()
    gain = float(np.clip(slope, 0.5, 2.0))
    return gain, float(measured.mean()) - gain * float(degraded.mean())
