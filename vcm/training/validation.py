"""What a training is watched by: the same subjects, noise and seeds every time.

The loss is the criterion, over fixed draws whose times lie one in each of a few bins; samples tell
the rest: PSNR against the subject's own scan, Dice of a segmenter, and a picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vcm.imaging.conditions import NUMBER_OF_CLASSES
from vcm.imaging.prepared_set import Subject
from vcm.metrics import dice, psnr
from vcm.nets.segmenter import TissueSegmenter
from vcm.pipeline import VCMPipeline
from vcm.report.picture import mosaic

#: Times are drawn one per bin; the loss at each is logged.
BINS = 5
#: Denoising steps of a validation sample.
STEPS = 10
#: One batch as the objective takes it, with its times replaced: subject, times (R,) -> batch.
Batch = Callable[[int, Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Validation:
    """Measures the module inside `pipeline` as it is; writes `picture` anew each time.

    conditions    per subject the volumes (1, C_k, X, Y, Z) that the module reads
    inputs        (N, K) what the denoiser is told
    segmenter     None: adherence is not measured
    """

    pipeline: VCMPipeline
    objective: Any
    batch: Batch
    subjects: list[Subject]
    conditions: list[list[Tensor]]
    inputs: Tensor
    segmenter: TissueSegmenter | None
    picture: Path

    def __call__(self) -> dict[str, float]:
        """loss first, then loss_BIN, psnr [dB] and dice."""
        losses = self._losses()
        values = {"loss": float(np.mean(losses))}
        values |= {f"loss_{n + 1}of{BINS}": loss for n, loss in enumerate(losses)}
        shown, found, overlap = [], [], []
        for n, subject in enumerate(self.subjects):
            sample, real = self._sample(n), torch.from_numpy(subject.image())[None, None]
            found.append(psnr(sample.cpu(), real, real > 0))
            if self.segmenter is not None and subject.has_classes:
                own = torch.from_numpy(subject.classes())
                classes = self.segmenter.classes(sample)[0].cpu()
                overlap.append(float(dice(classes, own, NUMBER_OF_CLASSES).nanmean()))
            shown += [sample[0, 0].cpu().numpy(), real[0, 0].numpy()]
        names = [f"{s.subject}, {what}" for s in self.subjects for what in ("sample", "real")]
        mosaic(shown, self.picture, names)
        values["psnr"] = float(np.mean(found))
        return values | ({"dice": float(np.mean(overlap))} if overlap else {})

    def _losses(self) -> list[float]:
        """Mean over subjects of the steered loss at the middle of each bin of time."""
        losses = np.zeros(BINS)
        for n in range(len(self.subjects)):
            for bin_ in range(BINS):
                time = torch.tensor([(bin_ + 0.5) / BINS])
                batch = (x.to(self.pipeline.device) for x in self.batch(n, time))
                losses[bin_] += float(self.objective(*batch)["steered"])
        return [float(loss) for loss in losses / len(self.subjects)]

    def _sample(self, n: int) -> Tensor:
        """(1, 1, X, Y, Z), from the same noise at every validation."""
        conditions: list[Tensor | None] = [*self.conditions[n]]
        volumes: Tensor = self.pipeline(
            conditions,
            self.inputs[n][None],
            num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(n),
        ).volumes
        return volumes
