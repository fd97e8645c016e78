"""What a user may choose for every training that restores images beside a discriminator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from vcm.learning.schedule import MAY_CHANGE, TrainingSchedule


@dataclass
class RestorationTraining(TrainingSchedule):
    """What such trainings have in common; the losses are in vcm.training.restoration.

    Attributes:
        discriminator_channels: Channels of the discriminator, per level.
        mse_weight: Weight of the squared error in the loss, beside the absolute error.
        detail_weight: Weight of the absolute error of what a blur takes away.
        adversarial_weight: Weight of the adversarial loss; 0: the discriminator rests.
        adversarial_from: Step from which the adversarial loss counts, rising over 200 steps.
        penalty_weight: Weight of the penalties on the discriminator's gradients.
        instance_noise: Standard deviation of noise on all that the discriminator sees, so that it
            does not judge by what no eye sees, such as exact zeros.
    """

    may_change = MAY_CHANGE | {
        "data", "adversarial_weight", "detail_weight", "batch_size", "mixed_precision"
    }  # fmt: skip
    headings: ClassVar[dict[str, str]] = {"discriminator_channels": "Losses"}

    discriminator_channels: list[int] = field(default_factory=lambda: [32, 64, 96])
    mse_weight: float = 5.0
    detail_weight: float = 1.0
    adversarial_weight: float = 0.0
    adversarial_from: int = 0
    penalty_weight: float = 0.002
    instance_noise: float = 0.0
