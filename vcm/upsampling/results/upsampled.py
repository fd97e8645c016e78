"""What comes out of an upsampling: volumes in the space and the units of the scan. Knows no files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vcm.imaging.volume import Volume
from vcm.inputs import ModelInput
from vcm.upsampling.scans.placed_guide import Guide
from vcm.upsampling.scans.space import Image
from vcm.upsampling.scans.thick_scan import ThickScan

#: What the uncertainty of a result is.
OF_DETAIL = "error that the detail network expects, one standard deviation"
OF_SAMPLES = "standard deviation of the samples: how they differ, not how far off they are"
OF_NOTHING = "none: it takes a detail network, or 2 samples or more"
OF_NO_MODEL = "none: the model does not know this contrast, so no model took part"


@dataclass(frozen=True)
class Upsampled:
    """A brain between the slices of a scan.

    Arrays lie on the fine grid of the first scan, scaled as it is: 0 and 1 are percentiles of its brain.
    The properties give volumes in the scan's own units.

    Attributes:
        scan: The first scan.
        inputs: What the model was told of the subject, and where each value comes from.
        mean: (X, Y, Z) the expected brain with its detail, the estimate of least squared error.
        std: Standard deviation of its error, 0 where no model took part; None where nothing tells it.
        uncertainty_kind: What `std` is.
        expected: `mean` before its detail is added.
        samples: (K, X, Y, Z) samples, projected onto the slices.
        unprojected: The same before the projection.
        cubic: The scan by cubic interpolation.
        generated_share: Share of each voxel that the model made, 0..1; elsewhere it is interpolated.
        residual: Root mean square of measured minus degraded result inside the brain: of the cubic
            interpolation, of the expected brain before the projection, of `mean`.
        others: Further scans of the same head that it was made of.
        guide: The scan of another contrast whose edges it follows; None: none.
        like: The scan whose voxels it has, in place of a grid along the first scan; None: that grid.
    """

    scan: ThickScan
    inputs: dict[str, ModelInput]
    mean: Image
    std: Image | None
    uncertainty_kind: str
    expected: Image
    samples: Image
    unprojected: Image
    cubic: Image
    generated_share: Image
    residual: dict[str, float]
    others: tuple[ThickScan, ...] = ()
    guide: Guide | None = None
    like: Volume | None = None

    @property
    def model_took_part(self) -> bool:
        """Whether anything in the result was generated."""
        return bool(self.generated_share.any())

    @property
    def volume(self) -> Volume:
        """The result."""
        return self.in_units(self.mean)

    @property
    def uncertainty(self) -> Volume | None:
        """Standard deviation of its error; None where nothing tells it."""
        if self.std is None:
            return None
        low, high = self.scan.units
        return self._on_grid(((high - low) * self.std).astype(np.float32))

    @property
    def generated(self) -> Volume:
        """1 where the model made at least half of the result."""
        return self._on_grid((self.generated_share > 0.5).astype(np.uint8))

    @property
    def brain_mask(self) -> Volume | None:
        """The brain on the voxels of the first scan, where a network found it in a scan with its skull."""
        found, source = self.scan.found, self.scan.volume
        if found is None or not found.is_found_here or found.mask.shape != source.data.shape:
            return None
        return found.as_volume(source)

    def sample(self, number: int) -> Volume:
        """A sample, counted from 0."""
        return self.in_units(self.samples[number])

    def in_units(self, image: NDArray) -> Volume:
        """An image in the scan's intensities, none below its least or above its greatest.

        Interpolation beside bright fat would go there.
        """
        scan = self.scan
        low, high = scan.volume.data.min(), scan.volume.data.max()
        return self._on_grid(scan.in_units(np.clip(image, low, high)))

    def _on_grid(self, data: NDArray) -> Volume:
        scan = self.scan
        place = scan.volume if self.like is None else self.like
        return Volume(data, scan.fine.affine, place.header, scan.volume.source)
