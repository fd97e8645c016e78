"""A labelled subject on the model's grid: the scan, its labels as 0..C-1, and where they are unknown.

Labels come whole, or drawn in some slices only. Knows files, names of labels and the rigid alignment;
nothing of networks.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from vcm.errors import VCMError, VCMWarning
from vcm.imaging.brain import align_brain
from vcm.imaging.contrast import UNKNOWN as UNKNOWN_CONTRAST
from vcm.imaging.contrast import warn_of_wrong_name
from vcm.imaging.extraction import find_brain
from vcm.imaging.geometry import to_model_grid
from vcm.imaging.participants import read_rows
from vcm.imaging.volume import (
    Grid,
    Volume,
    distinct,
    read_label_map,
    read_volume,
    refuse_other_voxels,
)
from vcm.segmentation.map_checks import refuse_scan, refuse_slices
from vcm.weights.contrast import find_contrast

#: Marks voxels whose label is unknown.
UNKNOWN = -1


@dataclass(frozen=True)
class LabelledBrain:
    """One labelled subject.

    Attributes:
        image: (X, Y, Z) in 0..1, 0 outside the brain.
        labels: (X, Y, Z) of 0..C-1 in the order of the label table, UNKNOWN where not labelled.
        source: Name of the scan.
        contrast: Of the scan, as vcm.imaging.contrast names it.
    """

    image: NDArray[np.float32]
    labels: NDArray[np.int16]
    source: str = "scan"
    contrast: str = UNKNOWN_CONTRAST

    @property
    def whole(self) -> bool:
        """Whether every brain voxel is labelled."""
        return not bool(np.any(self.labels[self.image > 0] == UNKNOWN))


def read_labelled(
    scan: Path, labels: Path, grid: Grid, indices: Sequence[int], unlabelled: int | None
) -> LabelledBrain:
    """Read, check and align one subject.

    Args:
        scan: Brain-extracted T1w scan.
        labels: Its label map, on its voxels.
        grid: Of the slice diffusion model.
        indices: Labels in the file, in the order of the classes; the first is background.
        unlabelled: Value of unknown voxels; None: there are none.

    Raises:
        VCMError: The files do not fit each other, a label is not in the table, or the map is a scan, or drawn in
            slices without unlabelled.
    """
    image, found = read_volume(scan), read_label_map(labels)
    refuse_other_voxels(found, image, "give the label map on the voxels of its scan")
    refuse_scan(found)
    table = {index: k for k, index in enumerate(indices)}
    if unlabelled is not None:
        table[unlabelled] = UNKNOWN
    present = distinct(found.data)
    strange = [int(v) for v in present if int(v) not in table]
    if strange:
        raise VCMError(
            f"{labels.name} holds the labels {strange[:8]}, which the label table does not name: "
            "add them to it, or give another map."
        )
    lookup = np.array([table[int(index)] for index in present], np.int16)
    numbered = found.with_data(lookup[np.searchsorted(present, found.data)])
    if unlabelled is not None and not np.any(numbered.data == 0):
        raise VCMError(
            f"{labels.name} holds no background (label {indices[0]}): label the background region too, "
            f"and leave {unlabelled} for what is unknown."
        )
    mask = find_brain(image).mask
    refuse_slices(found, mask, unlabelled)
    brain = align_brain(image, mask, grid)
    # Moved up, so that what lies outside the scan, which becomes 0, is background.
    moved = to_model_grid(numbered, grid, brain.to_common, order=0)
    if unlabelled is not None:
        moved = with_thin_slices(moved, numbered, grid, brain.to_common)
    contrast = find_contrast(brain.image, grid, image.source)
    warn_of_wrong_name(contrast, image.source)
    return LabelledBrain(brain.image, moved.astype(np.int16), scan.name, contrast.name)


def with_thin_slices(
    moved: NDArray, labels: Volume, grid: Grid, to_common: NDArray[np.float64]
) -> NDArray:
    """Labels on the model's grid, with those of slices that are thinner than its voxels and lie between their centres.

    The nearest voxel alone would lose every other slice of a scan of 1 mm on a grid of 2 mm.

    Args:
        moved: (X, Y, Z) nearest labels on the grid, UNKNOWN where there are none.
        labels: On the voxels of the scan, UNKNOWN where not labelled.
        grid: The model's.
        to_common: World of the scan -> common space.

    Returns:
        (X, Y, Z): a voxel that was UNKNOWN has the label of the nearest labelled one whose centre lies in it.
    """
    known = np.argwhere(labels.data != UNKNOWN)
    unknown = np.argwhere(moved == UNKNOWN)
    # In these units a voxel of the grid, and any coarser one of the scan, reaches from -1 to 1.
    units = 2 * np.asarray(labels.grid.spacing) / np.maximum(labels.grid.spacing, max(grid.spacing))
    to_scan = np.linalg.inv(to_common @ labels.affine) @ grid.affine
    places = (unknown @ to_scan[:3, :3].T + to_scan[:3, 3]) * units
    # The corner of a voxel is that far from its centre, and what is not found lies beyond the last one.
    near, found = cKDTree(known * units).query(places, distance_upper_bound=np.sqrt(3))
    found, places, unknown = (x[np.isfinite(near)] for x in (found, places, unknown))
    within = np.abs(known[found] * units - places).max(1, initial=0) <= 1
    full = moved.copy()
    full[tuple(unknown[within].T)] = labels.data[tuple(known[found[within]].T)]
    return full


def label_table(
    maps: Sequence[Path], names: Path | None, unlabelled: int | None
) -> Mapping[int, str]:
    """Index in the files -> name, background first.

    Args:
        maps: Label maps.
        names: Table with the columns index and name; None: the labels that the maps hold, named by
            their numbers.
        unlabelled: Value that means unknown.

    Raises:
        VCMError: No label but background, or a table that cannot be read.
    """
    if names is not None:
        table = _names(names)
    else:
        held = {int(v) for path in maps for v in distinct(read_label_map(path).data)}
        table = {index: f"label {index}" for index in sorted(held - {unlabelled, 0})}
    table.pop(0, None)
    table.pop(unlabelled if unlabelled is not None else 0, None)
    if not table:
        raise VCMError(
            f"{', '.join(p.name for p in maps)} holds no label but background: label at least one "
            "structure."
        )
    return {0: "background"} | table


def _names(path: Path) -> dict[int, str]:
    """Index -> name, as a table has them; no index and no name twice."""
    if not path.is_file():
        raise VCMError(f"{path} does not exist: give the table of the labels.")
    rows = read_rows(path)
    if not rows or not {"index", "name"} <= rows[0].keys():
        raise VCMError(f"{path} needs the columns index and name, tab-separated.")
    table: dict[int, str] = {}
    for row in rows:
        try:
            index = int(row["index"])
        except ValueError as error:
            raise VCMError(f"{path} holds an index that is no whole number ({error}).") from error
        if index in table or not row["name"] or row["name"] in table.values():
            raise VCMError(
                f"{path} holds the index {index} with the name '{row['name']}', but every index needs a name, "
                "and no index or name may be there twice: correct the table."
            )
        table[index] = row["name"]
    return table


def refuse_unlabelled(brains: Sequence[LabelledBrain], names: Sequence[str]) -> None:
    """Raise VCMError where a subject has no voxel of a structure, or no subject one of some class."""
    empty = [brain.source for brain in brains if not np.any(brain.labels > 0)]
    if empty or not brains:
        raise VCMError(
            f"No structure is labelled in {', '.join(empty[:8]) or 'any brain'} at the model's resolution: "
            "label one, or leave the scan out."
        )
    held = {int(v) for brain in brains for v in np.unique(brain.labels)}
    missing = [name for k, name in enumerate(names) if k not in held]
    if missing:
        raise VCMError(
            f"No voxel is labelled {', '.join(missing[:8])} at the model's resolution: label some, or "
            "take the name out of the label table."
        )


def warn_of_missing_labels(brains: Sequence[LabelledBrain], names: Sequence[str]) -> None:
    """Say which structures a wholly labelled brain lacks that another one has: they are learned as background there.

    No refusal, as a structure may truly be absent: a lesion that one subject has and another has not, or what a
    surgeon took out. Nothing in a label map tells that from a structure that was not drawn; who drew it knows.

    Args:
        brains: That are learned from together.
        names: Of the classes, background first.
    """
    held = [{int(v) for v in np.unique(brain.labels)} for brain in brains]
    for number, (brain, own) in enumerate(zip(brains, held, strict=True), start=1):
        lacked = [names[k] for k in sorted(set().union(*held) - own - {UNKNOWN})]
        if lacked and brain.whole:
            warnings.warn(
                f"Labelled scan {number} of {len(brains)} ({brain.source}) has no voxel labelled "
                f"{', '.join(lacked[:8])}{' and others' if lacked[8:] else ''} at the model's resolution, as another "
                "has, so background is learned there: unless the subject lacks it, draw it, mark what is unknown with "
                "a number and give it as unlabelled, or leave it out of the label table.",
                VCMWarning,
                stacklevel=2,
            )
