"""A T1w brain from an upsampled scan of another contrast: what `vcm upsample --to T1w` adds to its result.

The network works at 2 mm in common space. Finer detail is the scan's own: where T1w and scan go together, by a
local linear regression (as in the guided filter, He et al., IEEE TPAMI 2013), what the scan shows below 2 mm is
added in the contrast that the regression tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vcm.errors import VCMError
from vcm.imaging.geometry import from_model_grid, to_model_grid
from vcm.imaging.random_scan import to_read
from vcm.imaging.volume import Grid, Volume
from vcm.nets.translator import Translator
from vcm.upsampling.detail.local_detail import add_detail
from vcm.upsampling.results.upsampled import Upsampled
from vcm.upsampling.scans.space import Image, ResultSpace
from vcm.upsampling.scans.thick_scan import ThickScan
from vcm.weights.network import load_network

#: Contrasts that a scan can be translated to.
CONTRASTS = ("T1w",)
#: Neighbourhood that tells the slope of the detail [mm].
WINDOW = 3.0


@dataclass(frozen=True)
class TranslatedBrain:
    """On the voxels of the result that it was made of.

    Attributes:
        image: Expected T1w brain, where 0 and 1 are percentiles of a brain, and 0 outside of it.
        std: Standard deviation of its error, as the network states it.
    """

    image: Volume
    std: Volume


def check_contrast(to: str | None) -> None:
    """Raise VCMError for a contrast that nothing can be translated to."""
    if to is not None and to not in CONTRASTS:
        raise VCMError(f"to is {to}: choose {' or '.join(CONTRASTS)}, or leave it out.")


def load_translator(name: str | Path) -> Translator:
    """Load a translator.

    Args:
        name: Of an embedded network, or a folder that `vcm pretrain translator` wrote, out/model.

    Raises:
        VCMError: No such network lies there, or its files are not those that were saved.
    """
    remedy = "give t1w2mm, or the folder `model` of a run of vcm pretrain translator."
    return load_network(Translator, name, "translator", remedy, "translator")


def refuse_t1w(scan: ThickScan) -> None:
    """Raise VCMError for a scan that is T1w already."""
    if scan.contrast.is_t1w:
        raise VCMError(
            f"{scan.volume.source} is T1w by its {scan.contrast.method}, so there is nothing to translate: "
            "leave out --to, or if it is another contrast, let its file name say so, such as sub-1_FLAIR.nii.gz.",
            argument="to",
        )


def translate(result: Upsampled, net: Translator) -> TranslatedBrain:
    """The T1w brain that is expected under an upsampled scan.

    Args:
        result: Of a scan of any contrast.
        net: Wherever it lies.

    Raises:
        VCMError: The scan is T1w already.
    """
    scan = result.scan
    refuse_t1w(scan)
    common = _InCommonSpace(result, net)
    with torch.inference_mode():
        found = net.over_mirrors(common.read.to(net.device))
    image, std = (common.back(v[0, 0].float().cpu().numpy()) for v in found)
    inside = common.share > 0.5
    detailed = add_detail(
        image, common.scaled(result.mean), common.scaled(common.back(common.coarse)), inside,
        scan.fine.spacing, WINDOW,
    )  # fmt: skip
    made = np.clip(detailed, 0, None) * common.share
    stated = np.maximum(std, 0) * (common.share > 0)
    place = scan.volume if result.like is None else result.like
    image_of, std_of = (
        Volume(v.astype(np.float32), scan.fine.affine, place.header, scan.volume.source)
        for v in (made, stated)
    )
    return TranslatedBrain(image_of, std_of)


def before_network(result: Upsampled, net: Translator) -> tuple[Image, Image]:
    """What the network begins with, to compare with: the curve of the scan, and the mean brain.

    Returns:
        Each (X, Y, Z) on the voxels of the result.
    """
    common = _InCommonSpace(result, net)
    guess = net.guess(common.read.to(net.device))[0, 0].cpu().numpy()
    return common.back(guess), common.back(net.template[0, 0].cpu().numpy())


class _InCommonSpace:
    """A scan as the network reads it, and the way back.

    Attributes:
        share: (X, Y, Z) of the result, 1 in the brain, 0 outside it.
        coarse: (X, Y, Z) the scan on the network's grid, in its own intensities.
        read: (1, 1, X, Y, Z) the same in 0..1.
    """

    def __init__(self, result: Upsampled, net: Translator) -> None:
        self.scan = result.scan
        self.grid = _grid_of(net)
        self.share = ResultSpace(self.scan).share_of_brain
        inside = self.share > 0.5
        self.coarse = self._there(np.where(inside, result.mean, 0).astype(np.float32))
        brain = self._there(inside.astype(np.float32)) > 0.5
        read, (self.low, self.high) = to_read(self.coarse, brain)
        self.read = torch.from_numpy(read)[None, None]

    def scaled(self, image: Image) -> Image:
        """Intensities of the scan as the network reads them."""
        values: Image = ((image - self.low) / max(self.high - self.low, 1e-6)).astype(np.float32)
        return values

    def back(self, image: Image) -> Image:
        """The network's grid -> the voxels of the result."""
        moved: Image = from_model_grid(
            image, self.grid, self.scan.fine, self.scan.to_common, order=3
        )
        return moved

    def _there(self, image: Image) -> Image:
        moved: Image = to_model_grid(
            Volume(image, self.scan.fine.affine), self.grid, self.scan.to_common, order=1
        )
        return moved


def _grid_of(net: Translator) -> Grid:
    x, y, z = net.config.grid["shape"]
    return Grid((x, y, z), net.affine)
