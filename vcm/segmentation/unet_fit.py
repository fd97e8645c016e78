"""Fit a 3D U-Net to deformed copies of the labelled brains, around what is labelled: the third voice.

loss = Dice + cross-entropy, over the voxels whose label is known
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from monai.losses.dice import MaskedDiceLoss
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vcm.learning.frequencies import start_at_frequencies
from vcm.nets.segmenter import TissueSegmenter
from vcm.nets.windows import by_windows
from vcm.precision import computes_bfloat16, keep_thin_convolutions_exact
from vcm.segmentation.copies import warped_copy
from vcm.segmentation.labelled import UNKNOWN, LabelledBrain

if TYPE_CHECKING:
    from jaxtyping import Float, Int

#: Optimiser steps, each on one crop; a copy serves for several steps. None is mirrored: the mean with the mirror
#: image buys more than that, and the two together less.
STEPS, STEPS_PER_COPY, LEARNING_RATE = 1600, 8, 2e-3
#: Steps in which the learning rate rises, and largest norm of the gradient. Without them, and without a start at the
#: frequencies of the classes, small structures are lost in the first steps and never found again.
WARMUP, LARGEST = 50, 1.0
#: Voxels of the grid between the structures and the edge of the box that the U-Net knows; further ones that a
#: copy is deformed with, so that it has no black edges.
MARGIN, ROOM = 6, 8
#: Steps from one report to the next.
REPORTED = 100
#: Largest edge of a crop [voxel], a multiple of what the network halves. A larger box is read in windows of this edge.
CROP = 56


class BoxUNet:
    """A U-Net that knows a box of the grid, with background beyond it.

    Args:
        net: Logits (1, C, x, y, z) of an image (1, 1, x, y, z).
        box: (3, 2) first voxel and the one after the last, per axis; None: the whole grid, read at once, as
            earlier versions learned it.
    """

    def __init__(self, net: TissueSegmenter, box: NDArray[np.int64] | None) -> None:
        self.net, self.box = net, box

    @property
    def saw_all(self) -> bool:
        """Whether each crop that it learned from was its whole box."""
        return self.box is not None and fits_crop(self.box)

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities (C, X, Y, Z) of the classes of an image (X, Y, Z) in 0..1."""
        box = np.array([[0, n] for n in image.shape]) if self.box is None else self.box
        inside = (slice(None), *(slice(a, b) for a, b in box))
        device = next(self.net.parameters()).device
        part = torch.from_numpy(np.ascontiguousarray(image[inside[1:]])).to(device)
        edge = CROP if self.box is not None else max(image.shape)
        read = by_windows(lambda x: self.net(x).softmax(1), part[None, None], edge)
        probabilities = read[0].cpu().numpy()
        found = np.zeros((len(probabilities), *image.shape), np.float32)
        found[0] = 1
        found[inside] = probabilities
        return found


def fit_unet(
    brains: Sequence[LabelledBrain], classes: int, seed: int, device: torch.device,
    steps: int = STEPS, report: Callable[[str], None] = lambda stage: None,
    start: TissueSegmenter | None = None,
) -> BoxUNet:  # fmt: skip
    """A U-Net for brains that are labelled wholly or in some slices.

    Args:
        brains: On one grid, whose axes are multiples of 8.
        classes: Background among them.
        seed: Of weights and copies.
        device: Where to compute.
        steps: Optimiser steps.
        report: Told how far it is, for a progress bar.
        start: Whose weights it begins with, in all layers but the last; None: random ones.

    Returns:
        The network, not training, on that device.
    """
    torch.manual_seed(seed)
    net = _begun(start, classes).to(device)
    keep_thin_convolutions_exact(net)
    optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE)
    schedule = get_cosine_schedule_with_warmup(optimizer, min(WARMUP, steps // 4), steps)
    random = np.random.default_rng((seed, 2))
    box = box_around(brains, net.downsampling)
    inside = tuple(slice(a, b) for a, b in box)
    seen = [torch.from_numpy(part[part != UNKNOWN]) for part in (b.labels[inside] for b in brains)]
    start_at_frequencies(net.get_parameter("out.conv.conv.bias"), seen, classes)
    around = np.clip(box + np.array([-ROOM, ROOM]), 0, np.array(brains[0].image.shape)[:, None])
    size = np.minimum(box[:, 1] - box[:, 0], CROP)
    net.train()
    for step in range(steps):
        if step % REPORTED == 0:
            report(f"3D U-Net, step {step} of {steps}")
        if step % STEPS_PER_COPY == 0:
            copy = _copy(brains, around, random)
        first = box[:, 0] - around[:, 0] + random.integers(box[:, 1] - box[:, 0] - size + 1)
        crop = tuple(slice(a, a + n) for a, n in zip(first, size, strict=True))
        image, labels = (np.ascontiguousarray(part[crop]) for part in copy)
        given = torch.from_numpy(image)[None, None].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=computes_bfloat16(device)):
            logits = net(given)
        loss = loss_where_known(logits.float(), torch.from_numpy(labels).long()[None].to(device))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), LARGEST)
        optimizer.step()
        schedule.step()
    return BoxUNet(net.eval(), box)


def _begun(start: TissueSegmenter | None, classes: int) -> TissueSegmenter:
    """A network with random weights, or with those of another in all layers but the last."""
    if start is None:
        return TissueSegmenter(out_classes=classes)
    shape = {name: start.config[name] for name in ("channels", "groups", "patch")}
    net = TissueSegmenter(**shape, out_classes=classes)
    known = {n: v for n, v in start.state_dict().items() if not n.startswith("out.")}
    net.load_state_dict(net.state_dict() | known)
    return net


def loss_where_known(
    logits: Float[Tensor, "B C X Y Z"], labels: Int[Tensor, "B X Y Z"]
) -> Float[Tensor, ""]:
    """Dice of the classes but the background + cross-entropy; voxels of label UNKNOWN do not count."""
    known = labels != UNKNOWN
    dice = MaskedDiceLoss(include_background=False, to_onehot_y=True, softmax=True)
    surprise = functional.cross_entropy(logits, labels, ignore_index=UNKNOWN, reduction="sum")
    overlap: Tensor = dice(logits, labels.clamp(min=0)[:, None], known[:, None])
    return overlap + surprise / known.sum().clamp(min=1)


def box_around(brains: Sequence[LabelledBrain], multiple: int) -> NDArray[np.int64]:
    """Box of the grid that holds, with a margin, every structure and every brain voxel that may be one.

    Args:
        brains: On one grid, whose axes are multiples of `multiple`.
        multiple: Of which each edge is one.

    Returns:
        (3, 2) first voxel and the one after the last, per axis.
    """
    shape = np.array(brains[0].image.shape)
    places = np.argwhere(np.any([_may_be_structure(brain) for brain in brains], axis=0))
    low, high = places.min(0) - MARGIN, places.max(0) + 1 + MARGIN
    edge = np.minimum(-(-(high - low) // multiple) * multiple, shape)
    first = np.clip((low + high - edge) // 2, 0, shape - edge)
    return np.stack([first, first + edge], 1)


def _may_be_structure(brain: LabelledBrain) -> NDArray[np.bool_]:
    """(X, Y, Z): labelled, or in the brain and of unknown label."""
    unknown = (brain.labels == UNKNOWN) & (brain.image > 0)
    return (brain.labels > 0) | unknown


def fits_crop(box: NDArray[np.int64]) -> bool:
    """Whether a crop shows the whole of a box (3, 2)."""
    return bool((box[:, 1] - box[:, 0] <= CROP).all())


def _copy(
    brains: Sequence[LabelledBrain], around: NDArray[np.int64], random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """A deformed copy of a part of one of the brains."""
    brain = brains[int(random.integers(len(brains)))]
    part = tuple(slice(a, b) for a, b in around)
    return warped_copy(
        np.ascontiguousarray(brain.image[part]),
        brain.labels[part],
        int(random.integers(2**31)),
        UNKNOWN,
    )
