"""What a user may choose for `vcm train` and `vcm pretrain`. Names, defaults, texts.

The keys that every training run has are in vcm.learning.schedule.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from vcm.errors import VCMError
from vcm.learning.schedule import TrainingSchedule


@dataclass
class ControlSizes:
    """Which control method is trained, and its sizes: part of the configuration of `vcm train`.

    The defaults fit brain2mm. ControlNet, ControlNet-LITE and T2I-Adapter take their widths from the
    frozen U-Net.

    Attributes:
        control: Control method: vcm, mcm, controlnet, controlnet-lite, t2i-adapter.
        conditions: What the module reads: classes, ventricles, partial, thick; one encoder each.
        linear_prior: Start from a linear regression of the latents on the condition. For vcm it
            needs encoder_halve=false.
        encoder_channels: Channels of the condition encoder, per level (vcm).
        encoder_res_blocks: Residual blocks per level of the encoder (vcm).
        encoder_groups: Groups of the encoder's group normalisation (vcm).
        encoder_patch: Edge of the blocks of voxels that are folded into channels before the encoder
            [voxel] (vcm).
        encoder_halve: Halve the resolution at each level of the encoder (vcm).
        encoder_checkpointing: Recompute the encoder in the backward pass: less memory, slower
            (vcm).
        unet_channels: Channels of the U-Net on the latent grid, per level (vcm, mcm).
        unet_attention: Whether each level of the U-Net has attention (vcm, mcm).
        unet_head_channels: Channels per attention head, per level (vcm, mcm).
        unet_res_blocks: Residual blocks per level of the U-Net (vcm, mcm).
        unet_groups: Groups of the U-Net's group normalisation (vcm, mcm).
        unet_out_channels: Channels between the U-Net and its two heads (vcm, mcm).
        unet_wing: Channels of the U-Net's wings at full latent resolution, for a fine latent grid; 0:
            a plain U-Net (vcm, mcm).
        head_channels: Channels inside the heads that give scale and shift (vcm, mcm).
        head_norm: Normalisation of scale and shift: none (starts as the identity) or instance (as
            published) (vcm, mcm).
        embedding_channels: Channels of the embedding of a condition, per level (controlnet,
            controlnet-lite).
        adapter_blocks: Residual blocks per level (t2i-adapter).
    """

    headings: ClassVar[dict[str, str]] = {
        "control": "Control method",
        "encoder_channels": "Sizes of the control method",
    }

    control: str = "vcm"
    conditions: list[str] = field(default_factory=lambda: ["classes"])
    encoder_channels: list[int] = field(default_factory=lambda: [64])
    encoder_res_blocks: int = 2
    encoder_groups: int = 16
    encoder_patch: int = 4
    encoder_halve: bool = False
    encoder_checkpointing: bool = False
    linear_prior: bool = True
    unet_channels: list[int] = field(default_factory=lambda: [48, 64])
    unet_attention: list[bool] = field(default_factory=lambda: [False, True])
    unet_head_channels: list[int] = field(default_factory=lambda: [48, 32])
    unet_res_blocks: int = 1
    unet_groups: int = 16
    unet_out_channels: int = 32
    unet_wing: int = 32
    head_channels: int = 32
    head_norm: str = "none"
    embedding_channels: list[int] = field(default_factory=lambda: [8, 16, 32, 64])
    adapter_blocks: int = 1


@dataclass
class ModuleTraining(ControlSizes, TrainingSchedule):
    """Configuration of `vcm train`.

    Attributes:
        data: Folders that vcm prepare wrote.
        model: The frozen model: name of an embedded one, or folder that vcm pretrain diffusion or
            vcm weights import wrote.
        out: Folder of the training run; the trained model is in its folder 'model'.
        cache: Folder where encoded scans are kept for the next run.
        max_samples: Train on that many scans, chosen by subset_seed. Default: all of the split
            train.
        subset_seed: Seed of that choice; for one seed a smaller subset is part of every larger one.
        validation_subjects: Scans for validation: of the split validation, or where there is none
            held out of train, with all scans of these persons; never of test.
        segmenter: Segmenter that measures adherence at each validation: a name or a folder.
            Default: adherence is not measured.
        copies: Copies of each training scan: itself, mirrored, and moved at random.
        draws: Noises and times per condition and step, which share the features of the condition.
        drop: Probability that a condition is left out of a sample, where there are several; at
            least one stays.
        penalty: Weight lambda of the penalty on scale and shift in the loss.
        temperature: Scale of the initial noise that the saved model recommends where the module acts.
        conditioning_scale: Strength of the module that the saved model recommends.
    """

    headings: ClassVar[dict[str, str]] = {
        "data": "Data and result",
        "copies": "Samples and loss",
    }

    data: list[str] = field(default_factory=list)
    model: str = ""
    out: str = "runs/module"
    cache: str = "runs/latents"
    drop: float = 0.3
    copies: int = 5
    draws: int = 4
    penalty: float = 0.0
    temperature: float = 1.0
    conditioning_scale: float = 1.0
    max_samples: int | None = None
    subset_seed: int = 0
    validation_subjects: int = 4
    segmenter: str = ""
    ema_decay: float = 0.998
    batch_size: int = 2


def check_samples(config: ModuleTraining | DiffusionTraining) -> None:
    """Refuse with VCMError what no batch can be drawn with."""
    least = {"copies": 1}
    if isinstance(config, ModuleTraining):
        least |= {"draws": 1} | ({"validation_subjects": 1} if config.validate_every else {})
    for name, value in least.items():
        if getattr(config, name) < value:
            raise VCMError(f"{name} is {getattr(config, name)}: it must be {value} or more.")
    if isinstance(config, ModuleTraining):
        check_share("drop", config.drop)
        if not config.penalty >= 0:
            raise VCMError(f"penalty is {config.penalty:g}, a weight: it must be 0 or more.")


def check_share(name: str, value: float) -> None:
    """Refuse with VCMError what is no share, such as one in percent."""
    if not 0 <= value <= 1:
        raise VCMError(f"{name} is {value:g}, a share: choose 0 to 1.")


@dataclass
class AutoencoderTraining(TrainingSchedule):
    """Configuration of `vcm pretrain autoencoder`.

    Attributes:
        data: Folders that vcm prepare wrote.
        start: Folder of an autoencoder of the same sizes to start from. Default: principal
            components of the scans.
        out: Folder of the training run; the autoencoder is in its folder 'autoencoder'.
        crop: Edge of the training crops [voxel]. 0 trains on whole volumes, whose normalisation
            statistics are those of encoding and decoding.
        margin: Distance of the crops from the border of the volume [voxel].
        channels: Channels per level.
        latent_channels: Channels of the latent.
        res_blocks: Residual blocks per level.
        groups: Groups of the group normalisation.
        patch: Edge of the blocks of voxels that are folded into channels [voxel].
        mse_weight: Weight of the squared error in the loss, beside the absolute error.
        kl_weight: Weight of the Kullback-Leibler divergence in the loss.
    """

    headings: ClassVar[dict[str, str]] = {"data": "Data and result", "channels": "Network and loss"}

    data: list[str] = field(default_factory=list)
    start: str = ""
    out: str = "runs/autoencoder"
    channels: list[int] = field(default_factory=lambda: [96, 192])
    latent_channels: int = 64
    res_blocks: int = 1
    groups: int = 8
    patch: int = 4
    crop: int = 48
    margin: int = 6
    mse_weight: float = 5.0
    kl_weight: float = 1e-5


@dataclass
class DiffusionTraining(TrainingSchedule):
    """Configuration of `vcm pretrain diffusion`.

    Attributes:
        data: Folders that vcm prepare wrote.
        autoencoder: Folder 'autoencoder' that vcm pretrain autoencoder wrote.
        start: Folder of a denoiser of the same sizes to start from. Default: random weights.
        out: Folder of the training run; the frozen model is in its folder 'model'.
        cache: Folder where encoded scans are kept for the next run.
        copies: Copies of each training scan: itself, mirrored, and moved at random.
        channels: Channels of the U-Net, per level.
        attention: Whether each level has attention.
        head_channels: Channels per attention head, per level.
        res_blocks: Residual blocks per level.
        groups: Groups of the group normalisation.
    """

    headings: ClassVar[dict[str, str]] = {"data": "Data and result", "channels": "Network"}

    data: list[str] = field(default_factory=list)
    autoencoder: str = ""
    start: str = ""
    out: str = "runs/diffusion"
    cache: str = "runs/latents"
    copies: int = 5
    channels: list[int] = field(default_factory=lambda: [128, 128])
    attention: list[bool] = field(default_factory=lambda: [False, True])
    head_channels: list[int] = field(default_factory=lambda: [0, 64])
    res_blocks: int = 1
    groups: int = 16
    batch_size: int = 4
    ema_decay: float = 0.999


@dataclass
class SegmenterTraining(TrainingSchedule):
    """Configuration of `vcm pretrain segmenter`, which trains on whole volumes.

    Attributes:
        data: Folders that vcm prepare wrote, with label maps.
        out: Folder of the training run; the segmenter is in its folder 'segmenter'.
        contrasts: What the scans are made into: t1w, as they come, or any, brains deformed and in another contrast
            and resolution at every step, with lesions.
        deform: Size of the deformations, 1 is usual (any).
        masses: Share of brains with a mass such as a tumour (any).
        start: Folder of a segmenter with the same channels to start from. Default: random weights.
        channels: Channels per level.
        groups: Groups of the group normalisation.
        patch: Edge of the blocks of voxels that are folded into channels first: much less time, coarser borders.
    """

    headings: ClassVar[dict[str, str]] = {"data": "Data and result", "channels": "Network"}

    data: list[str] = field(default_factory=list)
    out: str = "runs/segmenter"
    contrasts: str = "t1w"
    deform: float = 1.0
    masses: float = 0.3
    start: str = ""
    channels: list[int] = field(default_factory=lambda: [8, 32, 64, 128])
    groups: int = 8
    patch: int = 1
    batch_size: int = 1
    learning_rate: float = 2e-3
    ema_decay: float = 0.99


@dataclass
class SequenceSegmenterTraining(TrainingSchedule):
    """Configuration of `vcm pretrain sequence-segmenter`, whose network reads t1, t1ce, t2 and flair side by side.

    Attributes:
        data: Folders that vcm prepare wrote, with label maps.
        out: Folder of the training run; the segmenter is in its folder 'segmenter'.
        deform: Size of the deformations, 1 is usual.
        crop: Edge of the training crops [voxel].
        validation_brains: Drawn brains that a validation measures.
        start: Name or folder of a segmenter with the same channels to start from. Default: random weights.
        channels: Channels per level.
        groups: Groups of the group normalisation.
    """

    headings: ClassVar[dict[str, str]] = {"data": "Data and result", "channels": "Network"}

    data: list[str] = field(default_factory=list)
    out: str = "runs/sequence_segmenter"
    deform: float = 1.0
    crop: int = 64
    validation_brains: int = 8
    start: str = ""
    channels: list[int] = field(default_factory=lambda: [8, 32, 64, 128])
    groups: int = 8
    batch_size: int = 2
    learning_rate: float = 2e-3
    ema_decay: float = 0.995
