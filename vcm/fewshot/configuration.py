"""What a user may choose for `vcm pretrain encoder` and `vcm fewshot study | finetune | embed`.

Knows names, defaults and texts; loads nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from vcm.learning.schedule import TrainingSchedule

#: The name of the example in place of the YAML file of a task.
EXAMPLE = "example"


@dataclass
class Encoders:
    """Which encoders the methods mae and hybrid look through, or start from.

    Attributes:
        mae: Encoder of the method mae: folder 'encoder' that vcm pretrain encoder wrote, or encoder2mm, which travels
            with the package.
        hybrid: Encoder of the method hybrid, likewise.
    """

    headings: ClassVar[dict[str, str]] = {"mae": "Pretrained encoders"}

    mae: str = ""
    hybrid: str = ""


@dataclass
class SyntheticShots:
    """What the methods NAME+synthetic add to the shots.

    Attributes:
        synthetic: Synthetic brains that join the shots of a method NAME+synthetic; age or sex is their
            label.
        synthetic_weight: Weight of all synthetic brains together in the loss, beside 1 for all shots.
        synthetic_steps: Denoising steps of each.
    """

    headings: ClassVar[dict[str, str]] = {"synthetic": "Synthetic brains"}

    synthetic: int = 40
    synthetic_weight: float = 1.0
    synthetic_steps: int = 20


@dataclass
class NetworkTraining:
    """How a network is fitted to its shots; the same for every start, so that starts can be compared.

    Attributes:
        steps: Steps of the optimiser for one network of a label map.
        batch_size: Patches per step.
        learning_rate: Largest learning rate of a label map's network; it falls as a cosine.
        tune: For numbers and classes: head (the network stays frozen) or all (it is fine-tuned, from mae,
            hybrid or network; scratch always is).
        tune_steps: Steps of that.
        tune_learning_rate: Largest learning rate of that.
        patch: Largest edge of a patch [voxel].
        members: Networks whose probabilities are averaged.
        mirror: Left and right may be exchanged; not where a class belongs to one side.
        mixed_precision: auto, no, bf16, or fp16 on a GPU.
        workers: Processes that draw patches ahead of the training; the network is the same whatever their number.
            On a GPU, which would wait for them, give 3.
    """

    headings: ClassVar[dict[str, str]] = {"steps": "Training of a network"}

    steps: int = 2000
    batch_size: int = 2
    learning_rate: float = 2e-3
    tune: str = "head"
    tune_steps: int = 400
    tune_learning_rate: float = 3e-4
    patch: int = 64
    members: int = 1
    mirror: bool = True
    mixed_precision: str = "auto"
    workers: int = 0


@dataclass
class FineTuning(SyntheticShots, Encoders, NetworkTraining):
    """Configuration of `vcm fewshot finetune`.

    Attributes:
        task: YAML file of the task and its data, see docs/fewshot.md.
        method: mean, voxels, local, views, volumes, network, latents, denoiser, untrained, mae or hybrid for a
            number or class, several joined by + (volumes+local), or one as NAME+synthetic; mean, scratch, segmenter,
            anysegmenter, untrained, mae or hybrid for a label map.
        shots: Number of labelled scans to draw from the training cases; 0 takes all.
        seed: Seed of the draw, and of a network's start.
        out: Folder for the fitted model; must not hold one yet.
    """

    task: str = ""
    method: str = "voxels"
    shots: int = 0
    seed: int = 0
    out: str = "runs/fewshot"


@dataclass
class FewShotStudy(SyntheticShots, Encoders, NetworkTraining):
    """Configuration of `vcm fewshot study`.

    Attributes:
        tasks: YAML files of tasks and their data, see docs/fewshot.md; or example, age of synthetic
            brains.
        methods: Methods to compare; one that cannot do a task is left out there.
        shots: Numbers of labelled scans.
        seeds: Draws of the shots per number; at least 5 give an interval worth reading.
        reference: Method that the others are compared with.
        out: Folder of the study. Run the same command again to resume it, or with more methods,
            shots or seeds to extend it.
    """

    tasks: list[str] = field(default_factory=list)
    methods: list[str] = field(default_factory=lambda: ["mean", "voxels", "local", "volumes"])
    shots: list[int] = field(default_factory=lambda: [20])
    seeds: int = 10
    reference: str = "mean"
    out: str = "studies/new"


@dataclass
class Embedding(Encoders):
    """Configuration of `vcm fewshot embed`.

    Attributes:
        data: Folders of unlabelled scans, over which every number of the embedding is standardised.
        feature: network (activations of the tissue segmenter), mae, hybrid or voxels.
        out: Folder for the model; must not hold one yet.
    """

    data: list[str] = field(default_factory=list)
    feature: str = "network"
    out: str = "runs/embedding"


@dataclass
class EncoderTraining(TrainingSchedule):
    """Configuration of `vcm pretrain encoder`.

    Attributes:
        data: Folders of unlabelled scans, of any sequence (BIDS or FOMO layout), or tables. Cases of the
            split test are never trained on.
        mask: Last word of a label map beside a scan, outside of which it is set to 0; for scans with
            their skull. Default: scans as they are.
        out: Folder of the training run; the encoder is in its folder 'encoder'.
        cache: Folder where prepared scans are kept. Default: in out.
        start: Folder 'encoder' of an earlier pretraining whose weights this one goes on from, or encoder2mm; of the
            same network.
        objective: mae (restore hidden blocks) or hybrid (and tell views of one scan from others).
        channels: Channels per level.
        groups: Groups of the group normalisation.
        patch: Edge of the blocks of voxels that are folded into channels [voxel].
        crop: Edge of the training crops [voxel of 2 mm]. 0: whole scans.
        hidden: Share of the blocks that are hidden.
        block: Edge of the blocks [voxel].
        augmentation: Strength of the changes of contrast, resolution, bias field and mask, 0 to 1.
        motion: Strength of turns, scales and shifts, 0 to 1.
        local_brightness: Read each voxel as its deviation from the brightness within about 10 mm, in pretraining and
            wherever the encoder is used after it.
        projection: Numbers by which views are compared (hybrid).
        contrast_weight: Weight of the contrastive loss (hybrid).
        temperature: Temperature of the contrastive loss (hybrid).
    """

    headings: ClassVar[dict[str, str]] = {
        "data": "Data and result",
        "objective": "Objective and network",
    }

    data: list[str] = field(default_factory=list)
    mask: str = ""
    out: str = "runs/encoder"
    cache: str = ""
    start: str = ""
    objective: str = "mae"
    channels: list[int] = field(default_factory=lambda: [16, 32, 64, 128])
    groups: int = 8
    patch: int = 2
    crop: int = 0
    hidden: float = 0.6
    block: int = 8
    augmentation: float = 1.0
    motion: float = 1.0
    local_brightness: bool = False
    projection: int = 64
    contrast_weight: float = 0.3
    temperature: float = 0.2
    batch_size: int = 2
    learning_rate: float = 1e-3
    ema_decay: float = 0.99
