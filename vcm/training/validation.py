"""What a training run of a module is watched by: the same subjects, noise and seeds every time.

The loss is the criterion, over fixed draws whose times lie one in each of a few bins; samples tell
the rest: PSNR against the subject's own scan, Dice of a segmenter, and a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vcm.imaging.conditions import NUMBER_OF_CLASSES
from vcm.imaging.prepared_set import Subject
from vcm.learning.batches import moved
from vcm.metrics import dice, psnr
from vcm.nets.segmenter import TissueSegmenter
from vcm.pipeline import VCMPipeline
from vcm.report.picture import mosaic
from vcm.training.batches import ModuleBatch
from vcm.training.latents import LatentSet
from vcm.weights.segmenter import segment_on

#: Times are drawn one per bin; the loss at each is logged.
BINS = 5
#: Denoising steps of a validation sample.
STEPS = 10
#: A batch -> named losses; of a module, `steered` among them.
Objective = Callable[[ModuleBatch], dict[str, Tensor]]


class Measured(NamedTuple):
    """One subject: loss per bin of time, PSNR [dB], Dice (None: not measured), sample and scan."""

    losses: list[float]
    psnr: float
    dice: float | None
    sample: NDArray[np.float32]
    real: NDArray[np.float32]


@dataclass(frozen=True)
class Validation:
    """Measures the module inside `pipeline` as it is, on the device where that is.

    Attributes:
        pipeline: With the module that is trained.
        objective: Gives the loss `steered` of the same module.
        subjects: Held out of training.
        latents: Of the subjects, in their order, with the conditions that the module reads.
        segmenter: None: adherence is not measured.
        picture: Written anew by each validation.
    """

    pipeline: VCMPipeline
    objective: Objective
    subjects: Sequence[Subject]
    latents: LatentSet
    segmenter: TissueSegmenter | None
    picture: Path

    def __call__(self) -> dict[str, float]:
        """loss, loss_BIN, psnr [dB] and dice, means over the subjects."""
        measured = [self.measure(n) for n in range(len(self.subjects))]
        bins = np.mean([m.losses for m in measured], 0)
        values = {"loss": float(np.mean(bins))}
        values |= {f"loss_{n + 1}of{BINS}": float(loss) for n, loss in enumerate(bins)}
        values["psnr"] = float(np.mean([m.psnr for m in measured]))
        overlap = [m.dice for m in measured if m.dice is not None]
        names = [f"{s.subject}, {what}" for s in self.subjects for what in ("sample", "real")]
        images = [x for m in measured for x in (m.sample, m.real)]
        mosaic(images, self.picture, names, self.latents.grid.affine)
        return values | ({"dice": float(np.mean(overlap))} if overlap else {})

    def measure(self, n: int) -> Measured:
        """Everything about one subject; what is random depends on its number alone."""
        subject, condition = self.subjects[n], self._condition(n)
        sample, real = self._sample(n, condition), subject.image()
        overlap = None
        if self.segmenter is not None and subject.has_classes:
            classes = segment_on(self.segmenter.to(self.pipeline.device), sample, self.latents.grid)
            truth = torch.from_numpy(subject.classes())
            overlap = float(dice(torch.from_numpy(classes), truth, NUMBER_OF_CLASSES).nanmean())
        images = [torch.from_numpy(x)[None, None] for x in (sample, real)]
        found = psnr(images[0], images[1], images[1] > 0)
        return Measured(self._losses(n, condition), found, overlap, sample, real)

    def _condition(self, n: int) -> list[Tensor]:
        """Each condition (1, C_k, X, Y, Z), on the CPU."""
        numbers = range(len(self.latents.conditions))
        drawn = (self.latents.volume(k, n, np.random.default_rng((n, k))) for k in numbers)
        return [torch.from_numpy(volume)[None] for volume in drawn]

    def _losses(self, n: int, condition: list[Tensor]) -> list[float]:
        """The steered loss at the middle of each bin of time."""
        mu, sigma = self.latents.posterior(n)
        keep = torch.ones(1, len(condition), dtype=torch.bool)
        losses = []
        for bin_ in range(BINS):
            time = torch.tensor([[(bin_ + 0.5) / BINS]])
            random = np.random.default_rng((n, int(1000 * float(time))))
            shape = (2, 1, 1, *mu.shape)
            spread, noise = torch.from_numpy(random.standard_normal(shape, dtype=np.float32))
            z, inputs = mu + sigma * spread, self.latents.inputs[n][None]
            batch = ModuleBatch(torch.cat(condition, 1), z, noise, time, inputs, keep)
            losses.append(float(self.objective(moved(batch, self.pipeline.device))["steered"]))
        return losses

    def _sample(self, n: int, condition: list[Tensor]) -> NDArray[np.float32]:
        """(X, Y, Z), from the same noise at every validation."""
        volumes = self.pipeline(
            condition,
            self.latents.inputs[n][None],
            num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(n),
            output_type="np",
        ).volumes
        return np.asarray(volumes[0, 0], dtype=np.float32)
