"""Pretrain the tissue segmenter that measures generated scans; stops and resumes.

loss = Dice loss of the eight classes + cross-entropy of all nine

It learns from the training scans and their label maps only, so that it can judge test subjects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from accelerate.utils import set_seed
from monai.losses.dice import DiceCELoss
from monai.networks.layers.simplelayers import GaussianFilter
from torch import Tensor, nn

from vcm.errors import VCMError
from vcm.imaging.conditions import CLASS_NAMES, NUMBER_OF_CLASSES
from vcm.imaging.prepared_set import Subject, load_prepared, with_classes
from vcm.imaging.volume import read_volume
from vcm.learning.measures import ScanMeasures, write_measures
from vcm.learning.run import TrainingRun
from vcm.metrics import dice
from vcm.nets.segmenter import TissueSegmenter
from vcm.progress import track
from vcm.report.training import write_training_report
from vcm.training.configuration import SegmenterTraining
from vcm.training.subjects import test_subjects
from vcm.weights.segmenter import record_spacing


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
    """

    images: Tensor
    classes: Tensor


class SegmenterObjective(nn.Module):
    """Dice loss and cross-entropy of a segmenter's logits."""

    def __init__(self, net: TissueSegmenter) -> None:
        super().__init__()
        self.net = net
        self.measure = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)

    def forward(self, batch: LabelledScans) -> dict[str, Tensor]:
        """loss, which is minimised."""
        return {"loss": self.measure(self.net(batch.images).float(), batch.classes)}


def pretrain_segmenter(config: SegmenterTraining) -> dict[str, float]:
    """Train, then measure Dice on the split `test`.

    Returns:
        The mean per class; test.tsv has all. Empty without test scans, and in all but the main process.

    Raises:
        VCMError: Where the data or the configuration allow no training.
    """
    if not config.data:
        raise VCMError("No data is given: add data=[FOLDER] with a folder written by vcm prepare.")
    subjects = with_classes(load_prepared(*config.data, split="train"))
    held_out = test_subjects(config.data)
    held_out = with_classes(held_out) if held_out else []
    set_seed(config.seed)
    net = TissueSegmenter(tuple(config.channels), config.groups)
    record_spacing(net, read_volume(subjects[0].image_file).grid)
    run = TrainingRun(config, net, SegmenterObjective(net))
    run.fit(lambda _: TrainingScans(subjects, config.batch_size).draw)
    if not run.is_main:
        return {}
    net.save_pretrained(run.folder / "segmenter")
    measures = write_measures(measure_segmenter(net, held_out), run.folder / "test.tsv")
    write_training_report(run.folder, "Training of a tissue segmenter", measures)
    return measures


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
        return LabelledScans(torch.stack(images), torch.stack(maps))


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
