"""Prepare: a BIDS folder becomes a training set on the model's grid.

Per subject: read, mask the brain, align rigidly to MNI152, resample, scale to 0..1, measure
volumes, write; scans without labels may be labelled by a segmenter. A subject that is done is skipped when the command runs again; one that cannot be
used is named, with the reason, in rejected.tsv.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.progress import track

from vcm import __version__
from vcm.errors import VCMError
from vcm.files import write_json, write_table
from vcm.imaging import conditions
from vcm.imaging.brain import PERCENTILES, align_brain, brain_mask
from vcm.imaging.conditions import read_classes
from vcm.imaging.covariates import COVARIATES
from vcm.imaging.dataset import Scan, find_scans
from vcm.imaging.geometry import model_grid, to_model_grid
from vcm.imaging.volume import (
    Grid,
    Volume,
    read_volume,
    write_volume,
)
from vcm.nets.segmenter import TissueSegmenter
from vcm.preparation.label import label_scan
from vcm.report.picture import mosaic
from vcm.weights.segmenter import load_segmenter

COLUMNS = ["participant_id", "split", "age", "sex", "ventricular_volume", "brain_volume"]


@dataclass(frozen=True)
class PreparedScan:
    """What is recorded beside each prepared scan (`*_prepare.json`)."""

    participant_id: str
    split: str
    age: float | None
    sex: str | None
    ventricular_volume: float | None
    brain_volume: float | None
    to_common: list[list[float]]
    intensity_range: tuple[float, float]
    source: str
    vcm_version: str = __version__
    labelled_by: str = ""


def prepare(
    folder: Path,
    out: Path,
    labels: str = "auto",
    workers: int = 2,
    grid: Grid | None = None,
    segmenter: str = "",
) -> list[PreparedScan]:
    """Prepare every scan of `folder` into `out`. Returns those accepted.

    labels: vocabulary of the `*_dseg` maps, or 'auto'; grid: of the model, by default that of brain2mm;
    segmenter: labels the scans that have no map, so that their volumes are known too; empty: none.
    Raises VCMError if nothing can be used.
    """
    scans, grid = find_scans(folder), grid or model_grid()
    net = load_segmenter(segmenter) if segmenter else None
    out.mkdir(parents=True, exist_ok=True)
    accepted: dict[str, PreparedScan] = {}
    rejected: list[dict[str, object]] = []
    with ProcessPoolExecutor(max_workers=max(1, workers)) as pool:
        jobs = {pool.submit(prepare_scan, scan, out, labels, grid): scan for scan in scans}
        for job in track(as_completed(jobs), "Preparing", total=len(jobs)):
            scan = jobs[job]
            try:
                accepted[scan.subject] = job.result()
            except VCMError as error:
                rejected.append({"participant_id": scan.subject, "reason": str(error)})
    write_table(out / "rejected.tsv", rejected, ["participant_id", "reason"])
    if not accepted:
        raise VCMError(
            f"None of the {len(scans)} scans in {folder} can be used, the first because: "
            f"{rejected[0]['reason']} See rejected.tsv."
        )
    done = [accepted[s.subject] for s in scans if s.subject in accepted]
    if net is not None:
        done = [_labelled(scan, out, segmenter, net) for scan in track(done, "Labelling")]
    write_table(out / "participants.tsv", (asdict(d) for d in done), COLUMNS)
    write_json(out / "dataset.json", _describe(done, labels, grid))
    images = [read_volume(out / d.participant_id / f"{d.participant_id}_T1w.nii.gz") for d in done]
    mosaic([v.data for v in images[:48]], out / "qc.png", [d.participant_id for d in done[:48]])
    return done


def prepare_scan(scan: Scan, out: Path, labels: str, grid: Grid) -> PreparedScan:
    """One scan; returns at once if it is done and its source has not changed."""
    folder = out / scan.subject
    record = folder / f"{scan.subject}_prepare.json"
    source = f"{scan.image.name}:{scan.image.stat().st_size}:{labels}:{_named(grid)}"
    if record.is_file():
        found = json.loads(record.read_text(encoding="utf-8"))
        if found["source"] == source and found["vcm_version"] == __version__:
            return PreparedScan(**found)
    image = read_volume(scan.image)
    classes = read_classes(scan.labels, labels, image) if scan.labels else None
    mask = classes.data > 0 if classes else brain_mask(image)
    aligned = align_brain(image, mask, grid)
    ventricles = brain = None
    if classes:
        moved_classes = to_model_grid(classes, grid, aligned.to_common, order=0).astype(np.uint8)
        ventricles, brain = conditions.ventricular_and_brain_volume(
            classes.data, classes.grid.voxel_volume
        )
        write_volume(Volume(moved_classes, grid.affine), folder / f"{scan.subject}_dseg.nii.gz")
    write_volume(Volume(aligned.image, grid.affine), folder / f"{scan.subject}_T1w.nii.gz")
    prepared = PreparedScan(
        scan.subject, scan.split, scan.age, scan.sex, ventricles, brain,
        aligned.to_common.tolist(), aligned.intensity_range, source,
    )  # fmt: skip
    write_json(record, asdict(prepared))
    return prepared


def _named(grid: Grid) -> str:
    """For records; a grid of an embedded model by its spacing."""
    spacing = grid.spacing[0]
    standard = [model_grid(s) for s in (2.0, 1.0) if np.isclose(s, spacing)]
    if (
        standard
        and standard[0].shape == grid.shape
        and np.allclose(standard[0].affine, grid.affine)
    ):
        return f"{spacing:g}mm"
    return f"{grid.shape} {grid.affine.round(4).tolist()}"


def _labelled(scan: PreparedScan, out: Path, segmenter: str, net: TissueSegmenter) -> PreparedScan:
    """The scan with a label map, made here where it has none."""
    if scan.ventricular_volume is not None:
        return scan
    stem = out / scan.participant_id / scan.participant_id
    image, classes = (stem.with_name(f"{stem.name}_{end}.nii.gz") for end in ("T1w", "dseg"))
    ventricles, brain = label_scan(image, classes, net)
    labelled = replace(
        scan, ventricular_volume=ventricles, brain_volume=brain, labelled_by=segmenter
    )
    write_json(stem.with_name(f"{stem.name}_prepare.json"), asdict(labelled))
    return labelled


def _describe(done: list[PreparedScan], labels: str, grid: Grid) -> dict[str, object]:
    def limits(name: str) -> list[float] | None:
        known = [
            getattr(d, name) for d in done if d.split == "train" and getattr(d, name) is not None
        ]
        return [min(known), max(known)] if known else None

    return {
        "vcm_version": __version__,
        "grid": {"shape": grid.shape, "affine": grid.affine.tolist(), "axes": grid.orientation},
        "percentiles": PERCENTILES,
        "labels": labels,
        "subjects": {s: sum(d.split == s for d in done) for s in sorted({d.split for d in done})},
        "train_ranges": {name: limits(name) for name in COVARIATES[1:]},
    }
