"""A training scan on isotropic voxels along its own axes: what `vcm upsample` is to give back of thick slices.

Not on the model's grid: bringing a scan there smooths it, and a network that learned to give smooth
images back would smooth those of its users.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vcm.imaging.acquisition import isotropic_about
from vcm.imaging.background import on_black
from vcm.imaging.brain import align_brain
from vcm.imaging.contrast import Contrast
from vcm.imaging.degradation import Degradation
from vcm.imaging.draws import draw_thick
from vcm.imaging.extraction import find_brain
from vcm.imaging.geometry import resample, straightened, straightened_mask
from vcm.imaging.source import Scan
from vcm.imaging.vocabulary import brain_of
from vcm.imaging.volume import Grid, Volume, read_label_map, read_volume, refuse_other_voxels
from vcm.upsampling.scans.thick_scan import ThickScan


@dataclass(frozen=True)
class IsotropicScan:
    """A training scan at the model's spacing, on its own axes.

    Attributes:
        volume: Divided by the width of its intensity range, 0 outside the brain.
        floor: What is 0 in ThickScan, in the same units.
        brain: (X, Y, Z) of its voxels.
        model: As ThickScan has it.
        to_common: As ThickScan has it.
    """

    volume: Volume
    floor: float
    brain: NDArray[np.bool_]
    model: Grid
    to_common: NDArray[np.float64]

    @classmethod
    def read(cls, scan: Scan, model: Grid, labels: str = "auto") -> IsotropicScan:
        """At the model's spacing, by cubic interpolation.

        Args:
            scan: With its label map or mask, where it has one.
            model: Grid of the model.
            labels: Vocabulary of the label map, see `brain_of`.

        Raises:
            VCMError: For what `vcm prepare` refuses; a label map need not tell tissues apart.
        """
        image = read_volume(scan.image)
        if scan.labels:
            label_map = read_label_map(scan.labels)
            refuse_other_voxels(
                label_map, image, "resample the labels to the scan, nearest neighbour"
            )
            brain = brain_of(label_map, labels)
        else:
            brain = find_brain(image).mask
        image, _ = on_black(image, brain)
        mask = straightened_mask(brain, image)
        image = straightened(image, order=3)
        grid = isotropic_about(image.grid, float(np.mean(model.spacing)))
        fine, inside = brain_on(grid, image, mask)
        aligned = align_brain(fine, inside, model)
        low, high = aligned.intensity_range
        width = max(high - low, 1e-6)
        return cls(fine.with_data(fine.data / width), low / width, inside, model, aligned.to_common)

    @property
    def scaled(self) -> NDArray[np.float32]:
        """Values as ThickScan has them: 0..1 are the percentiles of the brain."""
        return np.asarray(self.volume.data - self.floor, dtype=np.float32)

    def in_thick_slices(self, random: np.random.Generator) -> ThickScan:
        """Drawn by vcm.imaging.draws and brain-extracted: a voxel is brain where half of its slice is."""
        fine = self.volume.grid
        thick, acquisition = draw_thick(self.volume.data, fine, random)
        across = Degradation.between(fine, thick.grid, acquisition)
        brain = across.degrade(self.brain.astype(np.float32)) > 0.5
        values = np.where(brain, thick.data, 0) - self.floor
        return ThickScan(
            thick.with_data(values.astype(np.float32)), brain, acquisition, fine, self.model,
            self.to_common, (0.0, 1.0), Contrast("T1w", "training", 1.0),
        )  # fmt: skip


def brain_on(
    grid: Grid, image: Volume, mask: NDArray[np.bool_]
) -> tuple[Volume, NDArray[np.bool_]]:
    """A scan on other voxels by cubic interpolation, at least 0 and 0 outside its brain; the brain there."""
    inside = resample(image.with_data(mask.astype(np.float32)), grid, order=1) > 0.5
    values = np.where(inside, np.maximum(resample(image, grid, order=3), 0), 0)
    return Volume(values.astype(np.float32), grid.affine, source=image.source), inside
