"""Segment scans with a fitted segmenter, each on its own voxels; a folder of scans can be resumed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vcm.checksums import checksums_of
from vcm.errors import VCMError, VCMWarning, first_names
from vcm.files import (
    check_output,
    earlier_files,
    read_json,
    read_table,
    sha256,
    versions,
    write_set,
    write_table,
)
from vcm.imaging.brain import align_brain
from vcm.imaging.contrast import UNKNOWN, Contrast, warn_of_wrong_name
from vcm.imaging.extraction import Brain, find_brain
from vcm.imaging.geometry import from_model_grid, model_grid
from vcm.imaging.scan_files import files_below, is_t1w
from vcm.imaging.volume import Grid, Volume, read_volume, write_volume
from vcm.report.folder import write_index, write_report
from vcm.report.layers import Layer
from vcm.report.page import Page, Section, Table, picture_of
from vcm.report.picture import outlined
from vcm.report.viewer import Viewer
from vcm.segmentation.likeness import UNLIKE
from vcm.segmentation.results import ScanResults, name_of
from vcm.segmentation.segmenter import FewShotSegmenter, Prediction
from vcm.weights.contrast import find_contrast

MARK = "vcm segment apply"
#: Bytes per voxel of a scan that its results take, at most: labels, probability, uncertainty.
BYTES = 10


@dataclass(frozen=True)
class Segmented:
    """A scan's labels on its own voxels.

    Attributes:
        labels: Label map with the indices of the label table.
        probability: Of the label that was chosen, 0..1.
        uncertainty: Disagreement of the perceptrons, Jensen-Shannon divergence in 0..1.
        volumes: [mL] by name.
        spread: Standard deviation of each volume over the perceptrons [mL].
        on_grid: The brain and its classes on the model's grid, for pictures.
        brain: Of the scan, on its voxels.
        unlike: By how much it looks unlike the labelled scans, see vcm.segmentation.likeness.Alike.
        matched: Whether its brightness was matched to theirs.
        voices: Those that were heard.
    """

    labels: Volume
    probability: Volume
    uncertainty: Volume
    volumes: dict[str, float]
    spread: dict[str, float]
    on_grid: tuple[Volume, Volume]
    brain: Brain
    unlike: float | None = None
    matched: bool = False
    voices: tuple[str, ...] = ()


def segment_scan(
    scan: Volume,
    segmenter: FewShotSegmenter,
    voices: Sequence[str] | None = None,
    match: str = "auto",
) -> Segmented:
    """Segment one scan in memory.

    Args:
        scan: T1w, with its skull or without.
        segmenter: Fitted.
        voices: Some of those that it was fitted with. Default: as FewShotSegmenter.choose_voices has it.
        match: Give it the brightness of the labelled scans: auto (where it looks different, and a
            VCMWarning says so), always or never.

    Raises:
        VCMError: No whole brain is found in the scan, or its contrast is another than that of the labelled scans.
    """
    grid = model_grid(segmenter.features.spacing)
    brain = find_brain(scan)
    aligned = align_brain(scan, brain.mask, grid)
    contrast = find_contrast(aligned.image, grid, scan.source)
    _refuse_other_contrast(scan, contrast, segmenter)
    warn_of_wrong_name(contrast, scan.source)
    found = segmenter.predict(aligned.image, voices, match)
    if found.unlike is not None and found.unlike > UNLIKE:
        warnings.warn(_unlike_in_words(scan, found), VCMWarning, stacklevel=2)
    best, chosen = _to_scan(found.posterior, grid, scan, aligned.to_common)
    uncertainty = from_model_grid(found.uncertainty, grid, scan.grid, aligned.to_common)
    labels = np.asarray(segmenter.indices)[chosen]
    counts = np.bincount(chosen.ravel(), minlength=len(segmenter.names))[1:]
    volumes, spread = counts * scan.grid.voxel_volume, found.spread[1:] * grid.voxel_volume
    names = segmenter.names[1:]
    kind = np.int16 if max(segmenter.indices) < 2**15 else np.int32
    return Segmented(
        scan.with_data(labels.astype(kind)),
        scan.with_data(best),
        scan.with_data(uncertainty.clip(0, 1).astype(np.float32)),
        dict(zip(names, map(float, volumes), strict=True)),
        dict(zip(names, map(float, spread), strict=True)),
        (Volume(aligned.image, grid.affine), Volume(found.labels, grid.affine)),
        brain,
        found.unlike,
        found.matched,
        found.voices,
    )


def _refuse_other_contrast(scan: Volume, contrast: Contrast, segmenter: FewShotSegmenter) -> None:
    """What names tissues by the brightness of one contrast names others in another."""
    own, known = ({_family(n) for n in names} for names in ([contrast.name], segmenter.contrasts))
    if own <= known or not known or UNKNOWN in own | known:
        return
    fitted = " and ".join(sorted(known))
    raise VCMError(
        f"{scan.source} is {contrast.name} by its {contrast.method}, and the segmenter was fitted to {fitted} scans, so "
        f"its labels would be wrong: give {fitted} scans, fit a segmenter to a labelled {contrast.name} scan, or "
        f"if it is {fitted}, let its file name say so, such as sub-1_{sorted(known)[0]}.nii.gz."
    )


def _family(contrast: str) -> str:
    """With gadolinium or without is one."""
    return contrast.removesuffix("+gd")


def _unlike_in_words(scan: Volume, found: Prediction) -> str:
    done = "it was given theirs" if found.matched else "it was left as it is, as match=never asks"
    return (
        f"{scan.source} looks unlike the labelled scans, as scans of another study do: its brightness differs by "
        f"{found.unlike:.2f} of the range (of one study: up to {UNLIKE:g}), and {done}; look at its labels."
    )


def _to_scan(
    posterior: NDArray[np.float16], grid: Grid, scan: Volume, to_common: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Largest probability and its class on the scan's voxels, one class in memory at a time."""
    best = np.zeros(scan.data.shape, np.float32)
    chosen = np.zeros(scan.data.shape, np.int16)
    for k, probability in enumerate(posterior[1:], start=1):
        moved = from_model_grid(probability.astype(np.float32), grid, scan.grid, to_common)
        better = moved > best
        best[better], chosen[better] = moved[better], k
    background = from_model_grid(1 - posterior[0].astype(np.float32), grid, scan.grid, to_common)
    outside = best <= 1 - background
    best[outside], chosen[outside] = (1 - background)[outside], 0
    return best.clip(0, 1), chosen


def find_scans(given: Sequence[Path], out: Path | None = None) -> list[Path]:
    """Scans, and the T1w scans of folders and of folders that they link to.

    Args:
        given: Scans, or folders of them. Hidden files of a folder are left out, and maps that are made of scans.
        out: Folder of the results, which is left out where it lies in a folder that is given.

    Returns:
        The scans.

    Raises:
        VCMError: There are none, or two have one name.
    """
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = [p for p in files_below(path, [out] if out else []) if is_t1w(p)]
            if not inside:
                raise VCMError(f"No *_T1w.nii.gz lies in {path}: give scans, or a folder of them.")
            found += inside
        else:
            found.append(path)
    if not found:
        raise VCMError("No scan is given: add the path of a scan, or of a folder of them.")
    names = [name_of(path) for path in found]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise VCMError(
            f"Two scans are named {sorted(twice)[0]}, and their results would replace one another: "
            "segment them into two folders."
        )
    return found


def segment_files(
    scans: Sequence[Path],
    model: Path,
    segmenter: FewShotSegmenter,
    out: Path,
    voices: Sequence[str] | None = None,
    overwrite: bool = False,
    match: str = "auto",
    report: Callable[[str], None] = lambda name: None,
) -> list[dict[str, object]]:
    """Write the results of every scan, and a table of all of them.

    Args:
        scans: From `find_scans`.
        model: Folder of the segmenter, for the record.
        segmenter: Loaded from it.
        out: Folder for the results. A scan that was segmented there before with the same segmenter is
            left as it is.
        voices: Some of those that it was fitted with. Default: as FewShotSegmenter.choose_voices has it.
        overwrite: Replace results of other scans or segmenters.
        match: As `segment_scan` has it.
        report: Told each scan that is done.

    Returns:
        A row per scan: scan, status (done, kept, or why it was refused), volume per structure [mL].

    Raises:
        VCMError: The folder cannot be written to, a voice is unknown, or a result would replace an input or another
            result. Nothing is written then.
    """
    check_output(out)
    table = out / "volumes.tsv"
    _other_rows(table, ["scan", "status", *segmenter.names[1:]])
    settings = apply_settings(model, segmenter, voices, match)
    results = [ScanResults(path, out, _made_from(path, settings)) for path in scans]
    for result in results:
        result.refuse_to_replace(overwrite)
    rows: list[dict[str, object]] = []
    for result in results:
        row: dict[str, object] = {"scan": result.scan.name}
        if not overwrite and result.are_whole():
            row |= {"status": "kept", **result.volumes_ml()}
        else:
            try:
                found = _segment_file(result, segmenter, voices, match)
            except VCMError as error:
                if len(scans) == 1:
                    raise
                row["status"] = str(error)
            else:
                _write(found, result, segmenter)
                row |= {"status": "done", **found.volumes}
        rows.append(row)
        report(result.scan.name)
    columns = ["scan", "status", *segmenter.names[1:]]
    earlier = _other_rows(table, columns, rows)
    write_table(table, [*earlier, *rows], columns)
    _warn_of_other_settings(table, [row["scan"] for row in earlier], settings)
    if len(rows) > 1:
        named = [row | {"scan": name_of(p)} for p, row in zip(scans, rows, strict=True)]
        write_index(out, "Segmented scans", named, {"Segmenter": settings["Segmenter"]})
    return rows


def apply_settings(
    model: Path, segmenter: FewShotSegmenter, voices: Sequence[str] | None, match: str
) -> dict[str, object]:
    """What the results of any scan depend on.

    Args:
        model: Folder of the segmenter.
        segmenter: Loaded from it.
        voices: As FewShotSegmenter.choose_voices has it.
        match: As `segment_scan` has it.

    Raises:
        VCMError: The segmenter was not fitted with one of the voices.
    """
    heard = list(segmenter.choose_voices(voices))
    return {"Segmenter": checksums_of(model), "Voices": heard, "Match": match}


def _made_from(scan: Path, settings: Mapping[str, object]) -> dict[str, object]:
    """The checksum of a scan, and the settings."""
    checksum: str | None = None
    with suppress(OSError):  # who reads it says what is wrong
        checksum = sha256(scan)
    return {"SourceSHA256": checksum, **settings}


def _segment_file(
    result: ScanResults, segmenter: FewShotSegmenter, voices: Sequence[str] | None, match: str
) -> Segmented:
    """Segment one scan. Raises VCMError where it cannot be used, or its results have no room."""
    scan = read_volume(result.scan)
    check_output(result.out, BYTES * scan.data.size)
    return segment_scan(scan, segmenter, voices, match)


def _other_rows(
    table: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]] = ()
) -> list[dict[str, str]]:
    """Rows of earlier runs into the same folder, but of the scans in `rows`.

    Raises:
        VCMError: The table has other columns, so it is not of this segmenter.
    """
    if not table.is_file():
        return []
    earlier, again = read_table(table), {row["scan"] for row in rows}
    if any(list(row) != [*columns] for row in earlier):
        raise VCMError(
            f"{table} has other columns than {', '.join(columns)}: it is no table of this segmenter, so "
            "choose another folder for the results."
        )
    return [row for row in earlier if row["scan"] not in again]


def _warn_of_other_settings(
    table: Path, scans: Sequence[str], settings: Mapping[str, object]
) -> None:
    """Name the scans in a table whose volumes another segmenter found, or the same one with other settings."""
    others = []
    for scan in scans:
        said = read_json(table.with_name(f"{name_of(Path(scan))}_dseg.json"))
        if "Segmenter" in said and any(said.get(key) != settings[key] for key in settings):
            others.append(scan)
    if others:
        warnings.warn(
            f"{table} holds volumes of scans beside those of this run that were found by another segmenter, other voices "
            f"or another match, as their sidecars say ({first_names(others)}): do not compare them, or segment "
            "these scans again with --overwrite.",
            VCMWarning,
            stacklevel=3,
        )


def _write(found: Segmented, result: ScanResults, segmenter: FewShotSegmenter) -> None:
    """Write the files of one scan, and its page."""
    own = (found.labels, found.probability, found.uncertainty)
    volumes = dict(zip(result.volumes, own, strict=True))
    if found.brain.is_found_here:
        volumes[result.mask] = found.brain.as_volume(found.labels)
    writers = {path: _writer(volume) for path, volume in volumes.items()}
    image, classes = found.on_grid
    writers[result.picture] = lambda part: outlined([image.data], classes.data, part, image.affine)
    record = dict(result.made_from) | {
        "LabelMap": dict(zip(map(str, segmenter.indices), segmenter.names, strict=True)),
        **found.brain.describe(),
        "UnlikeLabelledScans": None if found.unlike is None else round(found.unlike, 4),
        "BrightnessMatched": found.matched,
        "VoicesHeard": list(found.voices),
        "MeanWithMirrorImage": segmenter.other_side is not None,
        "VolumesML": found.volumes,
        "VolumesStandardDeviationML": found.spread,
        "Trust": segmenter.trust,
        "Versions": versions(),
    }
    # The brain mask of an earlier run goes, of a scan that had its skull on then.
    write_set(result.sidecar, record, writers, earlier_files(result.sidecar, [result.scan]))
    page = partial(
        segmentation_page, result.scan, found, result.stem, result.picture, segmenter, record
    )
    write_report(result.out, page)


def _writer(volume: Volume) -> Callable[[Path], object]:
    return lambda part: write_volume(volume, part, MARK)


def segmentation_page(
    scan: Path,
    found: Segmented,
    name: str,
    picture: Path,
    segmenter: FewShotSegmenter,
    record: Mapping[str, object],
) -> Page:
    """What is shown of one scan's labels.

    Args:
        scan: Its file.
        found: Its labels.
        name: First part of the files' names.
        picture: The PNG.
        segmenter: That found them.
        record: As the sidecar has it.
    """
    names = dict(zip(segmenter.indices, segmenter.names, strict=True))
    rows = [
        (name, found.volumes[name], found.spread[name],
         *(of.get(name) for of in segmenter.trust.values()))
        for name in found.volumes
    ]  # fmt: skip
    heads = ("structure", "volume [mL]", "± [mL]", *(f"Dice of {v}" for v in segmenter.trust))
    text = (
        "±: standard deviation over the perceptrons. Dice: what each voice reached on deformed copies of "
        "the labelled scans, which nothing learned from."
    )
    overlays = [
        Layer("labels", found.labels, "labels", names, shown=True),
        Layer("uncertainty", found.uncertainty, "uncertainty"),
    ]
    return Page(
        f"{name}: segmented",
        name,
        "Labels learned from one or a few labelled scans, on the scan's own voxels.",
        facts={"scan": scan.name, "structures": str(len(found.volumes))},
        viewer=Viewer([Layer("scan", read_volume(scan))], overlays),
        sections=[
            Section("Picture", pictures=picture_of(picture, "Three planes, and with outlines.")),
            Section("Numbers", tables=[Table(heads, rows, text=text)]),
        ],
        provenance=record,
    )
