"""Fine-tune the network behind the features together with its linear head, for numbers and classes.

    regression        loss = SmoothL1 of (answer - label) / spread of the labels
    classification    loss = cross-entropy

The head begins at the closed-form solution on frozen features (LP-FT, Kumar et al. 2022, arXiv 2202.10054): from
zero it hardly leaves the mean in a few hundred steps. A fifth of the shots decides whether what was
fine-tuned beats what was frozen; only then the network is fine-tuned on all of them. The fitted model is
a line on features as in closed_form.py, of a network of its own.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate.utils import set_seed
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from vcm.fewshot.cases.preparation import prepare
from vcm.fewshot.cases.shots import folds_of, strata_of
from vcm.fewshot.configuration import NetworkTraining
from vcm.fewshot.methods.catalogue import Method
from vcm.fewshot.methods.closed_form import fit_line
from vcm.fewshot.methods.crops import Motion, crop_grid
from vcm.fewshot.methods.features import SEGMENTER_SHAPE, SEGMENTER_SPACING, mask_of
from vcm.fewshot.methods.model import FittedModel
from vcm.fewshot.methods.network import ENCODER, FewShotUNet
from vcm.fewshot.methods.pool import Pool
from vcm.fewshot.methods.views import seen_otherwise
from vcm.learning.run import TrainingRun
from vcm.learning.schedule import TrainingSchedule

#: Largest turn [rad], scale and shift [voxel] of a scan.
MOTION = Motion(0.1, 0.05, 2.0)
#: One of so many shots is held back to decide, where each class keeps one.
HELD_BACK = 5


@dataclass(frozen=True)
class Shots:
    """Prepared shots.

    Attributes:
        images: (N, S, X, Y, Z) in 0..1 at 2 mm, one channel per slot, 0 where absent.
        present: (N, S), 1 where a slot has a scan.
        labels: (N,) values or classes.
    """

    images: Tensor
    present: Tensor
    labels: NDArray[np.float64]

    def subset(self, places: Sequence[int]) -> Shots:
        """Those at these places."""
        chosen = list(places)
        return Shots(self.images[chosen], self.present[chosen], self.labels[chosen])


class LabelledViews(NamedTuple):
    """Views (B, S, X, Y, Z), which slots are there (B, S), labels (B,)."""

    images: Tensor
    present: Tensor
    labels: Tensor


class TunedNetwork(nn.Module):
    """Images and present slots -> scores (B, outputs): a network, its pooled features, a linear head.

    Args:
        network: Copied.
        start: Closed-form model on the network's features, where the head begins.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, network: FewShotUNet, start: FittedModel) -> None:
        super().__init__()
        self.network = deepcopy(network)
        # The features do not reach the decoder.
        self.network.up.requires_grad_(False)
        self.network.out.requires_grad_(False)
        self.register_buffer("mean", start.arrays["mean"].clone())
        self.register_buffer("scale", start.arrays["scale"].clone())
        self.head = nn.Linear(*start.arrays["weights"].shape)
        with torch.no_grad():
            self.head.weight.copy_(start.arrays["weights"].T)
            self.head.bias.copy_(start.arrays["bias"])

    def forward(self, images: Tensor, present: Tensor) -> Tensor:
        """(B, S, X, Y, Z), (B, S) -> (B, outputs)."""
        scores: Tensor = self.head((pooled(self.network, images, present) - self.mean) / self.scale)
        return scores


class TuningObjective(nn.Module):
    """LabelledViews -> loss.

    Args:
        net: To be fine-tuned.
        spread: Of the labels of a regression; 0: a classification.
    """

    def __init__(self, net: TunedNetwork, spread: float) -> None:
        super().__init__()
        self.net, self.spread = net, spread

    def forward(self, batch: LabelledViews) -> dict[str, Tensor]:
        """loss, which is minimised."""
        scores = self.net(batch.images, batch.present).float()
        if not self.spread:
            return {"loss": functional.cross_entropy(scores, batch.labels.long())}
        off = (scores[:, 0] - batch.labels) / self.spread
        return {"loss": functional.smooth_l1_loss(off, torch.zeros_like(off))}


def fit_end_to_end(
    method: Method, shots: Pool, training: NetworkTraining, work: Path, seed: int
) -> FittedModel:
    """Fine-tune a network on the shots, or keep it frozen where that answers held-back shots better.

    Args:
        method: With start "random" or the feature whose parent it starts from.
        shots: Labelled cases.
        training: Budget.
        work: Folder of the training runs; removed when the fit is done.
        seed: Of a random start, of the shots held back and of what is drawn.

    Returns:
        The model; settings["tuned"] says which it is, with the losses on the held-back shots.
    """
    set_seed(seed)
    random = method.start == "random"
    network = FewShotUNet(1, 1, **ENCODER) if random else shots.parents[method.start].network
    few = read_shots(shots)
    feature = method.feature or "network"
    inside, outside = held_back(shots, seed)
    losses = {}
    if outside:
        part = few.subset(inside)
        frozen = _closed(method, shots, feature, network, part)
        tuned = _tuned(network, frozen, part, shots, training, work / "deciding", seed)
        rest = few.subset(outside)
        for name, net in (("frozen", TunedNetwork(network, frozen)), ("tuned", tuned)):
            losses[name] = _loss(net, rest, _spread(shots, few))
    model = _closed(method, shots, feature, network, few)
    keep = bool(losses) and losses["frozen"] <= losses["tuned"]
    if not keep:
        found = _tuned(network, model, few, shots, training, work / "all", seed)
        network = found.network
        model.arrays["weights"] = found.head.weight.detach().T.contiguous()
        model.arrays["bias"] = found.head.bias.detach().clone()
    shutil.rmtree(work, ignore_errors=True)
    model.settings |= {"parent": network.settings, "tuned": not keep, "held back": losses}
    model.arrays |= {f"parent.{n}": v.detach().cpu() for n, v in network.state_dict().items()}
    return model


def held_back(shots: Pool, seed: int) -> tuple[list[int], list[int]]:
    """Places of the shots that are fitted to, and of those that decide; none where they are too few."""
    labels = list(shots.labels)
    everyone = list(range(len(labels)))
    strata = strata_of(shots.task.kind, labels)
    least = min(strata.count(s) for s in set(strata))
    if len(labels) < 2 * HELD_BACK or (shots.task.kind == "classification" and least < 2):
        return everyone, []
    folds = folds_of(strata, HELD_BACK, seed)
    inside = [i for i in everyone if folds[i]]
    if shots.task.kind == "classification" and len({labels[i] for i in inside}) < 2:
        return everyone, []
    return inside, [i for i in everyone if not folds[i]]


def read_shots(shots: Pool) -> Shots:
    """Prepare all shots at 2 mm, each slot as its features are prepared."""
    images = torch.zeros(len(shots.cases), len(shots.task.slots), *SEGMENTER_SHAPE)
    present = torch.zeros(images.shape[:2])
    for place in range(len(shots.cases)):
        scans, mask = shots.scans(place)
        for number, slot in enumerate(shots.task.slots):
            if slot in scans:
                one = {slot: scans[slot]}
                inside = mask_of(scans, slot, mask)
                made = prepare(one, (slot,), SEGMENTER_SPACING, SEGMENTER_SHAPE, inside)
                images[place, number] = torch.from_numpy(made.image[0])
                present[place, number] = 1
    return Shots(images, present, shots.labels)


def pooled(network: FewShotUNet, images: Tensor, present: Tensor) -> Tensor:
    """Features of all slots one after the other, 0 where a slot is absent: (B, S F)."""
    found = network.features(images.flatten(0, 1)[:, None]).unflatten(0, images.shape[:2])
    return (found * present[..., None]).flatten(1)


def _closed(
    method: Method, shots: Pool, feature: str, network: FewShotUNet, few: Shots
) -> FittedModel:
    """The closed-form model on frozen features."""
    with torch.inference_mode():
        rows = [
            pooled(network, few.images[n : n + 1], few.present[n : n + 1])
            for n in range(len(few.labels))
        ]
    x = torch.cat(rows).double().numpy()
    return fit_line(method.name, shots.task, feature, x, few.labels)


def _tuned(
    network: FewShotUNet,
    start: FittedModel,
    few: Shots,
    shots: Pool,
    training: NetworkTraining,
    work: Path,
    seed: int,
) -> TunedNetwork:
    net = TunedNetwork(network, start)
    schedule = TrainingSchedule(
        out=str(work), steps=training.tune_steps, seed=seed, batch_size=training.batch_size,
        learning_rate=training.tune_learning_rate, warmup_steps=min(20, training.tune_steps // 4),
        final_learning_rate=0.0, ema_decay=0.99, tracker="none",
        mixed_precision=training.mixed_precision, explosion=math.inf, workers=training.workers,
    )  # fmt: skip
    run = TrainingRun(schedule, net, TuningObjective(net, _spread(shots, few)))
    run.fit(lambda _: _Views(few, training).draw)
    return net.cpu()


def _spread(shots: Pool, few: Shots) -> float:
    return float(np.std(few.labels)) if shots.task.kind == "regression" else 0.0


@torch.inference_mode()
def _loss(net: TunedNetwork, few: Shots, spread: float) -> float:
    """Mean loss over shots as they are."""
    objective = TuningObjective(net.eval(), spread)
    labels = torch.from_numpy(few.labels).float()
    losses = [
        objective(LabelledViews(few.images[n][None], few.present[n][None], labels[n][None]))["loss"]
        for n in range(len(labels))
    ]
    return float(torch.stack(losses).mean())


class _Views:
    """Shots drawn at random, moved a little and seen otherwise."""

    def __init__(self, few: Shots, training: NetworkTraining) -> None:
        self.few, self.training = few, training

    def draw(self, random: np.random.Generator) -> LabelledViews:
        """One batch; a function of the generator alone."""
        places = [
            int(p) for p in random.integers(len(self.few.labels), size=self.training.batch_size)
        ]
        views = torch.stack([self._view(self.few.images[p], random) for p in places])
        labels = torch.from_numpy(self.few.labels[places]).float()
        return LabelledViews(views, self.few.present[places], labels)

    def _view(self, image: Tensor, random: np.random.Generator) -> Tensor:
        size = np.array(image.shape[1:])
        grid = crop_grid(
            random, tuple(image.shape[1:]), size / 2, size, MOTION, self.training.mirror
        )
        moved = functional.grid_sample(image[None], grid, "bilinear", align_corners=False)[0]
        return torch.stack([seen_otherwise(channel, random) for channel in moved])
