"""Pretrain the slice diffusion model whose features tell tissues apart; stops and resumes.

    v = alpha eps - sigma x,   x_t = alpha x + sigma eps,   alpha = cos(pi t / 2), sigma = sin(pi t / 2)
    loss = mean (net(x_t, t, view, place) - v)^2

No label is read. x is a square crop of a slice, in -1..1.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate.utils import set_seed
from numpy.typing import NDArray
from torch import Tensor, nn

from vcm.errors import VCMError
from vcm.imaging.prepared_set import Subject, check_one_grid, load_prepared
from vcm.imaging.scan_checksums import check_apart, scan_checksums
from vcm.imaging.views import VIEWS, places, slices
from vcm.learning.batches import moved
from vcm.learning.origin import Origin
from vcm.learning.run import TrainingRun
from vcm.nets.slice_denoiser import SliceDenoiser, add_noise, velocity
from vcm.report.training import write_training_report
from vcm.segmentation.configuration import SliceTraining

#: Share of a crop that must be brain; slices beyond the brain teach nothing.
LEAST_BRAIN = 0.05
#: A masked autoencoder's patches [pixel], hidden where unit noise exceeds this: 60 % of them.
HIDDEN_PATCH, HIDDEN_ABOVE = 4, -0.2533


class SliceBatch(NamedTuple):
    """Clean crops (B, 1, H, W) in -1..1, unit noise like it, time (B,), view (B,), place (B, 3, H, W)."""

    slices: Tensor
    noise: Tensor
    time: Tensor
    view: Tensor
    place: Tensor


class SliceObjective(nn.Module):
    """A SliceBatch -> the loss of the predicted v."""

    def __init__(self, net: SliceDenoiser) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: SliceBatch) -> dict[str, Tensor]:
        """loss, which is minimised."""
        slices, noise, time, view, place = batch
        found = self.net(add_noise(slices, noise, time), time, view, place)
        return {"loss": (found.float() - velocity(slices, noise, time)).square().mean()}


class MaskedObjective(nn.Module):
    """A SliceBatch -> the error of what is behind a mask: a masked autoencoder of the same network.

    A comparison for the study of what diffusion pretraining is worth (He et al., CVPR 2022, arXiv
    2111.06377). Patches are hidden where the noise at their corner is large, so that a batch serves
    both objectives. The network is told the time 0.
    """

    def __init__(self, net: SliceDenoiser) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: SliceBatch) -> dict[str, Tensor]:
        """loss, which is minimised."""
        slices, noise, time, view, place = batch
        corners = (noise[:, :, ::HIDDEN_PATCH, ::HIDDEN_PATCH] > HIDDEN_ABOVE).float()
        hidden = nn.functional.interpolate(corners, size=tuple(slices.shape[2:]))
        found = self.net(slices * (1 - hidden), torch.zeros_like(time), view, place)
        # The brain behind the mask: what is told from what is seen.
        weight = hidden * (slices > -1)
        squared = (found.float() - slices).square()
        return {"loss": (weight * squared).sum() / weight.sum().clamp(min=1)}


OBJECTIVES: dict[str, type[SliceObjective] | type[MaskedObjective]] = {
    "diffusion": SliceObjective,
    "masked": MaskedObjective,
}


class SlicePool:
    """Scans in memory, from which crops of slices are drawn, mirrored half of the time.

    Args:
        images: (N, X, Y, Z) in 0..1, half precision, the first axis of each left-right.
        views: Views that are drawn, with equal chances.
        crop: Edge of the crops [pixel].
        batch_size: Crops per batch.
        time_power: See SliceTraining.
    """

    def __init__(
        self,
        images: NDArray[np.float16],
        views: Sequence[str],
        crop: int,
        batch_size: int,
        time_power: float,
    ) -> None:
        self.images, self.views = images, list(views)
        self.crop, self.batch_size, self.time_power = crop, batch_size, time_power
        x, y, z = images.shape[1:]
        self.place = places((x, y, z))

    def draw(self, random: np.random.Generator) -> SliceBatch:
        """One batch; a function of the generator alone."""
        crops, placed, views = [], [], []
        for _ in range(self.batch_size):
            image = self.images[random.integers(len(self.images))]
            view = self.views[random.integers(len(self.views))]
            if random.random() < 0.5:
                image = image[::-1]
            crop, place = self._crop(image, view, random)
            crops.append(crop)
            placed.append(place)
            views.append(VIEWS.index(view))
        clean = torch.from_numpy(np.stack(crops).astype(np.float32))[:, None] * 2 - 1
        noise = torch.from_numpy(random.standard_normal(clean.shape, dtype=np.float32))
        time = torch.from_numpy(random.random(len(crops), dtype=np.float32) ** self.time_power)
        return SliceBatch(
            clean, noise, time, torch.tensor(views), torch.from_numpy(np.stack(placed))
        )

    def _crop(
        self, image: NDArray, view: str, random: np.random.Generator
    ) -> tuple[NDArray, NDArray]:
        """A crop with brain in it, and the place of its pixels (3, H, W)."""
        stack = slices(image, view)
        count, *sides = stack.shape
        for _ in range(20):
            n = int(random.integers(count))
            h, w = (int(random.integers(side - self.crop + 1)) for side in sides)
            crop = stack[n, h : h + self.crop, w : w + self.crop]
            if np.mean(crop > 0) >= LEAST_BRAIN:
                break
        place = np.moveaxis(self.place, 1 + VIEWS.index(view), 1)
        return crop, place[:, n, h : h + self.crop, w : w + self.crop]


def pretrain_slices(config: SliceTraining) -> dict[str, float]:
    """Train, save the network in out/slices, and measure the loss on the split `test`.

    Raises:
        VCMError: There are no scans, the crop does not fit them, or the objective is unknown.
    """
    if config.objective not in OBJECTIVES:
        raise VCMError(f"objective is '{config.objective}': choose one of {', '.join(OBJECTIVES)}.")
    if not config.data:
        raise VCMError("No data is given: add data=[FOLDER] with a folder written by vcm prepare.")
    train = load_prepared(*config.data, split="train")
    held_out = []
    with suppress(VCMError):
        held_out = load_prepared(*config.data, split="test")
    check_apart(train, held_out)
    check_one_grid([*train, *held_out])
    spacing = check_crop(train[0], config.crop, len(config.channels))
    set_seed(config.seed)
    net = SliceDenoiser(
        config.channels, config.groups, config.head_channels, spacing, views=config.views
    )
    objective = OBJECTIVES[config.objective](net)
    origin = Origin(scans=scan_checksums(train, maps=False))
    run = TrainingRun(config, net, objective, origin)
    sizes = (config.views, config.crop, config.batch_size, config.time_power)
    run.fit(lambda _: SlicePool(read_images(train), *sizes).draw)
    if not run.is_main:
        return {}
    net.save_pretrained(Path(config.out) / "slices")
    measures = {}
    if held_out:
        pool = SlicePool(read_images(held_out), *sizes)
        loss = measure_loss(objective.to(net.device), pool)
        measures[f"{config.objective} loss on test"] = loss
    write_training_report(Path(config.out), "Training of a slice network", measures)
    return measures


def check_crop(subject: Subject, crop: int, levels: int) -> float:
    """Spacing [mm] of the prepared scans. Raises VCMError where crops of that edge do not fit them."""
    shape = subject.image().shape
    multiple = 2 ** (levels - 1)
    if crop % multiple or not multiple <= crop <= min(shape):
        raise VCMError(
            f"crop is {crop}, for scans of {shape} voxels and a U-Net of {levels} levels: choose a "
            f"multiple of {multiple} up to {min(shape) // multiple * multiple}."
        )
    from vcm.imaging.volume import read_volume

    return read_volume(subject.image_file).grid.spacing[0]


def read_images(subjects: Sequence[Subject]) -> NDArray[np.float16]:
    """(N, X, Y, Z) in 0..1."""
    return np.stack([s.image().astype(np.float16) for s in subjects])


@torch.inference_mode()
def measure_loss(
    objective: SliceObjective | MaskedObjective, pool: SlicePool, batches: int = 16
) -> float:
    """Mean loss over fixed draws."""
    losses = []
    for n in range(batches):
        batch = pool.draw(np.random.default_rng((0, n)))
        losses.append(objective(moved(batch, objective.net.device))["loss"])
    return float(torch.stack(losses).mean())
