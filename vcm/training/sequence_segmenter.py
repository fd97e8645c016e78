"""Pretrain a segmenter of several sequences that knows tissues and tumours; stops and resumes.

loss = cross-entropy of all labels, in which the parts of a tumour weigh more + Dice loss of the labels that a batch has

What it learns from is drawn: sequences of deformed training brains with simulated tumours and lesions (see
vcm.imaging.random_sequences). Its use is to begin a few-shot segmentation of several sequences with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from accelerate.utils import set_seed
from monai.losses.dice import DiceLoss
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from vcm.errors import VCMError
from vcm.imaging.conditions import NUMBER_OF_CLASSES
from vcm.imaging.deformation import DeformationSizes
from vcm.imaging.random_sequences import LABELS, SEQUENCES, Sequences, draw_sequences
from vcm.imaging.scan_pool import ScanPool, load_pool
from vcm.learning.batches import Draw
from vcm.learning.measures import ScanMeasures, write_measures
from vcm.learning.origin import Origin
from vcm.learning.processes import Processes
from vcm.learning.run import TrainingRun
from vcm.metrics import dice
from vcm.nets.memory_format import channels_last_on_cpu
from vcm.nets.segmenter import TissueSegmenter
from vcm.progress import track
from vcm.report.training import Measured, write_training_report
from vcm.training.configuration import SequenceSegmenterTraining
from vcm.training.segmenter import start_from
from vcm.weights.segmenter import record_training, segmenter_folder

#: Of the deformations: scans of a case lie as scanners had them, farther from each other than prepared ones do.
SIZES = DeformationSizes(
    coarse=4.0, fine=1.5, rotation=0.12, scale=0.07, shift=3.0, gain=0.03, gamma=0.1
)
#: How many times a voxel of a tumour's part counts in the cross-entropy.
RARE = 3.0
#: Share of the crops of a batch that lie around a voxel of a tumour or lesion, where the brain has one.
AROUND_TUMOUR = 0.5
#: Brains that a finished run is measured on are drawn with this seed.
MEASURED_WITH = 0


class LabelledCrops(NamedTuple):
    """What the segmenter learns from.

    Attributes:
        images: Sequences in 0..1 (B, 4, X, Y, Z).
        labels: Places of LABELS (B, 1, X, Y, Z).
    """

    images: Tensor
    labels: Tensor


class SequenceObjective(nn.Module):
    """Dice loss and cross-entropy of a segmenter's logits."""

    def __init__(self, net: TissueSegmenter) -> None:
        super().__init__()
        self.net = net
        self.of_labels = DiceLoss(
            include_background=False, to_onehot_y=True, softmax=True, batch=True,
            smooth_nr=1.0, smooth_dr=1.0, reduction="none",
        )  # fmt: skip
        weights = torch.ones(len(LABELS))
        weights[NUMBER_OF_CLASSES + 1 :] = RARE
        self.weights = weights

    def forward(self, batch: LabelledCrops) -> dict[str, Tensor]:
        """loss, which is minimised, and of it the cross-entropy."""
        logits, labels = self.net(batch.images).float(), batch.labels.long()
        weights = self.weights.to(logits.device)
        entropy = functional.cross_entropy(logits, labels[:, 0], weight=weights)
        losses = self.of_labels(logits, labels).flatten()
        # Dice of nothing with anything pulls at nothing.
        there = torch.bincount(labels.flatten(), minlength=len(LABELS))[1:] > 0
        of_labels = losses[there].mean() if there.any() else losses.sum() * 0
        return {"loss": entropy + of_labels, "entropy": entropy.detach()}


def pretrain_sequence_segmenter(config: SequenceSegmenterTraining) -> dict[str, float]:
    """Train on the split `train` and save the network in out/segmenter.

    Returns:
        Mean Dice per label that is there, of brains drawn of the split `validation`, and error, 1 - the mean of these,
        where validate_every asks for it; else the losses of the last step. Empty in all but the main process.

    Raises:
        VCMError: Where the data or the configuration allow no training.
    """
    if not config.data:
        raise VCMError("No data is given: add data=[FOLDER] with a folder written by vcm prepare.")
    if config.start:
        segmenter_folder(config.start, "start")
    pool = load_pool(config.data, "train")
    held_out = load_pool(config.data, "validation") if config.validate_every else None
    check_crop(config, pool.grid.shape)
    set_seed(config.seed)
    channels = tuple(config.channels)
    net = TissueSegmenter(channels, config.groups, len(LABELS), inputs=len(SEQUENCES))
    if config.start:
        start_from(net, config.start)
    record_training(net, pool.grid, "any", SEQUENCES)
    run = TrainingRun(config, net, SequenceObjective(net), Origin(scans=pool.checksums()))

    def prepare(processes: Processes) -> Draw:
        channels_last_on_cpu(net, processes.device)
        return CropDraws(pool, config)

    def validate() -> dict[str, float]:
        assert held_out is not None
        rows = measure_sequence_segmenter(net.to(run.device), held_out, config)
        means = write_measures(rows, run.folder / "validation_brains.tsv", first="drawn")
        there = {name: value for name, value in means.items() if not np.isnan(value)}
        return {"error": 1 - float(np.mean(list(there.values()))), **there}

    run.fit(prepare, validate if held_out is not None else None, criterion="error")
    if not run.is_main:
        return {}
    net.cpu().save_pretrained(run.folder / "segmenter")
    measures = validate() if held_out is not None else run.losses
    measured: Measured = "validation" if held_out is not None else "training"
    title = "Training of a segmenter of several sequences"
    write_training_report(run.folder, title, measures, measured)
    return measures


def check_crop(config: SequenceSegmenterTraining, shape: Sequence[int]) -> None:
    """Raise VCMError where the network's coarsest voxels do not fill a crop, or the scans are smaller than they."""
    coarsest = 2 ** (len(config.channels) - 1)
    if config.crop < coarsest or config.crop % coarsest:
        raise VCMError(
            f"crop is {config.crop}: choose a multiple of {coarsest}, the edge of the coarsest voxels of "
            f"{len(config.channels)} levels of channels."
        )
    if min(shape) < coarsest:
        raise VCMError(
            f"The scans have {tuple(shape)} voxels, fewer than the coarsest voxels of {len(config.channels)} levels of "
            f"channels span ({coarsest}): choose fewer channels."
        )


class CropDraws:
    """Crops of brains that are deformed, given a tumour, and scanned in four sequences.

    Args:
        pool: Of T1w scans with their label maps.
        config: Of the run.
    """

    def __init__(self, pool: ScanPool, config: SequenceSegmenterTraining) -> None:
        self.pool, self.batch_size = pool, config.batch_size
        self.sizes = SIZES.times(config.deform)
        coarsest = 2 ** (len(config.channels) - 1)
        self.edges = np.minimum(config.crop, np.array(pool.grid.shape) // coarsest * coarsest)

    def __call__(self, random: np.random.Generator) -> LabelledCrops:
        """One batch, of crops of one brain; a function of the generator alone."""
        brain = draw_brain(self.pool, self.sizes, random)
        parts = np.argwhere(brain.labels > NUMBER_OF_CLASSES)
        images, labels = [], []
        for place in range(self.batch_size):
            around = len(parts) and place < AROUND_TUMOUR * self.batch_size
            voxel = parts[int(random.integers(len(parts)))] if around else None
            box = self._box(voxel, random)
            images.append(brain.images[(slice(None), *box)])
            labels.append(brain.labels[box][None])
        return LabelledCrops(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels)))

    def _box(
        self, voxel: NDArray[np.int64] | None, random: np.random.Generator
    ) -> tuple[slice, ...]:
        """A crop around that voxel, or anywhere."""
        last = np.array(self.pool.grid.shape) - self.edges
        low = random.integers(0, last + 1)
        if voxel is not None:
            low = np.clip(voxel - random.integers(0, self.edges), 0, last)
        return tuple(slice(int(a), int(a + e)) for a, e in zip(low, self.edges, strict=True))


def draw_brain(pool: ScanPool, sizes: DeformationSizes, random: np.random.Generator) -> Sequences:
    """The sequences of one deformed brain of the pool."""
    brain = pool.make(pool.draw(1, sizes, random))
    image, classes = brain.images[0, 0].numpy(), brain.classes[0, 0].numpy()
    return draw_sequences(image, classes, pool.grid.spacing[0], random)


@torch.inference_mode()
def measure_sequence_segmenter(
    net: TissueSegmenter, pool: ScanPool, config: SequenceSegmenterTraining
) -> list[ScanMeasures]:
    """Dice per label of drawn brains, the same every time; NaN where a brain lacks the label.

    Args:
        net: The network.
        pool: Of scans that it was not trained on.
        config: Of the run; tells how many.
    """
    rows = []
    sizes = SIZES.times(config.deform)
    edge = 2 ** (len(config.channels) - 1)
    for number in track(range(config.validation_brains), "Measuring"):
        brain = draw_brain(pool, sizes, np.random.default_rng((MEASURED_WITH, number)))
        inside = tuple(slice(0, n // edge * edge) for n in brain.labels.shape)
        image = torch.from_numpy(brain.images[(slice(None), *inside)])[None].to(net.device)
        truth = torch.from_numpy(brain.labels[inside])
        overlap = dice(net.classes(image)[0].cpu(), truth, len(LABELS) - 1).tolist()
        rows.append(ScanMeasures(str(number), dict(zip(LABELS[1:], overlap, strict=True))))
    return rows
