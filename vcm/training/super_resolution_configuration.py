"""What a user may choose for `vcm pretrain super-resolution`.

The keys that every training run has are in vcm.learning.schedule.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from vcm.learning.schedule import MAY_CHANGE, TrainingSchedule


@dataclass
class SuperResolutionTraining(TrainingSchedule):
    """Configuration of `vcm pretrain super-resolution`.

    Attributes:
        data: Folders that vcm prepare wrote, with the voxels that the network is to make, or one pack
            of scans (.npz).
        start: Folder of a network of the same sizes to go on from. Default: interpolation.
        out: Folder of the training run; the network is in its folder 'super_resolution'.
        channels: Channels at the resolution of what is read, and at half of it.
        blocks: Residual blocks of each.
        discriminator_channels: Channels of the discriminator, per level.
        crop: Edge of the training crops, a multiple of 8 [voxel of the scans].
        blur: Least and greatest width (FWHM) of the Gaussian before 2x2x2 voxels are averaged, at
            most 3 [voxel of the scans].
        noise: Greatest standard deviation of the noise on what is read, in 0..1; each crop draws its
            own from 0 on.
        mse_weight: Weight of the squared error in the loss, beside the absolute error.
        detail_weight: Weight of the absolute error of what a blur takes away.
        adversarial_weight: Weight of the adversarial loss; 0: the discriminator rests.
        adversarial_from: Step from which the adversarial loss counts, rising over 200 steps.
        penalty_weight: Weight of the penalties on the discriminator's gradients.
        instance_noise: Standard deviation of noise on all that the discriminator sees.
    """

    may_change = MAY_CHANGE | {
        "data", "adversarial_weight", "detail_weight", "blur", "noise", "batch_size", "mixed_precision"
    }  # fmt: skip
    headings: ClassVar[dict[str, str]] = {
        "data": "Data and result",
        "channels": "Network and loss",
    }

    data: list[str] = field(default_factory=list)
    start: str = ""
    out: str = "runs/super_resolution"
    channels: list[int] = field(default_factory=lambda: [32, 64])
    blocks: list[int] = field(default_factory=lambda: [2, 3])
    discriminator_channels: list[int] = field(default_factory=lambda: [32, 64, 96])
    crop: int = 64
    blur: list[float] = field(default_factory=lambda: [0.8, 1.8])
    noise: float = 0.01
    mse_weight: float = 5.0
    detail_weight: float = 1.0
    adversarial_weight: float = 0.0
    adversarial_from: int = 0
    penalty_weight: float = 0.002
    instance_noise: float = 0.004
