"""Eight-class label maps made by a tissue segmenter: of a scan on its own voxels, and of prepared scans.

One segmenter knows T1w scans, another any contrast; where none is named, the scan decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vcm.embedded import FOR_ANY, FOR_T1W
from vcm.errors import VCMError
from vcm.files import (
    check_output,
    earlier_files,
    fingerprint,
    refuse_to_replace,
    sha256,
    versions,
    write_set,
)
from vcm.imaging.bids import ENDINGS, stem
from vcm.imaging.brain import AlignedBrain, align_brain
from vcm.imaging.conditions import class_volumes
from vcm.imaging.extraction import Brain, find_brain
from vcm.imaging.geometry import from_model_grid, model_grid, resample
from vcm.imaging.nifti import refuse_missing
from vcm.imaging.vocabulary import CLASS_NAMES
from vcm.imaging.volume import Volume, read_volume, write_volume
from vcm.nets.segmenter import TissueSegmenter
from vcm.report.folder import write_report
from vcm.report.layers import Layer
from vcm.report.page import Page, Section, Table
from vcm.report.viewer import Viewer
from vcm.weights.contrast import find_contrast
from vcm.weights.segmenter import (
    knows_any_contrast,
    load_segmenter,
    segmenter_folder,
    segmenter_grid,
)

#: Stands for one of the two embedded segmenters, by the contrast of the scan.
AUTO = "auto"


def segment(scan: Volume, segmenter: TissueSegmenter, brain: Brain | None = None) -> Volume:
    """Label the tissues of a scan.

    Args:
        scan: The scan (X, Y, Z), with its skull or without, any intensities, on any voxels; T1w, but for a
            segmenter that knows any contrast.
        brain: Where its brain is; None: it is found.
        segmenter: Names the tissues at the spacing of its training scans, wherever it lies.

    Returns:
        Classes 0..8 on the voxels of the scan, uint8. `class_volumes(found.data,
        found.grid.voxel_volume)` of vcm.imaging.conditions measures them in mL.

    Raises:
        VCMError: No whole brain is found in the scan, or it is a label map.
    """
    grid = segmenter_grid(segmenter)
    mask = (brain or find_brain(scan)).mask
    aligned = align_brain(scan, mask, grid, any_contrast=knows_any_contrast(segmenter))
    return _on_own_voxels(scan, aligned, segmenter)


def _on_own_voxels(scan: Volume, aligned: AlignedBrain, segmenter: TissueSegmenter) -> Volume:
    """Classes of an aligned brain on the voxels of its scan."""
    grid = segmenter_grid(segmenter)
    found = _classes(aligned.image, segmenter)
    back = from_model_grid(found, grid, scan.grid, aligned.to_common, order=0)
    return scan.with_data(back.astype(np.uint8))


def fingerprints(segmenter: str) -> dict[str, dict[str, str]]:
    """Checksums of the segmenters that a name stands for, by name. Raises VCMError for none."""
    names = (FOR_T1W, FOR_ANY) if segmenter == AUTO else (segmenter,)
    return {name: fingerprint(segmenter_folder(name)) for name in names}


def _label(scan: Volume, brain: Brain, segmenter: str) -> tuple[Volume, dict[str, Any]]:
    """Classes on the scan's voxels, and what the sidecar says of who found them in which contrast."""
    if segmenter != AUTO:
        return segment(scan, load_segmenter(segmenter), brain), {"LabelledBy": segmenter}
    grid = model_grid()
    aligned = align_brain(scan, brain.mask, grid, any_contrast=True)
    contrast = find_contrast(aligned.image, grid, scan.source)
    known = contrast.is_t1w and not contrast.is_in_doubt
    name = FOR_T1W if known else FOR_ANY
    found = _on_own_voxels(scan, aligned, load_segmenter(name))
    return found, {"LabelledBy": name, **contrast.describe()}


def segment_file(
    scan: Path, out: Path, segmenter: str, overwrite: bool = False
) -> dict[str, float]:
    """Label a scan in a file.

    Args:
        scan: A scan, with its skull or without.
        out: The label map to write.
        segmenter: Name of an embedded segmenter, or its folder; auto: the one for T1w scans where the scan is
            one for sure, else the one for any contrast.
        overwrite: Whether a file that is there may be replaced, if it was made from something else.

    Returns:
        Volume of each class [mL].

    Raises:
        VCMError: The scan cannot be used, or the label map cannot be written there.
    """
    refuse_missing(scan)
    if not out.name.endswith(ENDINGS):
        raise VCMError(f"{out} is no name of a label map: give one that ends in .nii or .nii.gz.")
    check_output(out.parent)
    sidecar = out.with_name(f"{stem(out)}.json")
    made_from = {"Image": sha256(scan), "Segmenter": fingerprints(segmenter)}
    mask_file = out.with_name(f"{stem(out).removesuffix('_dseg')}_desc-brain_mask.nii.gz")
    refuse_to_replace([out, mask_file, sidecar], [scan], sidecar, made_from, overwrite)
    image = read_volume(scan)
    check_output(out.parent, 2 * image.data.size)
    brain = find_brain(image)
    found, told = _label(image, brain, segmenter)
    record = {
        "Sources": scan.name, **made_from, **told, **brain.describe(), "Versions": versions(),
    }  # fmt: skip
    marks = {out: (found, "eight classes, vcm segment tissues")}
    if brain.is_found_here:
        marks[mask_file] = (brain.as_volume(image), "brain mask, vcm segment tissues")
    # What was made of another scan goes, such as the mask of one that had its skull on.
    stale = earlier_files(sidecar, [scan])
    write_set(sidecar, record, {path: _writer(*volume) for path, volume in marks.items()}, stale)
    volumes = class_volumes(found.data, found.grid.voxel_volume)
    write_report(out.parent, lambda: _page(read_volume(scan), found, stem(out), volumes, record))
    return volumes


def _page(
    scan: Volume, found: Volume, name: str, volumes: Mapping[str, float], record: Mapping[str, Any]
) -> Page:
    """What is shown of a label map."""
    names = dict(enumerate(CLASS_NAMES))
    table = Table(("class", "volume [mL]"), list(volumes.items()))
    return Page(
        f"{name}: tissues",
        name,
        "Eight tissue classes, found by vcm segment tissues on the scan's own voxels.",
        facts={
            "scan": str(record["Sources"]),
            "labelled": f"{sum(volumes.values()):.0f} mL",
            "by": str(record["LabelledBy"]),
        },
        viewer=Viewer(
            [Layer("scan", scan)], [Layer("tissues", found, "labels", names, shown=True)]
        ),
        sections=[Section("Numbers", tables=[table])],
        provenance=record,
    )


def _writer(volume: Volume, mark: str) -> Callable[[Path], object]:
    return lambda part: write_volume(volume, part, mark)


def label_prepared(image: Volume, segmenter: TissueSegmenter) -> tuple[Volume, Volume]:
    """Label a prepared scan.

    The segmenter sees its own spacing; on another grid each voxel takes the class of the nearest one.

    Args:
        image: The brain on a model's grid (X, Y, Z), 0..1, 0 outside.
        segmenter: Names the tissues, wherever it lies.

    Returns:
        Classes 0..8 on the voxels of `image`, and on those of the segmenter, where their volumes are
        measured.
    """
    coarse = segmenter_grid(segmenter)
    classes = _classes(np.clip(resample(image, coarse, order=1), 0, 1), segmenter)
    labelled = Volume(classes, coarse.affine)
    fine = resample(labelled, image.grid, order=0).astype(np.uint8)
    # Beyond the brain there is nothing to label, and a larger voxel may reach over its border.
    fine[image.data <= 0] = 0
    return Volume(fine, image.affine), labelled


@torch.inference_mode()
def _classes(image: NDArray, segmenter: TissueSegmenter) -> NDArray[np.uint8]:
    """(X, Y, Z) in 0..1 on the segmenter's grid -> classes, computed where the network lies."""
    batch = torch.from_numpy(image.astype(np.float32))[None, None]
    found: NDArray[np.uint8] = segmenter.classes(batch.to(segmenter.device))[0].cpu().numpy()
    return found
