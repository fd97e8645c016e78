"""Features of every brain voxel: what a slice diffusion model sees there in three views, and its surroundings.

Decoder activations of axial, coronal and sagittal slices are concatenated (arXiv 2407.12329; the
features of one view: Baranchuk et al., ICLR 2022, arXiv 2112.03126), then patches of intensities and
the place of the voxel. Only brain voxels are kept, in half precision, one slab of slices at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from torch import Tensor
from torch.nn import functional

from vcm.checksums import verify_checksums
from vcm.errors import VCMError
from vcm.imaging.views import VIEWS, place_slices, places, slices
from vcm.imaging.volume import Grid
from vcm.nets.slice_denoiser import SliceDenoiser, add_noise

#: Slices that go through the network at a time.
SLAB = 8
#: Wave numbers of the sines and cosines that tell the place.
WAVES = (1.0, 2.0, 4.0)


class DiffusionFeatures:
    """Volumes on the model's grid -> features per brain voxel.

    Args:
        denoiser: One network of three views, or one network per view.
        time: Noise level that the network is told, 0..1.
        noisy: Add noise of that level to the slices. Otherwise they are given clean.
        blocks: Decoder blocks, 0 the deepest; empty: all.
        surroundings: Add patches of intensities and the place of the voxel.
        seed: Of the noise.
    """

    def __init__(
        self,
        denoiser: SliceDenoiser | Sequence[SliceDenoiser],
        time: float = 0.1,
        noisy: bool = False,
        blocks: Sequence[int] = (),
        surroundings: bool = True,
        seed: int = 0,
    ) -> None:
        given = [denoiser] if isinstance(denoiser, SliceDenoiser) else list(denoiser)
        self.of_view = {view: net for net in given for view in net.config.views}
        self.views = [view for view in VIEWS if view in self.of_view]
        if not 0 <= time < 1:
            raise VCMError(f"time is {time}: choose 0 (clean) up to, but not including, 1.")
        bad = [b for b in blocks if not 0 <= b < given[0].blocks]
        if bad:
            raise VCMError(
                f"blocks holds {bad[0]}: this network has blocks 0 to {given[0].blocks - 1}."
            )
        self.time, self.noisy, self.blocks = time, noisy, list(blocks)
        self.surroundings, self.seed = surroundings, seed

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: object) -> DiffusionFeatures:
        """From a folder of one network, or one that holds a folder for each view.

        Raises:
            VCMError: There is no network, or it cannot be read.
        """
        return cls(load_denoisers(folder), **options)  # type: ignore[arg-type]

    def to(self, device: torch.device | str) -> DiffusionFeatures:
        """Compute on that device."""
        for net in self.of_view.values():
            net.to(device)
        return self

    @property
    def spacing(self) -> float:
        """Voxel size [mm] that the networks were trained at."""
        return float(next(iter(self.of_view.values())).config.spacing)

    @property
    def count(self) -> int:
        """Features per voxel."""
        of_views = sum(self.of_view[v].feature_channels(self.blocks) for v in self.views)
        return of_views + (len(_OFFSETS) + len(_FAR) + 3 + 6 * len(WAVES)) * self.surroundings

    def bytes_for(self, voxels: int) -> int:
        """Memory [bytes] that the features of so many voxels take."""
        return 2 * voxels * self.count

    @torch.inference_mode()
    def __call__(
        self, image: NDArray[np.float32], mask: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float16]:
        """Features of the voxels of a mask.

        Args:
            image: (X, Y, Z) in 0..1 on the grid of the network, 0 outside the brain.
            mask: (X, Y, Z); where features are wanted. Default: where the image is above 0.

        Returns:
            (N, F) in the order of `image[mask]`.
        """
        mask = image > 0 if mask is None else mask
        found = np.empty((int(mask.sum()), self.count), np.float16)
        row = np.full(mask.shape, -1, np.int64)
        row[mask] = np.arange(len(found))
        column = 0
        for view in self.views:
            width = self.of_view[view].feature_channels(self.blocks)
            self._fill(found[:, column : column + width], image, row, view)
            column += width
        if self.surroundings:
            found[:, column:] = surroundings(image, mask)
        return found

    def _fill(
        self, out: NDArray[np.float16], image: NDArray[np.float32], row: NDArray, view: str
    ) -> None:
        """Activations of one view, slab by slab of slices that hold voxels of the mask."""
        net = self.of_view[view]
        stack, rows = slices(image, view), slices(row, view)
        x, y, z = image.shape
        place = place_slices((x, y, z), view)
        used = np.flatnonzero((rows >= 0).any((1, 2)))
        for first in range(0, len(used), SLAB):
            index = used[first : first + SLAB]
            clean = torch.from_numpy(np.ascontiguousarray(stack[index]))[:, None].float() * 2 - 1
            time = torch.full((len(index),), self.time)
            if self.noisy:
                clean = add_noise(clean, self._noise(index, view, clean.shape), time)
            padded, size = _pad(clean, net.downsampling)
            where, _ = _pad(torch.from_numpy(place[index]), net.downsampling)
            views = torch.full((len(index),), VIEWS.index(view))
            maps = net.features(
                *(v.to(net.device) for v in (padded, time, views, where)), self.blocks
            )
            wanted = torch.from_numpy(np.ascontiguousarray(rows[index]))
            inside = wanted >= 0
            values = torch.cat([_gather(m, padded.shape[2:], size, inside) for m in maps], 1)
            out[wanted[inside].numpy()] = values.cpu().half().numpy()

    def _noise(self, index: NDArray[np.int64], view: str, shape: Sequence[int]) -> Tensor:
        """Noise (B, 1, H, W) of each slice by its number, whichever others go with it."""
        noise = torch.empty(tuple(shape))
        for one, number in zip(noise, index, strict=True):
            key = np.random.SeedSequence((self.seed, VIEWS.index(view), int(number)))
            generator = torch.Generator().manual_seed(int(key.generate_state(1)[0]))
            one.normal_(generator=generator)
        return noise


def _gather(maps: Tensor, padded: Sequence[int], size: Sequence[int], inside: Tensor) -> Tensor:
    """Activations (B, C, h, w) at the pixels of a mask (B, H, W), bilinear: (N, C)."""
    full = functional.interpolate(
        maps.float(), size=tuple(padded), mode="bilinear", align_corners=False
    )
    full = full[:, :, : size[0], : size[1]]
    return full.movedim(1, 3)[inside.to(full.device)]


def _pad(stack: Tensor, multiple: int) -> tuple[Tensor, tuple[int, int]]:
    """Sides of (B, C, H, W) filled up to a multiple with the border's values; and their size before."""
    h, w = stack.shape[2:]
    return functional.pad(stack, (0, -w % multiple, 0, -h % multiple), mode="replicate"), (h, w)


#: Offsets [voxel] of the neighbours whose intensity is a feature, and of those farther off, whose mean
#: over 3 x 3 x 3 voxels is.
_OFFSETS = [(i, j, k) for i in range(-2, 3) for j in range(-2, 3) for k in range(-2, 3)]
_FAR = [(3 * i, 3 * j, 3 * k) for i, j, k in _OFFSETS if max(abs(i), abs(j), abs(k)) == 2]


def surroundings(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float16]:
    """Intensities around each voxel of a mask, near and far, and its place: (N, F)."""
    far = max(max(offset) for offset in _FAR)
    where = np.argwhere(mask) + far
    columns = []
    for values, offsets in (
        (np.pad(image, far), _OFFSETS),
        (np.pad(uniform_filter(image, 3), far), _FAR),
    ):
        columns += [
            values[tuple((where + np.asarray(offset)).T)].astype(np.float16) for offset in offsets
        ]
    x, y, z = image.shape
    place = places((x, y, z))[:, mask]
    angles = np.concatenate([np.pi * wave * place for wave in WAVES])
    columns += [*place, *np.sin(angles), *np.cos(angles)]
    return np.stack(columns, 1).astype(np.float16)


def load_denoisers(folder: str | Path) -> list[SliceDenoiser]:
    """Networks of a folder: itself, or one folder for each view, their checksums compared. Raises VCMError."""
    folder = Path(folder)
    parts = [folder] if (folder / "config.json").is_file() else [folder / view for view in VIEWS]
    if not all((part / "config.json").is_file() for part in parts):
        raise VCMError(
            f"{folder} holds no slice diffusion model (config.json, or a folder for each of "
            f"{', '.join(VIEWS)}): give the folder 'slices' that vcm pretrain slices wrote."
        )
    for part in dict.fromkeys([folder, *parts]):
        verify_checksums(part)
    try:
        return [SliceDenoiser.from_pretrained(part).float().eval() for part in parts]
    except VCMError:  # says itself what is wrong
        raise
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise VCMError(
            f"The slice diffusion model in {folder} cannot be loaded ({reason}): copy it again."
        ) from error


def check_spacing(denoisers: Sequence[SliceDenoiser], grid: Grid) -> None:
    """Raise VCMError where the networks were trained on voxels of another size."""
    wrong = [n for n in denoisers if abs(float(n.config.spacing) - grid.spacing[0]) > 1e-3]
    if wrong:
        raise VCMError(
            f"The slice diffusion model was trained at {float(wrong[0].config.spacing):g} mm, but the "
            f"grid has {grid.spacing[0]:g} mm: give a model of that spacing."
        )
