"""What a user may choose for `vcm pretrain super-resolution`.

The keys that every training run has are in vcm.learning.schedule.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from vcm.training.restoration_configuration import RestorationTraining


@dataclass
class SuperResolutionTraining(RestorationTraining):
    """Configuration of `vcm pretrain super-resolution`.

    Attributes:
        data: Folders that vcm prepare wrote, with the voxels that the network is to make, or one pack
            of scans (.npz).
        start: Folder of a network of the same sizes to go on from. Default: interpolation.
        out: Folder of the training run; the network is in its folder 'super_resolution'.
        channels: Channels at the resolution of what is read, and at half of it.
        blocks: Residual blocks of each.
        crop: Edge of the training crops, a multiple of 8 [voxel of the scans].
        blur: Least and greatest width (FWHM) of the Gaussian before 2x2x2 voxels are averaged, at
            most 3 [voxel of the scans].
        noise: Greatest standard deviation of the noise on what is read, in 0..1; each crop draws its
            own from 0 on.
    """

    may_change = RestorationTraining.may_change | {"blur", "noise"}
    headings: ClassVar[dict[str, str]] = {
        "data": "Data and result",
        "channels": "Network",
    }

    data: list[str] = field(default_factory=list)
    start: str = ""
    out: str = "runs/super_resolution"
    channels: list[int] = field(default_factory=lambda: [32, 64])
    blocks: list[int] = field(default_factory=lambda: [2, 3])
    crop: int = 64
    blur: list[float] = field(default_factory=lambda: [0.8, 1.8])
    noise: float = 0.01
    instance_noise: float = 0.004
