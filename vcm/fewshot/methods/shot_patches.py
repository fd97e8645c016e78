"""Patches of the shots that a label map's network is fitted to, turned, scaled and recoloured.

Knows prepared shots in memory; nothing of networks. What is drawn depends on the generator alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vcm.fewshot.configuration import NetworkTraining
from vcm.fewshot.methods import carving
from vcm.fewshot.methods.crops import Motion, crop_grid, nearest

#: Largest turn [rad], scale and shift [voxel] of a patch.
MOTION = Motion(0.26, 0.15, 3.0)


@dataclass(frozen=True)
class Example:
    """One prepared shot: image (C, X, Y, Z) in 0..1, labels (1, X, Y, Z) in 8 bits, and where they are not 0."""

    image: Tensor
    labels: Tensor
    labelled: NDArray[np.int_]


class PatchBatch(NamedTuple):
    """Images (B, C, X, Y, Z) in 0..1 and labels (B, 1, X, Y, Z)."""

    images: Tensor
    labels: Tensor


class PatchSampler:
    """Patches of the shots, half of them around a labelled voxel, turned, scaled and recoloured.

    Where the classes are lesions, a share of the patches gets one of another shot.
    """

    def __init__(
        self, examples: Sequence[Example], training: NetworkTraining, lesions: bool = False
    ) -> None:
        self.examples, self.training = examples, training
        largest = np.max([e.image.shape[1:] for e in examples], axis=0)
        self.size = tuple(int(min(training.patch, -(-n // 8) * 8)) for n in largest)
        self.donors = [n for n, e in enumerate(examples) if len(e.labelled)] if lesions else []

    def draw(self, random: np.random.Generator) -> PatchBatch:
        """One batch; a function of the generator alone."""
        pairs = [self._patch(random) for _ in range(self.training.batch_size)]
        return PatchBatch(torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs]))

    def _patch(self, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        place = int(random.integers(len(self.examples)))
        image, labels = self._crop(self.examples[place], random, 0.5)
        if self.donors and random.random() < carving.SHARE:
            others = [n for n in self.donors if n != place] or self.donors
            donor = self.examples[others[int(random.integers(len(others)))]]
            distance = random.uniform(0, carving.REACH)
            image, labels = carving.carve_into(
                image, labels, *self._crop(donor, random, 1.0), distance
            )
        return recoloured(image, random), labels

    def _crop(
        self, example: Example, random: np.random.Generator, labelled: float
    ) -> tuple[Tensor, Tensor]:
        """A patch, turned and scaled; with the probability `labelled` around a labelled voxel."""
        size = np.array(example.image.shape[1:])
        edge = np.array(self.size)
        low, high = np.minimum(edge / 2, size / 2), np.maximum(size - edge / 2, size / 2)
        centre = random.uniform(low, high)
        if len(example.labelled) and random.random() < labelled:
            voxel = example.labelled[int(random.integers(len(example.labelled)))]
            centre = np.clip(voxel + random.uniform(-edge / 4, edge / 4), low, high)
        grid = crop_grid(random, self.size, centre, size, MOTION, self.training.mirror)
        image = functional.grid_sample(example.image[None], grid, "bilinear", align_corners=False)
        return image[0], nearest(example.labels, grid)


def recoloured(image: Tensor, random: np.random.Generator) -> Tensor:
    """Each channel (C, X, Y, Z) with another gain, gamma and noise, a third of them smoothed."""
    channels = []
    for channel in image:
        gain, gamma = random.uniform(0.85, 1.15), np.exp(random.uniform(-0.4, 0.4))
        changed = gain * channel.clamp(0, 1).pow(float(gamma))
        if random.random() < 0.33:
            changed = functional.avg_pool3d(changed[None, None], 3, 1, 1)[0, 0]
        noise = torch.from_numpy(random.standard_normal(tuple(channel.shape), dtype=np.float32))
        channels.append(changed + float(random.uniform(0, 0.05)) * noise)
    return torch.stack(channels).clamp(0, 1)
