"""What a user may choose for `vcm fewshot study | finetune | embed`. Loads nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar


@dataclass
class NetworkTraining:
    """How a network is fitted to its shots; the same for every start, so that starts can be compared.

    Attributes:
        steps: Steps of the optimiser for one network.
        batch_size: Patches per step.
        learning_rate: Largest learning rate; it falls as a cosine.
        patch: Largest edge of a patch [voxel].
        members: Networks whose probabilities are averaged.
        mirror: Left and right may be exchanged; not where a class belongs to one side.
        mixed_precision: auto, no, bf16, or fp16 on a GPU.
    """

    headings: ClassVar[dict[str, str]] = {"steps": "Training of a network (segmentation)"}

    steps: int = 400
    batch_size: int = 2
    learning_rate: float = 2e-3
    patch: int = 64
    members: int = 1
    mirror: bool = True
    mixed_precision: str = "auto"


@dataclass
class FineTuning(NetworkTraining):
    """Configuration of `vcm fewshot finetune`.

    Attributes:
        task: YAML file of the task and its data, see docs/fewshot.md.
        method: mean, voxels, volumes or network for a number; mean, scratch or segmenter for a
            label map.
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
class FewShotStudy(NetworkTraining):
    """Configuration of `vcm fewshot study`.

    Attributes:
        tasks: YAML files of tasks and their data, see docs/fewshot.md.
        methods: Methods to compare; one that cannot do a task is left out there.
        shots: Numbers of labelled scans.
        seeds: Draws of the shots per number; at least 5 give an interval worth reading.
        reference: Method that the others are compared with.
        out: Folder of the study. Run the same command again to resume it, or with more methods,
            shots or seeds to extend it.
    """

    tasks: list[str] = field(default_factory=list)
    methods: list[str] = field(default_factory=lambda: ["mean", "voxels", "volumes"])
    shots: list[int] = field(default_factory=lambda: [20])
    seeds: int = 10
    reference: str = "mean"
    out: str = "studies/new"


@dataclass
class Embedding:
    """Configuration of `vcm fewshot embed`.

    Attributes:
        data: Folders of unlabelled scans, over which every number of the embedding is standardised.
        feature: network (activations of the tissue segmenter) or voxels.
        out: Folder for the model; must not hold one yet.
    """

    data: list[str] = field(default_factory=list)
    feature: str = "network"
    out: str = "runs/embedding"
