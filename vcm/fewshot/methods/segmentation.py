"""Fit the network of a segmentation to its shots, from random or from pretrained weights.

loss = Dice loss of the classes + cross-entropy with background (MONAI's DiceCELoss)

Knows shots, their patches and the one training loop; nothing of tests. Everything drawn depends on
(seed, step) alone, so a run that was killed resumes to the same weights.
"""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from monai.losses.dice import DiceCELoss
from torch import Tensor, nn

from vcm.errors import VCMError, VCMWarning
from vcm.fewshot.cases.label_maps import labels_on, warn_of_absent_classes
from vcm.fewshot.cases.preparation import canonical, prepare
from vcm.fewshot.cases.tasks import Task
from vcm.fewshot.configuration import NetworkTraining
from vcm.fewshot.methods import carving
from vcm.fewshot.methods.catalogue import Method
from vcm.fewshot.methods.model import FittedModel
from vcm.fewshot.methods.network import FewShotUNet
from vcm.fewshot.methods.parents import Parent
from vcm.fewshot.methods.pool import Pool
from vcm.fewshot.methods.shot_patches import Example, PatchBatch, PatchSampler
from vcm.learning.frequencies import start_at_frequencies
from vcm.learning.run import TrainingRun
from vcm.learning.schedule import TrainingSchedule
from vcm.nets.memory_format import channels_last_on_cpu
from vcm.nets.more_inputs import for_inputs, of_inputs


class SegmentationObjective(nn.Module):
    """A PatchBatch -> the loss of a network's logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.measure = DiceCELoss(
            include_background=False, to_onehot_y=True, softmax=True, batch=True
        )

    def forward(self, batch: PatchBatch) -> dict[str, Tensor]:
        """loss, which is minimised."""
        return {"loss": self.measure(self.net(batch.images).float(), batch.labels)}


def fit_segmentation(
    method: Method, shots: Pool, training: NetworkTraining, work: Path, seed: int
) -> FittedModel:
    """Fit networks to the shots.

    Args:
        method: with start "random" or the feature whose parent among the pool's it starts from.
        shots: cases with label maps.
        training: budget.
        work: folder of the training run, which resumes from it; removed when the fit is done.
        seed: of the start and of what is drawn.

    Raises:
        VCMError: no shot has a labelled voxel.
    """
    task = shots.task
    examples, spacing = examples_of(shots)
    lesions = are_lesions(task, examples, method.start != "random")
    if method.start != "random":
        warn_of_other_voxels(task, shots.parents[method.start], spacing)
    arrays: dict[str, Tensor] = {}
    for member in range(training.members):
        draw_seed = seed * 1000 + member
        set_seed(draw_seed)
        parent = None if method.start == "random" else shots.parents[method.start]
        net = start_network(parent, task.slots, len(task.classes) + 1)
        bias, classes = net.get_parameter("out.conv.conv.bias"), len(task.classes) + 1
        start_at_frequencies(bias, [example.labels for example in examples], classes)
        device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
        channels_last_on_cpu(net, device)
        train_network(net, examples, training, work / f"member{member}", draw_seed, lesions)
        arrays |= {
            f"net{member}.{n}": v.detach().cpu().contiguous() for n, v in net.state_dict().items()
        }
    shutil.rmtree(work, ignore_errors=True)
    settings = {
        "spacing": list(spacing), "members": training.members, "network": net.settings,
        "mirror": training.mirror, "window": training.patch, "lesions": lesions,
    }  # fmt: skip
    return FittedModel(method.name, task, "network", arrays, settings=settings)


def examples_of(shots: Pool) -> tuple[list[Example], tuple[float, ...]]:
    """The shots as a network is fitted to them, and their voxel size [mm].

    Raises:
        VCMError: No shot has a labelled voxel.
    """
    spacing = shots.task.spacing or _median_spacing(shots)
    examples = [_example(shots, place, spacing) for place in range(len(shots.cases))]
    if not any(len(e.labelled) for e in examples):
        raise VCMError(
            f"None of the {len(examples)} shots of {shots.task.name} has a labelled voxel: draw more shots, or "
            "check the label maps and groups."
        )
    held = [np.unique(e.labels.numpy()) for e in examples]
    warn_of_absent_classes(shots.task, held, f"of the {len(examples)} shots")
    return examples, spacing


def warn_of_other_voxels(task: Task, parent: Parent, spacing: Sequence[float]) -> None:
    """A VCMWarning where several sequences are read on other voxels than their pretrained network learned on.

    Args:
        task: That may say its spacing: then it was chosen.
        parent: What the fit begins with.
        spacing: Of the shots [mm].
    """
    known = parent.spacing if parent.sequences else 0
    if known and not task.spacing and any(not 0.75 < s / known < 1.33 for s in spacing):
        size = f"{known:g}"
        warnings.warn(
            f"{task.name} is read on voxels of {' x '.join(f'{s:.3g}' for s in spacing)} mm, and the pretrained network "
            f"learned on {size} mm: write spacing: [{size}, {size}, {size}] into the task, which is better for thick "
            "slices and takes a fraction of the time with patch=32.",
            VCMWarning,
            stacklevel=2,
        )


def are_lesions(task: Task, examples: Sequence[Example], pretrained: bool = True) -> bool:
    """Whether patches get lesions of other shots: as the task says, else where the shots are labelled in other places.

    A network from random weights, which was worse with them in 1,500 steps, gets none unless the task says so.
    Warns of what was found.
    """
    if task.lesions is not None or not pretrained:
        return bool(task.lesions)
    alike = carving.agreement([e.image for e in examples], [e.labels for e in examples])
    found = alike < carving.ANATOMY
    if found:
        warnings.warn(
            f"The shots of {task.name} are labelled in different places, so they are taken for lesions, and those of one "
            "shot are put into the brains of others. Write lesions: true into the task, or false where the classes have "
            "their place.",
            VCMWarning,
            stacklevel=2,
        )
    return found


def train_network(
    net: nn.Module,
    examples: Sequence[Example],
    training: NetworkTraining,
    out: Path,
    seed: int,
    lesions: bool = False,
) -> None:
    """Train any network from images (B, C, X, Y, Z) to logits on patches of the examples.

    Args:
        net: Has the averaged weights afterwards.
        examples: What it learns from.
        training: Budget.
        out: Folder of the training run, which resumes from it.
        seed: Of what is drawn.
        lesions: The classes may lie anywhere: patches get those of other examples.
    """
    schedule = TrainingSchedule(
        out=str(out), steps=training.steps, seed=seed,
        batch_size=training.batch_size, learning_rate=training.learning_rate,
        warmup_steps=min(20, training.steps // 4), ema_decay=0.99, tracker="none",
        mixed_precision=training.mixed_precision, explosion=math.inf, workers=training.workers,
    )  # fmt: skip
    run = TrainingRun(schedule, net, SegmentationObjective(net))
    run.fit(lambda _: PatchSampler(examples, training, lesions).draw)


def start_network(parent: Parent | None, slots: Sequence[str], outputs: int) -> FewShotUNet:
    """A network with random weights, or with those of a pretrained one in all layers but the last.

    Args:
        parent: The pretrained one. Of one that read one scan, each filter of the first convolution reads one of
            several inputs more than the others; one that read these sequences side by side goes on doing so.
        slots: Sequences of the task, an input each.
        outputs: Background and classes.
    """
    inputs = len(slots)
    if parent is None:
        return FewShotUNet(inputs, outputs)
    begun = parent.network
    groups, local = begun.settings["groups"], begun.local
    net = FewShotUNet(inputs, outputs, begun.channels, groups, begun.patch, local)
    weights = dict(begun.state_dict())
    first = "down.0.conv1.conv.weight"
    if parent.sequences:
        other = [slot for slot in slots if slot not in parent.sequences]
        if other:
            raise VCMError(
                f"The pretrained network reads {', '.join(parent.sequences)} side by side, but the task reads "
                f"{', '.join(other)}: choose anysegmenter."
            )
        places = [parent.sequences.index(slot) for slot in slots]
        weights[first] = of_inputs(weights[first], len(parent.sequences), places)
    else:
        weights[first] = for_inputs(weights[first], inputs)
    own = net.state_dict()
    net.load_state_dict(own | {n: v for n, v in weights.items() if not n.startswith("out.")})
    return net


def _example(shots: Pool, place: int, spacing: Sequence[float]) -> Example:
    scans, mask = shots.scans(place)
    made = prepare(scans, shots.task.slots, spacing, None, mask)
    truth = shots.label_map(place)
    labels = labels_on(truth, made.grid, shots.target.groups, len(shots.task.classes))
    return Example(
        torch.from_numpy(made.image),
        torch.from_numpy(labels.astype(np.uint8))[None],
        np.argwhere(labels > 0),
    )


def _median_spacing(shots: Pool) -> tuple[float, ...]:
    """Median over the shots of the reference's spacing along right, anterior, superior [mm]."""
    spacings = [
        canonical(next(iter(shots.scans(p)[0].values())).grid).spacing
        for p in range(len(shots.cases))
    ]
    return tuple(round(float(v), 4) for v in np.median(spacings, axis=0))
