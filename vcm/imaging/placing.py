"""Bring a label map or a part of an image onto the model's grid, and say how results come back.

Knows files, grids [mm] and the rigid registration; nothing of networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Header
from numpy.typing import NDArray

from vcm.errors import VCMError
from vcm.imaging import conditions
from vcm.imaging.acquisition import isotropic_about
from vcm.imaging.background import on_black
from vcm.imaging.brain import refuse_scrambled, to_unit_range
from vcm.imaging.conditions import IMAGE_CONDITIONS
from vcm.imaging.extraction import Brain, find_brain
from vcm.imaging.geometry import (
    IDENTITY,
    from_model_grid,
    halved_grid,
    resample,
    straight_grid,
    to_model_grid,
)
from vcm.imaging.partial import as_partial
from vcm.imaging.registration import align_rigid
from vcm.imaging.upright import warn_unless_upright
from vcm.imaging.vocabulary import read_classes
from vcm.imaging.volume import Grid, Volume, read_volume, refuse_other_voxels

#: Largest share of a condition that may fall outside the model's grid.
MOST_OUTSIDE = 0.02
#: Label maps of finer voxels [mm] are aligned at 1 mm.
FINE = 0.75
#: Voxel size over that of the model, below which a target asks for detail that the model does not have.
FINER_SHARE = 0.75


@dataclass(frozen=True)
class Placement:
    """The way back from the model's grid to a scan's own voxels.

    Attributes:
        model: Grid of the model, in the common space.
        target: Grid that results go back to.
        to_common: (4, 4) rigid, world of `target` -> common space, RAS+ [mm].
        header: Of the file whose voxels `target` are; None where there is none.
    """

    model: Grid
    target: Grid
    to_common: NDArray[np.float64]
    header: Nifti1Header | None = None

    def to_scan_space(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """An image (X, Y, Z) in 0..1 on the model's grid -> the target, linear; 0 outside the model's view."""
        if self.target is self.model:
            return image
        moved = from_model_grid(image, self.model, self.target, self.to_common, order=1)
        return np.clip(moved, 0, 1, out=moved)

    @property
    def is_finer(self) -> bool:
        """Whether the target's voxels are so much finer than the model's that half of these fit better."""
        finest = self.target.voxel_volume / self.model.voxel_volume
        return float(np.cbrt(finest)) < FINER_SHARE

    def halved(self) -> Placement:
        """The way back from a grid of the same field of view with voxels of half the size."""
        return replace(self, model=halved_grid(self.model))


@dataclass(frozen=True)
class PlacedCondition:
    """What is given to the model on its own grid, and where results go back to.

    Attributes:
        placement: The way back.
        classes: (X, Y, Z) of 0..8 on the model's grid; None: no label map is given.
        vocabulary: Name of the table that the labels were read with.
        volumes: (ventricular, brain) [mL] of the label map; None without one.
        partial: (2, X, Y, Z) on the model's grid: part of an image, and 1 where it is given; None: none.
        brain: Of the image that `partial` is part of, on that image's voxels.
    """

    placement: Placement
    classes: NDArray[np.uint8] | None = None
    vocabulary: str = ""
    volumes: tuple[float, float] | None = None
    partial: NDArray[np.float32] | None = None
    brain: Brain | None = None

    def conditions(self, names: Sequence[str]) -> list[NDArray[np.float32] | None]:
        """(C, X, Y, Z) for each name, None where nothing that it is made of is given."""
        given: list[NDArray[np.float32] | None] = []
        for name in names:
            if name == "partial":
                given.append(self.partial)
            elif name in IMAGE_CONDITIONS or self.classes is None:
                given.append(None)
            else:
                given.append(conditions.as_condition(name, self.classes))
        return given


def unconditioned(model: Grid) -> PlacedCondition:
    """No condition: results lie on the model's own grid."""
    return PlacedCondition(Placement(model, model, IDENTITY))


def place_label_map(given: Path | Volume, labels: str, model: Grid) -> PlacedCondition:
    """Align a label map rigidly to the common space.

    Args:
        given: A NIfTI file of labels, or the labels in memory.
        labels: A vocabulary's name, a YAML table, or 'auto'.
        model: Grid of the model, in the common space.

    Raises:
        VCMError: The map cannot be read, its labels are not those of the vocabulary, or it shows no
            whole brain. A VCMWarning says where it does not stand upright.
    """
    source, vocabulary = read_classes(given, labels)
    _refuse_implausible(source)
    to_common = align_rigid(_contrast_of(source))
    classes = to_model_grid(source, model, to_common, order=0).astype(np.uint8)
    _refuse_outside(source, classes, model)
    picture = conditions.as_contrast(Volume(classes, model.affine))
    warn_unless_upright(picture.data, model, source.source)
    placement = Placement(model, source.grid, to_common, source.header)
    # A map of three tissues tells no ventricles, so it does not say how large they are.
    volumes = conditions.ventricular_and_brain_volume(source.data, source.grid.voxel_volume)
    return PlacedCondition(placement, classes, vocabulary.name, volumes if volumes[0] else None)


def place_partial(path: Path, known: Path, before: PlacedCondition) -> PlacedCondition:
    """Add a part of an image to what is placed.

    Intensities are scaled as in training: by the percentiles of the whole brain that the image shows, of
    which the mask selects what is kept. Of an image that shows that part alone, they are its own.

    Args:
        path: A scan of a head or a brain, or a part of a brain-extracted one.
        known: Mask on its voxels: 1 where the image is to be kept.
        before: Where a label map is placed, the part follows that map's alignment, so both must lie in
            one world; without one it is aligned by the part that is kept.

    Raises:
        VCMError: The files do not fit each other, or the mask selects no brain.
    """
    image, mask = read_volume(path), read_volume(known)
    refuse_other_voxels(mask, image, "give a mask on the voxels of the image")
    kept = mask.data > 0.5
    found = find_brain(image)
    brain = found.mask
    shown = kept & brain
    if not shown.any():
        raise VCMError(
            f"The mask {known.name} selects no brain voxel of {path.name}: set it to 1 where the image "
            "is to be kept."
        )
    image, _ = on_black(image, brain)
    placement = before.placement
    model = placement.model
    if before.classes is None:
        part = image.with_data(np.where(shown, image.data, 0).astype(np.float32))
        placement = Placement(model, image.grid, align_rigid(part), image.header)

    def moved(data: NDArray, order: int) -> NDArray:
        return to_model_grid(
            image.with_data(data.astype(np.float32)), model, placement.to_common, order
        )

    values, _ = to_unit_range(moved(image.data, 1), moved(brain, 1) > 0.5)
    if before.classes is None and found.volume > conditions.PLAUSIBLE_BRAIN[0]:
        warn_unless_upright(values, model, image.source)
    partial = as_partial(values, moved(kept, 0) > 0.5)
    return replace(before, placement=placement, partial=partial, brain=found)


def _contrast_of(classes: Volume, margin: int = 4) -> Volume:
    """A T1w-like picture of the labelled box, for the registration.

    It reads no empty space then, and no voxels finer than it can use.
    """
    box = []
    for axis in range(3):
        labelled = np.flatnonzero(classes.data.any(axis=tuple({0, 1, 2} - {axis})))
        box.append(slice(max(int(labelled[0]) - margin, 0), int(labelled[-1]) + margin + 1))
    affine = classes.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [part.start for part in box]
    cut = replace(classes, data=classes.data[tuple(box)], affine=affine)
    if min(cut.grid.spacing) < FINE:
        grid = isotropic_about(straight_grid(cut.grid) if cut.grid.is_sheared else cut.grid, 1.0)
        data = resample(cut, grid, order=0)
        cut = replace(cut, data=data, affine=grid.affine)
    return conditions.as_contrast(cut)


def _refuse_implausible(source: Volume) -> None:
    labelled = float((source.data > 0).sum()) * source.grid.voxel_volume
    low, high = conditions.PLAUSIBLE_BRAIN
    if not low < labelled < high:
        raise VCMError(
            f"{source.source} labels {labelled:.0f} mL as brain, expected {low:.0f} to {high:.0f} mL: "
            "give a whole-brain label map, and check its voxel size and the vocabulary of its labels."
        )
    refuse_scrambled(source.data > 0, source.source)


def _refuse_outside(source: Volume, classes: NDArray[np.uint8], model: Grid) -> None:
    before = float((source.data > 0).sum()) * source.grid.voxel_volume
    outside = 1 - float((classes > 0).sum()) * model.voxel_volume / before
    if outside > MOST_OUTSIDE:
        raise VCMError(
            f"{100 * outside:.0f} % of the labelled brain in {source.source} falls outside the model's "
            f"field of view after alignment (at most {100 * MOST_OUTSIDE:.0f} %): check that the map "
            "shows one whole upright head, and its header's orientation."
        )
