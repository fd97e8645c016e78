"""Pretrain the tissue segmenter that measures generated scans; stops and resumes.

loss = Dice loss of the eight classes + cross-entropy of all nine
     + Dice loss + weighted cross-entropy of lesions, for a segmenter of any contrast

It learns from the training scans and their label maps only, so that it can judge test subjects. Scans of any
contrast are made of them as SynthSeg does (Billot et al., Medical Image Analysis 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from accelerate.utils import set_seed
from monai.losses.dice import DiceCELoss, DiceLoss
from monai.networks.layers.simplelayers import GaussianFilter
from torch import Tensor, nn
from torch.nn import functional

from vcm.errors import VCMError
from vcm.imaging.conditions import CLASS_NAMES, NUMBER_OF_CLASSES
from vcm.imaging.deformation import DeformationSizes
from vcm.imaging.prepared_set import Subject, check_one_grid, load_prepared, with_classes
from vcm.imaging.random_scan import draw_scans
from vcm.imaging.scan_checksums import check_apart, scan_checksums
from vcm.imaging.scan_pool import ScanPool, load_pool
from vcm.imaging.volume import read_volume
from vcm.learning.batches import Draw
from vcm.learning.measures import ScanMeasures, write_measures
from vcm.learning.origin import Origin
from vcm.learning.processes import Processes
from vcm.learning.run import TrainingRun
from vcm.metrics import dice
from vcm.nets.more_inputs import for_inputs
from vcm.nets.segmenter import TissueSegmenter
from vcm.progress import track
from vcm.report.training import write_training_report
from vcm.training.configuration import SegmenterTraining, check_share
from vcm.training.subjects import test_subjects
from vcm.weights.segmenter import load_segmenter, record_training, segmenter_folder

#: What the scans of a training are made into.
CONTRASTS = ("t1w", "any")
#: What is more than this much lesion is one; how many times a voxel of a lesion counts.
LESION, RARE = 0.5, 10.0


@dataclass(frozen=True)
class Appearance:
    """x -> gain * x^gamma, blurred by a Gaussian of `blur` [voxel], plus noise of spread `noise`."""

    gain: float = 1.0
    gamma: float = 1.0
    blur: float = 0.0
    noise: float = 0.0

    def apply(self, image: Tensor, noise: Tensor) -> Tensor:
        """Image and unit noise (1, X, Y, Z) -> image in 0..1."""
        changed = self.gain * image.pow(self.gamma)
        if self.blur > 0:
            changed = GaussianFilter(3, self.blur)(changed[None])[0]
        return (changed + self.noise * noise).clamp(0, 1)


def draw_appearance(random: np.random.Generator) -> Appearance:
    """Gain within 10 %, gamma within a factor of 1.2, noise up to 0.03; half are blurred."""
    return Appearance(
        float(random.uniform(0.9, 1.1)),
        float(np.exp(random.uniform(-0.2, 0.2))),
        float(random.uniform(0.3, 0.8)) if random.random() < 0.5 else 0.0,
        float(random.uniform(0.0, 0.03)),
    )


class LabelledScans(NamedTuple):
    """What the segmenter learns from.

    Attributes:
        images: Scans in 0..1 (B, 1, X, Y, Z).
        classes: Class maps 0..8, of the same shape.
        lesions: 1 in lesions, of the same shape; empty for scans without.
    """

    images: Tensor
    classes: Tensor
    lesions: Tensor


class SegmenterObjective(nn.Module):
    """Dice loss and cross-entropy of a segmenter's logits."""

    def __init__(self, net: TissueSegmenter) -> None:
        super().__init__()
        self.net = net
        self.of_classes = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
        self.of_lesions = DiceLoss(sigmoid=True, batch=True)

    def forward(self, batch: LabelledScans) -> dict[str, Tensor]:
        """loss, which is minimised, and of it the part of the lesions where they are known."""
        count = self.net.out_classes
        logits = self.net(batch.images).float()
        loss = self.of_classes(logits[:, :count], batch.classes)
        if not batch.lesions.numel():
            return {"loss": loss}
        lesions = self._of_lesions(logits[:, count:], batch.lesions)
        return {"loss": loss + lesions, "lesions": lesions.detach()}

    def _of_lesions(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Cross-entropy that weighs the few voxels of lesions more, and Dice loss where there are any."""
        weight = torch.tensor(RARE, device=logits.device)
        entropy = functional.binary_cross_entropy_with_logits(logits, truth, pos_weight=weight)
        if not truth.any():  # Dice of nothing with anything pulls at nothing
            return entropy
        dice_loss: Tensor = self.of_lesions(logits, truth)
        return entropy + dice_loss


def pretrain_segmenter(config: SegmenterTraining) -> dict[str, float]:
    """Train, then measure Dice on the split `test`.

    Returns:
        The mean per class; test.tsv has all. Empty without test scans, and in all but the main process.

    Raises:
        VCMError: Where the data or the configuration allow no training.
    """
    if not config.data:
        raise VCMError("No data is given: add data=[FOLDER] with a folder written by vcm prepare.")
    if config.contrasts not in CONTRASTS:
        raise VCMError(f"contrasts is {config.contrasts}: choose {' or '.join(CONTRASTS)}.")
    check_share("masses", config.masses)
    if not config.deform >= 0:
        raise VCMError(f"deform is {config.deform:g}, a factor: choose 0 or more.")
    if config.start:
        segmenter_folder(config.start, "start")
    any_contrast = config.contrasts == "any"
    subjects = with_classes(load_prepared(*config.data, split="train"))
    held_out = test_subjects(config.data)
    held_out = with_classes(held_out) if held_out else []
    check_apart(subjects, held_out)
    check_one_grid([*subjects, *held_out])
    grid = read_volume(subjects[0].image_file).grid
    check_patch(config, grid.shape)
    set_seed(config.seed)
    net = TissueSegmenter(
        tuple(config.channels), config.groups, patch=config.patch, lesions=any_contrast
    )
    if config.start:
        start_from(net, config.start)
    record_training(net, grid, config.contrasts)
    run = TrainingRun(config, net, SegmenterObjective(net), Origin(scans=scan_checksums(subjects)))

    def prepare(processes: Processes) -> Draw:
        if not any_contrast:
            return TrainingScans(subjects, config.batch_size).draw
        sizes = DeformationSizes().times(config.deform)
        pool = load_pool(config.data, "train")
        return partial(draw_random_scans, pool, sizes, config.masses, config.batch_size)

    run.fit(prepare)
    if not run.is_main:
        return {}
    net.save_pretrained(run.folder / "segmenter")
    measures = write_measures(measure_segmenter(net, held_out), run.folder / "test.tsv")
    write_training_report(run.folder, "Training of a tissue segmenter", measures)
    return measures


def check_patch(config: SegmenterTraining, shape: Sequence[int]) -> None:
    """Raise VCMError where the network's coarsest voxels do not fill scans of that shape."""
    if config.patch < 1:
        raise VCMError(f"patch is {config.patch}: choose 1 voxel or more.")
    coarsest = config.patch * 2 ** (len(config.channels) - 1)
    if any(n % coarsest for n in shape):
        raise VCMError(
            f"patch is {config.patch}, so {len(config.channels)} levels of channels end at blocks of {coarsest} "
            f"voxels, which do not fill the scans of {tuple(shape)}: choose another patch, or fewer channels."
        )


class TrainingScans:
    """Scans and class maps in memory, drawn mirrored half of the time and changed in appearance."""

    def __init__(self, subjects: Sequence[Subject], batch_size: int) -> None:
        self.images = torch.from_numpy(np.stack([s.image() for s in subjects]))
        self.classes = torch.from_numpy(np.stack([s.classes() for s in subjects]))
        self.batch_size = batch_size

    def draw(self, random: np.random.Generator) -> LabelledScans:
        """One batch."""
        images, maps = [], []
        for index in random.integers(len(self.images), size=self.batch_size):
            image, classes = self.images[index][None], self.classes[index][None]
            if random.random() < 0.5:
                image, classes = image.flip(1), classes.flip(1)
            appearance = draw_appearance(random)
            noise = torch.from_numpy(random.standard_normal(image.shape, dtype=np.float32))
            images.append(appearance.apply(image, noise))
            maps.append(classes)
        return LabelledScans(torch.stack(images), torch.stack(maps), torch.empty(0))


def draw_random_scans(
    pool: ScanPool,
    sizes: DeformationSizes,
    masses: float,
    batch_size: int,
    random: np.random.Generator,
) -> LabelledScans:
    """Deformed brains of the pool in random contrast and resolution, with lesions.

    Args:
        pool: Of T1w scans.
        sizes: Of the deformations.
        masses: Share of brains with a mass, 0..1.
        batch_size: B.
        random: What the draw depends on, and nothing else.
    """
    drawn = draw_scans(pool, sizes, batch_size, random, masses)
    images, classes, lesions = (
        torch.from_numpy(np.stack(values))[:, None]
        for values in zip(*((d.scan, d.classes, d.lesions > LESION) for d in drawn), strict=True)
    )
    return LabelledScans(images, classes, lesions.float())


def start_from(net: TissueSegmenter, folder: str) -> None:
    """Copy the weights of a saved segmenter; the channels of its last layer that it has. Raises VCMError."""
    begun = load_segmenter(folder, "start")
    own, theirs = net.state_dict(), begun.state_dict()
    if net.config.inputs > begun.config.inputs == 1:
        first = "down.0.conv1.conv.weight"
        theirs[first] = for_inputs(theirs[first], net.config.inputs)
    for name, weight in theirs.items():
        room = own.get(name)
        if room is None or room.shape[1:] != weight.shape[1:] or len(room) < len(weight):
            raise VCMError(
                f"The segmenter in {folder} has other sizes than this run's ({name} differs): give the run "
                f"the channels and patch in {folder}/config.json, or start without it."
            )
        room[: len(weight)] = weight
    net.load_state_dict(own)


@torch.inference_mode()
def measure_segmenter(net: TissueSegmenter, subjects: Sequence[Subject]) -> list[ScanMeasures]:
    """Dice per class; NaN where the subject's map lacks the class."""
    rows = []
    for subject in track(subjects, "Measuring") if subjects else ():
        image = torch.from_numpy(subject.image())[None, None].to(net.device)
        truth = torch.from_numpy(subject.classes())
        overlap = dice(net.classes(image)[0].cpu(), truth, NUMBER_OF_CLASSES).tolist()
        values = dict(zip(CLASS_NAMES[1:], overlap, strict=True))
        rows.append(ScanMeasures(subject.subject, values))
    return rows
