"""Training pairs of any contrast: a crop of a random image, and what its thick slices show.

Knows T1w scans and whole-head label maps, kept in memory at 1 mm, and the degradation; nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from vcm.errors import VCMError
from vcm.imaging.acquisition import ProfileKind, find_acquisition, isotropic_about
from vcm.imaging.background import on_black
from vcm.imaging.brain import PERCENTILES
from vcm.imaging.degradation import Degradation, simulate_thick
from vcm.imaging.draws import draw_gains
from vcm.imaging.extraction import find_brain
from vcm.imaging.random_contrast import blurred_in_plane, painted, recoloured, with_bias_field
from vcm.imaging.thick import nearness_to_slices
from vcm.imaging.volume import Grid, Volume, read_label_map, read_volume
from vcm.progress import track
from vcm.upsampling.pretraining.detail_pool import DetailBatch
from vcm.upsampling.pretraining.isotropic_scan import brain_on

#: Slice spacing [mm], slice thickness over spacing, most noise, share of draws that are of label maps.
SPACING, FILL, NOISE, OF_LABELS = (2.0, 9.0), (0.6, 1.2), 0.03, 0.4
#: Slices of half a millimetre more or less than the crop holds are cut off at its ends.
MARGIN = 12
#: Labels above this are head tissue outside the brain.
LAST_OF_BRAIN = 85
#: Share of the label maps that show their brain alone, and of brains that are extracted slice by slice.
BRAIN_ALONE, EXTRACTED = 0.3, 0.7
#: Least share of a crop that shows something.
SHOWN = 0.3
#: Air this near to what is shown [voxel] counts, so that nothing is painted there.
NEAR = 3
#: A crop is divided by this percentile of what it shows in the brain.
BRIGHT = PERCENTILES[1]


@dataclass(frozen=True)
class Sources:
    """What crops are cut from, at 1 mm.

    Attributes:
        scans: (X, Y, Z) T1w brains, 0..1 between percentiles of the brain, 0 outside; half precision.
        labels: (X, Y, Z) numbers of whole-head labels, from 0; 0 is air.
        in_brain: For each label map, whether the label of that number lies in the brain.
    """

    scans: tuple[NDArray[np.float16], ...]
    labels: tuple[NDArray[np.uint8], ...]
    in_brain: tuple[NDArray[np.bool_], ...]

    @classmethod
    def read(cls, scans: Sequence[Path], maps: Sequence[Path]) -> Sources:
        """Read and crop. Raises VCMError for what cannot be used."""
        images = tuple(read_scan(path) for path in track(scans, "Reading scans"))
        found = [read_labels(path) for path in track(maps, "Reading label maps")]
        if not images and not found:
            raise VCMError("Neither scans nor label maps are given: add data or labelmaps.")
        return cls(images, tuple(f[0] for f in found), tuple(f[1] for f in found))


def read_scan(path: Path) -> NDArray[np.float16]:
    """A T1w scan at 1 mm along its own axes, cut to its brain."""
    image = read_volume(path)
    brain = find_brain(image).mask
    image, _ = on_black(image, brain)
    if np.allclose(image.grid.spacing, 1.0, atol=1e-3):
        fine, inside = image, brain
    else:
        fine, inside = brain_on(isotropic_about(image.grid, 1.0), image, brain)
    low, high = np.percentile(fine.data[inside], PERCENTILES)
    scaled = np.where(inside, np.maximum((fine.data - low) / (high - low), 1e-3), 0)
    return _cut(scaled, inside, 4).astype(np.float16)


def read_labels(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A whole-head label map of 1 mm, numbered from 0 and cut to its head; which numbers are brain."""
    found = read_label_map(path)
    if not np.allclose(found.grid.spacing, 1.0, atol=0.05):
        raise VCMError(f"{found.source} has voxels of {found.grid.spacing} mm: give maps of 1 mm.")
    if not found.data.any():
        raise VCMError(f"{found.source} is 0 everywhere: give a label map of a head.")
    labels = _cut(found.data, found.data != 0, 4)
    names = np.unique(np.append(labels, 0))
    if len(names) > 255 or names[0] != 0:
        raise VCMError(
            f"{found.source} has {len(names)} labels from {names[0]}: give at most 255, and 0."
        )
    numbers = np.searchsorted(names, labels).astype(np.uint8)
    return numbers, (names > 0) & (names < LAST_OF_BRAIN)


def draw_pairs(
    sources: Sources, crop: int, batch_size: int, noise: float, random: np.random.Generator
) -> DetailBatch:
    """Crops of random images, and what DetailNet reads of their thick slices, across the last axis.

    Args:
        sources: What there is.
        crop: Edge [voxel].
        batch_size: Crops.
        noise: Assumed noise of the slices in the projection, as in vcm upsample.
        random: What the draw depends on, and nothing else.
    """
    drawn = [_pair(sources, crop, noise, random) for _ in range(batch_size)]
    read, truth, shown = (torch.from_numpy(np.stack(v)) for v in zip(*drawn, strict=True))
    return DetailBatch(read.float(), truth[:, None].float(), shown[:, None].float())


def _pair(
    sources: Sources, crop: int, noise: float, random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    image, shown, brain = _image(sources, crop + 2 * MARGIN, crop, random)
    image = blurred_in_plane(with_bias_field(image, random), 2, random)
    image = np.where(shown, image, 0) if (brain == shown).all() else image
    bright = float(np.percentile(image[brain], BRIGHT)) if brain.any() else float(image.max())
    image = (image / max(bright, 1e-3)).astype(np.float32)
    extracted = (brain == shown).all() and random.random() < EXTRACTED
    read = thick_read(image, noise, random, shown if extracted else None)
    inner = slice(MARGIN, MARGIN + crop)
    near = binary_dilation(shown, iterations=NEAR)
    return read[:, :, :, inner], image[:, :, inner], near[:, :, inner].astype(np.float32)


def thick_read(
    image: NDArray[np.float32],
    noise: float,
    random: np.random.Generator,
    shown: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """(3, X, Y, Z) as DetailNet reads it, of an image (X, Y, Z) of 1 mm whose thick slices are drawn.

    With `shown` (X, Y, Z) the slices are those of a brain that was extracted after they were measured: a
    voxel shows something where half of its slice does.
    """
    fine = Grid((image.shape[0], image.shape[1], image.shape[2]), np.eye(4))
    spacing = random.uniform(*SPACING)
    kinds = get_args(ProfileKind)
    profile: ProfileKind = kinds[int(random.integers(len(kinds)))]
    cut = ("axial", spacing, spacing * random.uniform(*FILL), profile)
    thick, acquisition = simulate_thick(
        Volume(image, fine.affine), *cut, noise=NOISE * random.random() ** 2, random=random
    )
    thick = thick.with_data(thick.data * draw_gains(thick.data.shape[2], random))
    if shown is not None:
        there = simulate_thick(Volume(shown.astype(np.float32), fine.affine), *cut)[0].data > 0.5
        thick = thick.with_data(np.where(there, thick.data, 0))
    # The network sees what vcm upsample assumes: a Gaussian as wide as the spacing.
    assumed = Degradation.between(fine, thick.grid, find_acquisition(thick.grid, "axial"))
    interpolated = as_thick_values(thick, fine)
    projected = assumed.project(interpolated, thick.data, noise)
    nearness = nearness_to_slices(thick, acquisition, fine)
    return np.stack([projected, nearness, np.zeros_like(nearness)]).astype(np.float32)


def as_thick_values(thick: Volume, fine: Grid) -> NDArray[np.float32]:
    """Slices linearly interpolated along the last axis; beyond the outermost they are constant."""
    places = np.linalg.inv(thick.affine)[2] @ fine.affine @ np.eye(4)[:, [2, 3]]
    index = np.clip(places[0] * np.arange(fine.shape[2]) + places[1], 0, thick.data.shape[2] - 1)
    low = np.minimum(index.astype(int), thick.data.shape[2] - 2)
    part = (index - low).astype(np.float32)
    return thick.data[:, :, low] * (1 - part) + thick.data[:, :, low + 1] * part


def _image(
    sources: Sources, length: int, crop: int, random: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """A random image (crop, crop, length), slices last; where it shows something; where brain is."""
    while True:
        of_labels = bool(sources.labels) and (not sources.scans or random.random() < OF_LABELS)
        pool: Sequence[NDArray] = sources.labels if of_labels else sources.scans
        number = int(random.integers(len(pool)))
        part = _place(pool[number], (crop, crop, length), random)
        if (part > 0).mean() >= SHOWN * crop / length:
            break
    if of_labels:
        brain = sources.in_brain[number][part]
        if brain.mean() >= SHOWN * crop / length and random.random() < BRAIN_ALONE:
            return painted(np.where(brain, part, 0), random), brain, brain
        return painted(part, random), part > 0, brain
    image = recoloured(part.astype(np.float32), random)
    return image, part > 0, part > 0


def _place(volume: NDArray, shape: tuple[int, int, int], random: np.random.Generator) -> NDArray:
    """A box at a random place of a volume that is turned and mirrored at random; 0 beyond its border."""
    turned = volume.transpose(random.permutation(3))
    turned = turned[tuple(slice(None, None, int(s)) for s in random.choice((-1, 1), 3))]
    box = []
    pads = []
    for size, extent in zip(shape, turned.shape, strict=True):
        room = extent - size
        start = int(random.integers(room + 1)) if room > 0 else 0
        box.append(slice(start, start + size))
        missing = max(-room, 0)
        before = int(random.integers(missing + 1))
        pads.append((before, missing - before))
    part = turned[tuple(box)]
    return np.pad(part, pads) if any(map(any, pads)) else np.ascontiguousarray(part)


def _cut(values: NDArray, mask: NDArray[np.bool_], margin: int) -> NDArray:
    """The box around a mask."""
    where = np.argwhere(mask)
    low = np.maximum(where.min(0) - margin, 0)
    high = np.minimum(where.max(0) + 1 + margin, mask.shape)
    return values[tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))]
