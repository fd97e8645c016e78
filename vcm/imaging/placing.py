"""Bring a label map into the model's space, and say how to come back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VCMError
from vcm.imaging import conditions
from vcm.imaging.brain import to_unit_range
from vcm.imaging.conditions import IMAGE_CONDITIONS
from vcm.imaging.geometry import IDENTITY, from_model_grid, to_model_grid
from vcm.imaging.partial import as_partial
from vcm.imaging.registration import align_rigid
from vcm.imaging.volume import Grid, Volume, read_label_map, read_volume, refuse_other_voxels

#: Largest share of a condition that may fall outside the model's grid.
MOST_OUTSIDE = 0.02


@dataclass(frozen=True)
class PlacedCondition:
    """A condition on the model's grid.

    classes         (X, Y, Z) of 0..8 on `model`; None: no condition
    source          the classes (0 for a partial image alone) on the voxels it came on, None likewise
    target          the grid results go back to
    to_common       (4, 4) rigid, world of `target` -> world of `model`, RAS+ [mm]
    vocabulary      name of the table that the labels were read with
    partial         (2, X, Y, Z) on `model`: part of an image and where it is known; None: none
    """

    classes: NDArray[np.uint8] | None
    source: Volume | None
    model: Grid
    target: Grid
    to_common: NDArray[np.float64]
    vocabulary: str = ""
    partial: NDArray[np.float32] | None = None

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

    def volumes(self) -> tuple[float, float] | None:
        """(ventricular, brain) volume [mL] that the condition determines."""
        if self.source is None or self.classes is None:
            return None
        return conditions.ventricular_and_brain_volume(
            self.source.data, self.source.grid.voxel_volume
        )

    def back(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Image on the model's grid -> on the target grid, linear; 0 outside the model's view."""
        if self.target is self.model:
            return image
        moved = from_model_grid(image, self.model, self.target, self.to_common, order=1)
        return np.clip(moved, 0, 1).astype(np.float32)


def nowhere(model: Grid) -> PlacedCondition:
    """No condition: results lie on the model's own grid."""
    return PlacedCondition(None, None, model, model, IDENTITY)


def place_label_map(path: Path, labels: str, model: Grid) -> PlacedCondition:
    """Read a label map and align it rigidly to the common space. Raises VCMError.

    labels: a vocabulary's name, a YAML table, or 'auto'.
    """
    found = read_label_map(path)
    vocabulary = (
        conditions.guess_vocabulary(found.data, path.name)
        if labels == "auto"
        else conditions.load_vocabulary(labels)
    )
    source = found.with_data(vocabulary.to_classes(found.data, path.name))
    _refuse_implausible(source)
    to_common = align_rigid(_around_brain(conditions.as_contrast(source)))
    classes = to_model_grid(source, model, to_common, order=0).astype(np.uint8)
    _refuse_outside(source, classes, model)
    return PlacedCondition(classes, source, model, source.grid, to_common, vocabulary.name)


def place_partial(path: Path, known: Path, before: PlacedCondition) -> PlacedCondition:
    """Add a partial image, with the mask of what is known of it, to what is placed. Raises VCMError.

    With a label map it follows that map's alignment, so both must lie in one world; alone it is
    aligned by the part that is known.
    """
    image, mask = read_volume(path), read_volume(known)
    refuse_other_voxels(mask, image, "give a mask on the voxels of the image")
    shown = (mask.data > 0.5) & (image.data > 0)
    if not shown.any():
        raise VCMError(f"{known.name} leaves nothing of {path.name} known: it is 1 where it is.")
    part = image.with_data(np.where(shown, image.data, 0).astype(np.float32))
    alone = before.source is None
    to_common = align_rigid(part) if alone else before.to_common
    model = before.model
    known_there = to_model_grid(
        mask.with_data((mask.data > 0.5).astype(np.float32)), model, to_common, order=0
    )
    shown_there = to_model_grid(part.with_data(shown.astype(np.float32)), model, to_common, order=1)
    values, _ = to_unit_range(to_model_grid(part, model, to_common, order=1), shown_there > 0.5)
    placed = as_partial(values, known_there > 0.5)
    target = image.grid if alone else before.target
    source = image.with_data(np.zeros(image.data.shape, np.uint8)) if alone else before.source
    return replace(before, partial=placed, to_common=to_common, target=target, source=source)


def _around_brain(picture: Volume, margin: int = 4) -> Volume:
    """Cut to the labelled box, so that the registration reads no empty space."""
    positions = np.argwhere(picture.data > 0)
    low = np.maximum(positions.min(0) - margin, 0)
    high = positions.max(0) + margin + 1
    affine = picture.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    i, j, k = (slice(a, b) for a, b in zip(low, high, strict=True))
    return Volume(picture.data[i, j, k], affine, picture.header, picture.source)


def _refuse_implausible(source: Volume) -> None:
    labelled = float((source.data > 0).sum()) * source.grid.voxel_volume
    low, high = conditions.PLAUSIBLE_BRAIN
    if not low < labelled < high:
        raise VCMError(
            f"{source.source} labels {labelled:.0f} mL as brain, expected {low:.0f} to {high:.0f} mL: "
            "give a whole-brain label map, and check its voxel size and --labels."
        )


def _refuse_outside(source: Volume, classes: NDArray[np.uint8], model: Grid) -> None:
    before = float((source.data > 0).sum()) * source.grid.voxel_volume
    outside = 1 - float((classes > 0).sum()) * model.voxel_volume / before
    if outside > MOST_OUTSIDE:
        raise VCMError(
            f"{100 * outside:.0f} % of the labelled brain in {source.source} falls outside the model's "
            f"field of view after alignment (at most {100 * MOST_OUTSIDE:.0f} %): check that the map "
            "shows one whole upright head, and its header's orientation."
        )
