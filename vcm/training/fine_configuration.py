"""What a user may choose for `vcm pretrain band-decoder`, `fine-diffusion` and `fine-module`.

The three train a model of a band-limited latent, on brains deformed anew at every step. The keys that
every training run has are in vcm.learning.schedule.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from vcm.errors import VCMError
from vcm.learning.schedule import MAY_CHANGE, TrainingSchedule
from vcm.training.restoration_configuration import RestorationTraining


@dataclass
class BandDecoderTraining(RestorationTraining):
    """Configuration of `vcm pretrain band-decoder`.

    Attributes:
        data: Folders that vcm prepare wrote, or one pack of scans (.npz).
        start: Folder of an autoencoder of the same sizes to go on from; its latents stay as they
            are. Default: an untrained decoder, and the statistics of these scans.
        out: Folder of the training run; the autoencoder is in its folder 'autoencoder'.
        fold: Quarters of the frequencies that the latent keeps: 2 (8 channels) or 3 (27).
        decoder_channels: Channels of the decoder's finer and coarser level.
        decoder_blocks: Residual blocks of each.
        crop: Edge of the training crops, a multiple of 4 [voxel].
        noise: Most noise on a latent, in standard deviations; each crop draws its own from 0 on.
    """

    headings: ClassVar[dict[str, str]] = {
        "data": "Data and result",
        "decoder_channels": "Network",
    }

    data: list[str] = field(default_factory=list)
    start: str = ""
    out: str = "runs/band_decoder"
    fold: int = 2
    decoder_channels: list[int] = field(default_factory=lambda: [32, 64])
    decoder_blocks: list[int] = field(default_factory=lambda: [1, 2])
    crop: int = 48
    noise: float = 0.1


@dataclass
class BrainDraws(TrainingSchedule):
    """What the trainings on drawn brains have in common.

    Attributes:
        draws: Noises and times per brain and step; batch_size counts brains.
        focus: Share of the times that are drawn from a beta distribution, not uniformly, 0..1.
        focus_a: First parameter of that distribution over 0..1.
        focus_b: Second parameter.
        deform: Factor on all deformations and changes of contrast; 0: the scans as they are,
            mirrored half of the time.
    """

    may_change = MAY_CHANGE | {
        "data", "deform", "focus", "draws", "batch_size", "mixed_precision"
    }  # fmt: skip
    headings: ClassVar[dict[str, str]] = {"draws": "Samples"}

    draws: int = 2
    focus: float = 0.5
    focus_a: float = 2.0
    focus_b: float = 3.0
    deform: float = 1.0


@dataclass
class FineDiffusionTraining(BrainDraws):
    """Configuration of `vcm pretrain fine-diffusion`.

    Attributes:
        data: Folders that vcm prepare wrote, or one pack of scans (.npz).
        autoencoder: Folder 'autoencoder' of a band decoder's training run.
        start: Folder of a denoiser of the same sizes to start from. Default: random weights.
        out: Folder of the training run; the frozen model is in its folder 'model'.
        channels: Channels of the U-Net on the folded grid, per level.
        attention: Whether each level has attention.
        head_channels: Channels per attention head, per level.
        res_blocks: Residual blocks per level.
        groups: Groups of the group normalisation.
        wing: Channels at full latent resolution, a multiple of 8.
    """

    may_change = BrainDraws.may_change | {"autoencoder"}
    headings: ClassVar[dict[str, str]] = {
        "data": "Data and result",
        "channels": "Network",
    }

    data: list[str] = field(default_factory=list)
    autoencoder: str = ""
    start: str = ""
    out: str = "runs/fine_diffusion"
    channels: list[int] = field(default_factory=lambda: [96, 128])
    attention: list[bool] = field(default_factory=lambda: [False, True])
    head_channels: list[int] = field(default_factory=lambda: [0, 32])
    res_blocks: int = 1
    groups: int = 16
    wing: int = 32
    ema_decay: float = 0.999


@dataclass
class FineModuleTraining(BrainDraws):
    """Configuration of `vcm pretrain fine-module`.

    Attributes:
        data: Folders that vcm prepare wrote, or one pack of scans (.npz).
        model: Folder 'model' of a training run of fine diffusion.
        stage: What is learned: reading (the mean latent of a label map, by the encoder alone; the
            denoiser need not be trained yet) or steering (the whole module).
        start: Folder of a module of the same sizes to start from, for stage=steering that of
            stage=reading. Default: a linear regression of the latents on the map.
        out: Folder of the training run; the module is in its folder 'module' and, after
            stage=steering, the whole pipeline in 'model'.
        encoder_channels: Channels of the encoder.
        encoder_res_blocks: Residual blocks of the encoder.
        unet_wing: Channels at full latent resolution, a multiple of 8.
        unet_channels: Channels of the U-Net on the folded grid, per level.
        unet_attention: Whether each level has attention.
        unet_head_channels: Channels per attention head, per level.
        unet_out_channels: Channels between the U-Net and its two heads.
        head_channels: Channels inside the heads that give scale and shift.
        reading_weight: Weight of the loss of the reading in stage=steering.
    """

    may_change = BrainDraws.may_change | {"model"}
    headings: ClassVar[dict[str, str]] = {
        "data": "Data and result",
        "encoder_channels": "Network and loss",
    }

    data: list[str] = field(default_factory=list)
    model: str = ""
    stage: str = "reading"
    start: str = ""
    out: str = "runs/fine_module"
    encoder_channels: int = 64
    encoder_res_blocks: int = 3
    unet_wing: int = 24
    unet_channels: list[int] = field(default_factory=lambda: [48, 64])
    unet_attention: list[bool] = field(default_factory=lambda: [False, True])
    unet_head_channels: list[int] = field(default_factory=lambda: [0, 32])
    unet_out_channels: int = 24
    head_channels: int = 24
    draws: int = 3
    reading_weight: float = 0.1


def check_draws(config: BrainDraws) -> None:
    """Refuse with VCMError what no brain can be drawn with."""
    if config.draws < 1:
        raise VCMError(f"draws is {config.draws}: it must be 1 or more.")
    if not 0 <= config.focus <= 1:
        raise VCMError(f"focus is {config.focus:g}, a share: choose 0 to 1.")
    for name in ("focus_a", "focus_b"):
        if getattr(config, name) <= 0:
            raise VCMError(f"{name} is {getattr(config, name):g}: it must exceed 0.")
    if config.deform < 0:
        raise VCMError(f"deform is {config.deform:g}, a factor: choose 0 or more.")
