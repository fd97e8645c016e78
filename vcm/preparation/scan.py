"""Prepare one scan: read, mask the brain, align rigidly to MNI152, resample, scale to 0..1, measure, write."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VCMError, noted
from vcm.files import sha256, whole
from vcm.imaging.brain import align_brain
from vcm.imaging.conditions import ventricular_and_brain_volume
from vcm.imaging.content_checksum import content_checksum
from vcm.imaging.extraction import Brain, find_brain
from vcm.imaging.geometry import model_grid, to_model_grid
from vcm.imaging.source import Scan
from vcm.imaging.vocabulary import read_brain
from vcm.imaging.volume import Grid, Volume, read_volume, write_volume
from vcm.preparation.record import PreparedScan, read_record


class UnwritableSet(VCMError):
    """A scan could be prepared, but not written: nothing is wrong with it, and the next one fares no better."""


def prepare_scan(scan: Scan, out: Path, settings: dict[str, str], grid: Grid) -> PreparedScan:
    """Prepare one scan into a folder of its own, whole or not at all.

    Args:
        scan: The scan, with its label map or mask where it has one.
        out: The prepared set; the scan lies in out/NAME.
        settings: What else it is made from: 'labels' is the vocabulary's name, table or 'auto'.
        grid: Of the model.

    Returns:
        Its record; at once where it is prepared and nothing that it was made from has changed.

    Raises:
        UnwritableSet: The disk is full, or cannot be written to.
        VCMError: The scan cannot be used.
    """
    folder = out / scan.subject
    made_from = settings | {"grid": name_of_grid(grid), "image": sha256(scan.image)}
    if scan.labels:
        made_from["label_map"] = sha256(scan.labels)
        made_from.pop("segmenter", None)
    found = read_record(folder, scan.subject, made_from)
    if found is not None:
        updated = replace(
            found, participant=scan.participant, split=scan.split, age=scan.age, sex=scan.sex,
            image=scan.image.name, label_map=scan.labels.name if scan.labels else None,
        )  # fmt: skip
        if updated != found:
            updated.write(folder)
        return updated
    found_brain: Brain | None = None
    classes = None
    with noted() as notes:
        image = read_volume(scan.image)
        if scan.labels:
            mask, classes = read_brain(scan.labels, settings["labels"], image)
        else:
            found_brain = find_brain(image)
            mask = found_brain.mask
        aligned = align_brain(image, mask, grid)
    ventricles = brain = None
    moved = None
    if classes:
        moved = to_model_grid(classes, grid, aligned.to_common, order=0).astype(np.uint8)
        ventricles, brain = ventricular_and_brain_volume(classes.data, classes.grid.voxel_volume)
    prepared = PreparedScan(
        scan.subject, scan.participant, scan.split, scan.age, scan.sex, ventricles or None, brain,
        aligned.to_common.tolist(), list(aligned.intensity_range), made_from,
        scan.image.name, scan.labels.name if scan.labels else None,
        brain_mask_from=found_brain.method if found_brain else "label map", notes=notes,
        content=content_checksum(image),
    )  # fmt: skip
    skull = found_brain.as_volume(image) if found_brain and found_brain.is_found_here else None
    try:
        return _written(prepared, folder, Volume(aligned.image, grid.affine), moved, skull)
    except (VCMError, OSError) as error:
        raise UnwritableSet(str(error)) from error


def _written(
    prepared: PreparedScan,
    folder: Path,
    image: Volume,
    classes: NDArray[np.uint8] | None,
    brain: Volume | None,
) -> PreparedScan:
    """Write image, label map, brain mask and record, whole or not at all; the record with their checksums.

    The mask, of a scan that came with its skull, lies on that scan's own voxels.
    """
    name = prepared.participant_id
    with whole(folder) as part:
        part.mkdir()
        write_volume(image, part / f"{name}_T1w.nii.gz")
        if classes is not None:
            write_volume(image.with_data(classes), part / f"{name}_dseg.nii.gz")
        if brain is not None:
            write_volume(brain, part / f"{name}_desc-brain_mask.nii.gz")
        files = {path.name: sha256(path) for path in sorted(part.iterdir())}
        complete = replace(prepared, files=files)
        complete.write(part)
    return complete


def name_of_grid(grid: Grid) -> str:
    """For records: the grid of an embedded model by its spacing, any other by shape and affine."""
    spacing = grid.spacing[0]
    try:
        standard = model_grid(round(spacing, 3))
    except VCMError:
        standard = None
    if standard and standard.shape == grid.shape and np.allclose(standard.affine, grid.affine):
        return f"{spacing:g}mm"
    return f"{grid.shape} {grid.affine.round(4).tolist()}"
