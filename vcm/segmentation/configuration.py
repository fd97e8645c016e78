"""What a user may choose for `vcm pretrain slices` and `vcm segment fit | apply | suggest`. Loads nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from vcm.learning.schedule import TrainingSchedule


@dataclass
class SliceTraining(TrainingSchedule):
    """Configuration of `vcm pretrain slices`: 2D diffusion on unlabelled slices of the three views.

    Attributes:
        data: Folders that vcm prepare wrote; label maps in them are not read.
        out: Folder of the training run; the network is in its folder 'slices'.
        views: Views that the network is trained on: sagittal, coronal, axial. One view gives a
            network of that view, as in the paper; three share one network.
        objective: diffusion, or masked for a masked autoencoder of the same network, to compare with.
        crop: Edge of the square crops of slices [pixel]; a multiple of 8.
        time_power: Times are u to this power with u uniform in 0..1: above 1 draws more of the low
            noise that features are read at.
        channels: Channels of the U-Net, per level.
        groups: Groups of the group normalisation.
        head_channels: Channels per attention head of the middle block.
    """

    headings: ClassVar[dict[str, str]] = {"data": "Data and result", "channels": "Network"}

    data: list[str] = field(default_factory=list)
    out: str = "runs/slices"
    views: list[str] = field(default_factory=lambda: ["sagittal", "coronal", "axial"])
    objective: str = "diffusion"
    crop: int = 64
    time_power: float = 1.5
    channels: list[int] = field(default_factory=lambda: [24, 48, 96, 128])
    groups: int = 8
    head_channels: int = 32
    batch_size: int = 16
    learning_rate: float = 1e-3


@dataclass
class Fitting:
    """Configuration of `vcm segment fit`.

    Attributes:
        scans: Labelled T1w scans (NIfTI), with the skull or without; one, or several subjects.
        labels: Their label maps, on the voxels of the scans, in the same order.
        out: Folder for the segmenter; must not exist yet.
        names: Table with the columns index and name (.tsv) of the labels. Default: the numbers.
        unlabelled: Value in the label maps of voxels whose label is unknown, for maps that are
            drawn in some slices only. Background must be labelled then too. Default: every voxel
            is labelled.
        slices: Slice diffusion model: a name, or a folder that vcm pretrain slices wrote.
        voices: What takes part: features (diffusion features and perceptrons), atlas (the labelled
            scans warped onto the scan), unet (a 3D U-Net fitted to them). Default: all.
        time: Noise level that features are read at, 0..1.
        noisy: Add noise to the slices before features are read, as in the paper. Default: clean
            slices, which is better.
        blocks: Decoder blocks whose activations are features, 0 the deepest. Default: all.
        copies: Deformed and re-contrasted copies of each labelled scan to learn from, beside it.
        members: Perceptrons in the ensemble.
        steps: Optimiser steps of each perceptron.
        patience: Stop a perceptron when held-out voxels have not improved for this share of the
            steps.
        voxels: Voxels to learn from, over all scans and copies; bounds the memory.
        judged: Further copies that nothing learns from, to estimate how far each voice can be trusted
            per structure. 0: not estimated, and the atlas is used for every structure.
        mirror: Name each scan as the mean of itself and its mirror image, where each label has its counterpart on
            the other side. Without, each voice takes half of the time.
        start: What the 3D U-Net begins with: random weights, those of anysegmenter2mm or segmenter2mm, which learned
            to name eight tissues of other subjects, or of a folder that vcm pretrain segmenter wrote. auto:
            anysegmenter2mm where labels are drawn in some slices only, else random.
        slab: Slices of such a copy whose features are in memory at a time; 0: all of them. Fewer take less
            memory and more time.
        seed: Seed of copies, voxels and perceptrons.
        device: auto, cpu, cuda, cuda:1, mps.
    """

    headings: ClassVar[dict[str, str]] = {
        "scans": "Labelled scans and result",
        "slices": "Features",
        "copies": "Fit",
    }

    scans: list[Path] = field(default_factory=list)
    labels: list[Path] = field(default_factory=list)
    out: Path = Path("segmenter")
    names: Path | None = None
    unlabelled: int | None = None
    slices: str = "slices2mm"
    voices: list[str] = field(default_factory=list)
    time: float = 0.1
    noisy: bool = False
    blocks: list[int] = field(default_factory=list)
    copies: int = 12
    members: int = 3
    steps: int = 3200
    patience: float = 0.25
    voxels: int = 150_000
    judged: int = 2
    mirror: bool = True
    start: str = "auto"
    slab: int = 0
    seed: int = 0
    device: str = "auto"


@dataclass
class Applying:
    """Configuration of `vcm segment apply`.

    Attributes:
        model: Folder that vcm segment fit wrote.
        scans: T1w scans (NIfTI), with the skull or without, or folders of them.
        out: Folder for label maps, maps of probability and uncertainty, volumes and pictures.
        voices: As for fit. Default: those that the segmenter was fitted with, but not the features beside a
            U-Net that saw all labels at once and does well in each: they tell the uncertainty then.
        match: Give a scan the brightness of the labelled ones: auto (where it looks like one of another
            study), always or never.
        slab: Slices whose features are in memory at a time; 0: the whole brain. Fewer take less memory and
            more time.
        device: auto, cpu, cuda, cuda:1, mps.
        overwrite: Replace results that were made from other inputs.
    """

    headings: ClassVar[dict[str, str]] = {"model": "Options"}

    model: Path | None = None
    scans: list[Path] = field(default_factory=list)
    out: Path = Path("segmented")
    voices: list[str] = field(default_factory=list)
    match: str = "auto"
    slab: int = 0
    device: str = "auto"
    overwrite: bool = False


@dataclass
class Suggesting:
    """Configuration of `vcm segment suggest`.

    Attributes:
        data: Folders that vcm prepare wrote.
        split: Split of the subjects to choose from.
        others: Other scans that each one is compared with, drawn by the seed.
        show: Subjects to list.
        seed: Seed of the draw.
    """

    headings: ClassVar[dict[str, str]] = {"data": "Options"}

    data: list[str] = field(default_factory=list)
    split: str = "train"
    others: int = 8
    show: int = 10
    seed: int = 0
