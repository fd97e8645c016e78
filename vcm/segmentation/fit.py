"""Fit a segmenter to one or a few labelled subjects: read, align, learn, write one folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from vcm.errors import VCMError
from vcm.files import check_output, sha256, versions, write_json, write_whole
from vcm.imaging.bids import parse
from vcm.imaging.geometry import model_grid
from vcm.segmentation.classifier_fit import FitSettings
from vcm.segmentation.features import DiffusionFeatures, load_denoisers
from vcm.segmentation.labelled import label_table, read_labelled
from vcm.segmentation.segmenter import FewShotSegmenter
from vcm.segmentation.slabs import check_slab
from vcm.segmentation.start import AUTO, Start, load_start
from vcm.segmentation.voices import VOICES, check_voices

#: What was learned from, beside the segmenter's own files.
RECORD = "fit.json"
#: Bytes per voxel of the model's grid that a labelled scan takes in a segmenter: image and labels.
BYTES = 6


def fit_segmenter(
    scans: Sequence[Path],
    labels: Sequence[Path],
    out: Path,
    slices: Path,
    names: Path | None = None,
    unlabelled: int | None = None,
    voices: Sequence[str] | None = None,
    time: float = 0.1,
    noisy: bool = False,
    blocks: Sequence[int] = (),
    copies: int = 12,
    voxels: int = 150_000,
    judged: int = 2,
    slab: int = 0,
    mirror: bool = True,
    start: str = AUTO,
    settings: FitSettings | None = None,
    device: torch.device | str = "cpu",
    report: Callable[[str], None] = lambda stage: None,
) -> FewShotSegmenter:
    """Write a segmenter.

    Args:
        scans: Brain-extracted T1w scans.
        labels: Their label maps, in the same order.
        out: Folder to write; must not exist yet.
        slices: Folder of the slice diffusion model.
        names: Label table with the columns index and name.
        unlabelled: Value of voxels whose label is unknown.
        voices: See FewShotSegmenter.
        time: Noise level of the features.
        noisy: Add that noise to the slices.
        blocks: Decoder blocks; empty: all.
        copies: Deformed copies of each scan.
        voxels: To learn from in all.
        judged: Copies that the trust in each voice is estimated on.
        slab: Slices of a copy whose features are in memory at a time; 0: all of them.
        mirror: See FewShotSegmenter.
        start: What the 3D U-Net begins with, see vcm.segmentation.start.
        settings: Of the perceptrons.
        device: Where to compute.
        report: Told what is done, for a progress bar.

    Returns:
        The segmenter that was written.

    Raises:
        VCMError: Nothing is written then.
    """
    if not scans or len(scans) != len(labels):
        raise VCMError(
            f"{len(scans)} scans and {len(labels)} label maps are given: give one label map for each scan, "
            "in the same order (--labels A --labels B)."
        )
    refuse_other_subjects(scans, labels)
    if out.exists():
        raise VCMError(f"{out} exists already: choose another folder for the segmenter.")
    check_output(out.parent)
    # Settings are checked before anything slow.
    heard = check_voices(VOICES if voices is None else voices, unlabelled is None)
    check_slab(slab)
    settings = settings or FitSettings()
    check_numbers(settings, copies, voxels, judged)
    if start != AUTO and "unet" not in heard:
        raise VCMError(
            f"start is {start}, but voices is {list(heard)}, and the U-Net alone begins with something: add unet, or "
            "leave start out.",
            argument="start",
        )
    features = DiffusionFeatures(load_denoisers(slices), time, noisy, blocks).to(device)
    grid = model_grid(features.spacing)
    begun = load_start(start, unlabelled is None, grid) if "unet" in heard else Start()
    nets = sum(path.stat().st_size for path in slices.rglob("*.safetensors"))
    check_output(out.parent, nets + BYTES * math.prod(grid.shape) * len(scans))
    table = label_table(labels, names, unlabelled)
    indices, titles = list(table), list(table.values())
    report("reading and aligning")
    brains = [
        read_labelled(scan, own, grid, indices, unlabelled)
        for scan, own in zip(scans, labels, strict=True)
    ]
    if unlabelled is not None and all(brain.whole for brain in brains):
        raise VCMError(
            f"unlabelled is {unlabelled}, but no voxel of a brain holds it in {labels[0].name}"
            f"{' or another map' if labels[1:] else ''}: give the number that marks unknown voxels, or leave it out where "
            "every voxel has a label.",
            argument="unlabelled",
        )
    segmenter = FewShotSegmenter(features, titles, indices)
    segmenter.slab = slab
    segmenter.fit(brains, heard, settings, copies, voxels, judged, report, mirror, begun.net)
    record = {
        "Scans": [{"name": scan.name, "sha256": sha256(scan)} for scan in scans],
        "Labels": [{"name": path.name, "sha256": sha256(path)} for path in labels],
        "Settings": {
            **asdict(settings),
            "copies": copies,
            "voxels": voxels,
            "judged": judged,
            "mirror": mirror,
        },
        "Start": begun.name,
        "StartSHA256": begun.checksums,
        "Versions": versions(),
    }

    def write(part: Path) -> None:
        segmenter.save_pretrained(part)
        write_json(part / RECORD, record)

    write_whole(out, write)
    return segmenter


def check_numbers(settings: FitSettings, copies: int, voxels: int, judged: int) -> None:
    """Refuse with VCMError numbers that nothing is learned with. Arguments as `fit_segmenter` has them."""
    given = {
        "copies": copies, "voxels": voxels, "judged": judged, "members": settings.members, "steps": settings.steps,
        "seed": settings.seed,
    }  # fmt: skip
    for name, value in given.items():
        least = 1 if name in ("voxels", "members", "steps") else 0
        if value < least:
            raise VCMError(f"{name} is {value}: choose a whole number from {least}.", argument=name)
    if not settings.patience > 0:
        raise VCMError(
            f"patience is {settings.patience:g}, a share of the steps: choose a number above 0.",
            argument="patience",
        )


def refuse_other_subjects(scans: Sequence[Path], labels: Sequence[Path]) -> None:
    """Refuse a label map that its name says is of another subject or session: on equal voxels nothing else tells.

    Args:
        scans: NIfTI files.
        labels: The label map of each.

    Raises:
        VCMError: The names of a scan and its label map contradict each other.
    """
    for scan, own in zip(scans, labels, strict=True):
        one, other = parse(scan), parse(own)
        for entity in ("sub", "ses") if one and other else ():
            assert one is not None
            assert other is not None
            if one.get(entity) and other.get(entity) and one.get(entity) != other.get(entity):
                raise VCMError(
                    f"{own.name} is given as the label map of {scan.name}, but their names tell {entity}-"
                    f"{other.get(entity)} and {entity}-{one.get(entity)}: give the label maps in the order of the scans, "
                    "or rename a file whose name is wrong.",
                    argument="labels",
                )
