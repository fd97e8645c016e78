"""Add the detail that latents lack to the brain that a model expects, and say how far off it may be.

Knows what DetailNet reads (vcm.nets.detail) and on which grid it was trained; nothing of files.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from vcm.heap import trim_heap
from vcm.nets.detail import DEEPEST, DetailNet
from vcm.precision import computes_bfloat16
from vcm.upsampling.detail.consistency import DataConsistency
from vcm.upsampling.scans.border import interpolate_to_border
from vcm.upsampling.scans.box import WHOLE, Box, box_around
from vcm.upsampling.scans.space import Image, ResultSpace
from vcm.upsampling.scans.thick_scan import ThickScan

#: Least share of the model in a voxel that has an uncertainty.
RIM = 0.01
#: Voxels around the brain that the network sees.
MARGIN = 6
#: The network was trained at the model's spacing; a fine grid counts as that within this share.
ALIKE = 0.1


def detail_input(
    space: ResultSpace, consistency: DataConsistency, expected: Image, box: Box = WHOLE
) -> NDArray[np.float32]:
    """(3, X, Y, Z) as DetailNet reads it, slices across the last axis, see vcm.nets.detail.READS.

    Args:
        space: Of one scan.
        consistency: With the same scan.
        expected: The brain that the model expects, in scan space and projected.
        box: Of the fine grid, which the network is to see.
    """
    channels = (consistency.interpolated, space.scan.nearness(), expected)
    return np.moveaxis(np.stack([c[box] for c in channels]), 1 + space.across, -1)


def add_detail(
    space: ResultSpace,
    consistency: DataConsistency,
    expected: Image,
    net: DetailNet,
    noise: float = 0.5,
    mirrors: bool = True,
) -> tuple[Image, Image]:
    """The expected brain with the network's detail, on a grid of the spacing it was trained at.

    Args:
        space: Of one scan.
        consistency: With the same scan.
        expected: The brain that the model expects, in scan space and projected.
        net: Of the model.
        noise: Error of a slice over that of the network's image, in the projection that follows.
        mirrors: Average the network over mirror images of the brain, see DetailNet.over_mirrors.

    Returns:
        The image, projected, and the standard deviation of its error, 0 where no model took part.
    """
    image, std = _ask(space, consistency, expected, net, mirrors)
    return replace(consistency, noise=noise).project(space.in_brain(image)), _inside(space, std)


def add_detail_on_other_grid(
    space: ResultSpace,
    consistency: DataConsistency,
    brain: NDArray[np.float32],
    expected: Image,
    net: DetailNet,
    noise: float = 0.5,
    mirrors: bool = True,
) -> tuple[Image, Image]:
    """`add_detail` on a grid of another spacing than the network was trained at.

    The network works on a grid of its own spacing. What it changes there is brought to the grid of
    `space`, added to the expected brain, and projected there.

    Args:
        space: Of one scan.
        consistency: With the same scan.
        brain: What the model expects, (X, Y, Z) on its own grid.
        expected: The same in scan space and projected.
        net: Of the model.
        noise: As `add_detail` has it.
        mirrors: As `add_detail` has it.

    Returns:
        As `add_detail`.
    """
    there = ResultSpace(space.scan.at_spacing(float(np.mean(space.scan.model.spacing))))
    measured = DataConsistency(there.scan, noise=consistency.noise)
    begun = measured.project(there.to_scan_space(brain))
    image, std = _ask(there, measured, begun, net, mirrors)
    grid, fine = there.scan.fine, space.scan.fine
    change = interpolate_to_border(image - begun, grid, fine, order=3)
    error = interpolate_to_border(std, grid, fine, order=1)
    detailed = space.in_brain(expected + change)
    return replace(consistency, noise=noise).project(detailed), _inside(space, error)


def brain_with_detail(
    space: ResultSpace,
    measured: DataConsistency,
    brain: NDArray[np.float32],
    expected: Image,
    net: DetailNet,
    noise: float,
    mirrors: bool,
) -> tuple[Image, Image, Image]:
    """The brain that a model expects under one scan with the network's detail, in scan space.

    Args:
        space: Of one scan that can have detail, see `can_add_detail`.
        measured: Consistency with that scan alone.
        brain: What the model expects, (X, Y, Z) on its own grid.
        expected: The same in scan space and projected.
        net: Of the model.
        noise: As `add_detail` has it.
        mirrors: As `add_detail` has it.

    Returns:
        (X, Y, Z) on the scan's fine grid: the image; the standard deviation of its error; the share that the
        model made.
    """
    if _has_spacing_of_model(space.scan):
        image, std = add_detail(space, measured, expected, net, noise, mirrors)
    else:
        image, std = add_detail_on_other_grid(space, measured, brain, expected, net, noise, mirrors)
    return image, std, space.share_of_brain


def can_add_detail(scan: ThickScan) -> bool:
    """Whether the network was trained at the result's spacing, or at one that refines the slices."""
    refines = float(np.mean(scan.model.spacing)) < scan.acquisition.spacing
    return _has_spacing_of_model(scan) or refines


def _has_spacing_of_model(scan: ThickScan) -> bool:
    return bool(np.allclose(scan.fine.spacing, scan.model.spacing, rtol=ALIKE))


@torch.inference_mode()
def _ask(
    space: ResultSpace,
    consistency: DataConsistency,
    expected: Image,
    net: DetailNet,
    mirrors: bool,
) -> tuple[Image, Image]:
    """Image and standard deviation that the network says, on the fine grid.

    It sees the brain and MARGIN around it, as in training. Elsewhere the image is what is expected, and
    the deviation 0.
    """
    box = box_around(space.share_of_brain > 0, MARGIN, DEEPEST * net.fold)
    read = np.ascontiguousarray(detail_input(space, consistency, expected, box))
    part = torch.from_numpy(read)[None].to(net.device)
    trim_heap()  # of what made the input; the network takes most memory of all
    half = computes_bfloat16(net.device)
    with torch.autocast(net.device.type, torch.bfloat16, enabled=half):
        found = (net.over_mirrors if mirrors else net)(part)
    image, std = expected.copy(), np.zeros_like(expected)
    image[box], std[box] = (np.moveaxis(v[0, 0].cpu().numpy(), -1, space.across) for v in found)
    return image, std


def _inside(space: ResultSpace, std: Image) -> Image:
    """0 where no model took part; at the rim, where the result fades into interpolation, it errs no less."""
    return np.where(space.share_of_brain > RIM, std, 0).astype(np.float32)
