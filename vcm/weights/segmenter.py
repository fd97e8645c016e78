"""Load a tissue segmenter by name or folder, and let it see the voxels that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vcm.embedded import FOR_ANY, FOR_T1W, NETWORK, network_folder
from vcm.errors import VCMError
from vcm.imaging.geometry import model_grid, resample
from vcm.imaging.volume import Grid, Volume
from vcm.nets.segmenter import TissueSegmenter
from vcm.weights.network import load_network

#: Key in the segmenter's configuration: spacing of its training scans [mm]. Older ones have 2 mm.
_SPACING = "_spacing"
#: Key of the contrasts that it was trained on, see vcm pretrain segmenter; without it T1w.
_CONTRASTS = "_contrasts"
#: What to give where there is no segmenter.
_REMEDY = f"give {FOR_T1W}, {FOR_ANY}, or the folder 'segmenter' that vcm pretrain segmenter wrote."


def segmenter_folder(name: str, argument: str = "segmenter") -> Path:
    """The folder of a segmenter, embedded under that name or itself a folder.

    Args:
        name: Of either.
        argument: Of the command that named it.

    Raises:
        VCMError: There is none.
    """
    folder = network_folder(name)
    if not (folder / NETWORK).is_file():
        raise VCMError(f"{name} holds no segmenter: {_REMEDY}", argument=argument)
    return folder


def load_segmenter(name: str, argument: str = "segmenter") -> TissueSegmenter:
    """A segmenter in float32, embedded under that name or in that folder; arguments as `segmenter_folder` has them.

    Raises:
        VCMError: There is none, or its files are not those that were saved.
    """
    net = load_network(TissueSegmenter, name, "segmenter", _REMEDY, argument)
    if net.config.inputs != 1 and argument != "start":
        raise VCMError(
            f"{name} reads {net.config.inputs} sequences side by side and knows tumours, but tissues are named from one "
            f"scan: {_REMEDY}",
            argument=argument,
        )
    return net


def record_training(
    net: TissueSegmenter, grid: Grid, contrasts: str, sequences: Sequence[str] = ()
) -> None:
    """Write into its configuration which voxels and contrasts it was trained on.

    Args:
        net: The segmenter.
        grid: Of the scans.
        contrasts: t1w or any.
        sequences: That it reads side by side, where it does.
    """
    net.register_to_config(**{_SPACING: float(np.mean(grid.spacing)), _CONTRASTS: contrasts})
    if sequences:
        net.register_to_config(_sequences=list(sequences))


def knows_any_contrast(net: TissueSegmenter) -> bool:
    """Whether it was trained on scans of any contrast, not on T1w scans alone."""
    return bool(net.config.get(_CONTRASTS, "t1w") == "any")


def segmenter_grid(net: TissueSegmenter) -> Grid:
    """The voxels that it was trained on, in common space."""
    return model_grid(float(net.config.get(_SPACING, 2.0)))


def seen_by(net: TissueSegmenter, image: NDArray[np.float32], grid: Grid) -> torch.Tensor:
    """What the segmenter is to see of a volume, on its device.

    Args:
        net: The segmenter.
        image: Brain (X, Y, Z) in 0..1 on `grid`, in common space.
        grid: Voxels of the image.

    Returns:
        (1, 1, X', Y', Z') in 0..1 on the segmenter's grid.
    """
    wanted = segmenter_grid(net)
    if not _same(grid, wanted):
        image = np.clip(resample(Volume(image, grid.affine), wanted, order=1), 0, 1)
    return torch.from_numpy(np.asarray(image, dtype=np.float32))[None, None].to(net.device)


@torch.inference_mode()
def segment_on(net: TissueSegmenter, image: NDArray[np.float32], grid: Grid) -> NDArray[np.uint8]:
    """Class map 0..8 (X, Y, Z) of a brain (X, Y, Z) in 0..1, on the same grid.

    The segmenter sees its own spacing; elsewhere each voxel takes the class of the nearest one.
    """
    classes = net.classes(seen_by(net, image, grid))[0].cpu().numpy()
    own = segmenter_grid(net)
    if not _same(grid, own):
        classes = resample(Volume(classes, own.affine), grid, order=0)
    found: NDArray[np.uint8] = classes.astype(np.uint8)
    return found


def _same(a: Grid, b: Grid) -> bool:
    return a.shape == b.shape and np.allclose(a.affine, b.affine, atol=1e-3)
