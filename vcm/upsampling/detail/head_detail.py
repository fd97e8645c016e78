"""Detail between the slices of a whole head of any contrast, by a network that sees no model.

Knows what vcm.upsampling.pretraining.contrast_training trained: air is 0 and the brain's brightest percentile 1, at 1 mm.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter

from vcm.errors import VCMError
from vcm.heap import trim_heap
from vcm.nets.detail import DetailNet
from vcm.precision import computes_bfloat16
from vcm.upsampling.detail.consistency import DataConsistency
from vcm.upsampling.scans.border import interpolate_to_border
from vcm.upsampling.scans.box import box_around
from vcm.upsampling.scans.space import Image, ResultSpace
from vcm.upsampling.scans.thick_scan import ThickScan
from vcm.weights.network import load_network

#: In place of a network's name: none is wanted.
NONE = "none"
#: Spacing that the network was trained at [mm], and by which share a grid may differ from it.
TRAINED, ALIKE = 1.0, 0.1
#: Percentile of a scan that stands for air; what is brighter than this share shows something ...
AIR, SHOWS = 0.5, 0.06
#: ... and so far around it the network was trained [voxel].
NEAR = 3
#: Voxels around the head that the network sees, twice on both sides together.
EDGE = 16
#: Mirror images of the head that the network is asked of.
HEAD_MIRRORS = ((), (3,))


def load_detail(name: str | Path) -> DetailNet | None:
    """Load a network for any contrast.

    Args:
        name: Of an embedded network, or a folder that `vcm pretrain contrasts` wrote, out/model; none: no
            network.

    Raises:
        VCMError: No such network lies there, or its files are not those that were saved.
    """
    if str(name) == NONE:
        return None
    what = "detail network for any contrast"
    remedy = "give the folder `model` of a run of vcm pretrain contrasts, or none."
    net = load_network(DetailNet, name, what, remedy, "detail")
    if net.expects:
        raise VCMError(
            f"{name} holds no {what}, but one that reads what a model expects: {remedy}",
            argument="detail",
        )
    net.net.to(memory_format=torch.channels_last_3d)
    return net


def add_head_detail(
    scan: ThickScan, net: DetailNet, noise: float, detail_noise: float, mirrors: bool
) -> tuple[Image, Image, Image]:
    """The whole field of view with the network's detail, projected onto the slices.

    Args:
        scan: Of any contrast, with its skull or without.
        net: Trained on any contrast, wherever it lies.
        noise: Of the projection that the network reads.
        detail_noise: Of the projection of its image.
        mirrors: Average over the HEAD_MIRRORS.

    Returns:
        (X, Y, Z) on the scan's fine grid: the image; the standard deviation of its error, 0 in air; the share
        of it that the network made.
    """
    own = bool(np.allclose(scan.fine.spacing, TRAINED, rtol=ALIKE))
    there = scan if own or scan.acquisition.spacing <= TRAINED else scan.at_spacing(TRAINED)
    measured = DataConsistency(scan, noise=noise)
    read = measured if there is scan else DataConsistency(there, noise=noise)
    change, std, share = _change(read, net, mirrors)
    if there is not scan:
        change, std, share = (
            interpolate_to_border(v, there.fine, scan.fine, order=1) for v in (change, std, share)
        )
    image = replace(measured, noise=detail_noise).project(measured.interpolated + change)
    return image, std, share


@torch.inference_mode()
def _change(measured: DataConsistency, net: DetailNet, mirrors: bool) -> tuple[Image, Image, Image]:
    """What the network adds to the interpolation, the error that it states, and where it was asked."""
    scan, interpolated = measured.scan, measured.interpolated
    air = min(0.0, float(np.percentile(scan.volume.data, AIR)))
    width = 1 - air
    scaled = ((interpolated - air) / width).astype(np.float32)
    share = _shown(scaled)
    box = box_around(share > 0, EDGE // 2, EDGE)
    across = ResultSpace(scan).across
    read = np.stack([v[box] for v in (scaled, scan.nearness(), np.zeros_like(scaled))])
    batch = torch.from_numpy(np.ascontiguousarray(np.moveaxis(read, 1 + across, -1)))[None]
    trim_heap()  # of what made the input; the network takes most memory of all
    half = computes_bfloat16(net.device)
    with torch.autocast(net.device.type, torch.bfloat16, enabled=half):
        found = net.over_tiles(batch, HEAD_MIRRORS if mirrors else HEAD_MIRRORS[:1])
    change, std = np.zeros_like(scaled), np.zeros_like(scaled)
    image, error = (np.moveaxis(v[0, 0].numpy(), -1, across) for v in found)
    change[box], std[box] = image - scaled[box], error
    return share * width * change, share * width * std, share


def _shown(scaled: NDArray[np.float32]) -> Image:
    """1 on the head, 0 in air, smooth between."""
    near = binary_dilation(scaled > SHOWS, iterations=NEAR)
    return np.asarray(gaussian_filter(near.astype(np.float32), 1.0), dtype=np.float32)
