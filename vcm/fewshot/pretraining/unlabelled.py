"""Unlabelled scans for pretraining: found in folders, prepared once, drawn as masked views.

Knows files, the generator of a batch and the geometry of a crop; nothing of networks. Prepared scans lie
in a folder as half-precision arrays and are mapped into memory, so memory does not grow with their
number. A batch is scans and seeds; the views are made of them where the network is, as a GPU waits for
minutes where a processor makes them.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vcm.errors import VCMError
from vcm.fewshot.cases.identity import Identity, identity
from vcm.fewshot.cases.layouts import find_cases
from vcm.fewshot.cases.preparation import prepare
from vcm.fewshot.methods.crops import Motion, crop_grids, draw_motion, scaled
from vcm.fewshot.methods.features import SEGMENTER_SHAPE, SEGMENTER_SPACING
from vcm.fewshot.methods.views import several_seen_otherwise
from vcm.files import sha256, write_whole
from vcm.imaging.volume import read_label_map, read_volume
from vcm.nets.local_brightness import local_brightness
from vcm.progress import track

#: Raised when `prepare` returns something else, so that no file of before is read.
_VERSION = 2
#: Largest turn [rad], logarithm of the scale and shift [voxel] of a crop, at full strength.
MOTION = Motion(0.3, 0.15, 2.0)


@dataclass(frozen=True)
class UnlabelledScan:
    """One scan, with its prepared array.

    Attributes:
        case: Name of its case: scans of one case are of one session of one subject.
        sequence: t1, t2, ...
        known: By what it is known wherever it turns up.
        file: Of the prepared array (X, Y, Z), 0..1.
        folder: That the case was found in: people of two datasets may have one name.
    """

    case: str
    sequence: str
    known: Identity
    file: Path
    folder: str = ""

    def image(self) -> Tensor:
        """(X, Y, Z) in 0..1, half precision."""
        return torch.from_numpy(np.array(np.load(self.file, mmap_mode="r")))


class DrawnScans(NamedTuple):
    """What V views of each of B scans are made of.

    Attributes:
        images: Whole scans (B, V, X, Y, Z), 0..1, half precision.
        seeds: Of each view (B, V).
    """

    images: Tensor
    seeds: Tensor


class Views(NamedTuple):
    """What an encoder learns from: V views of each of B scans.

    Attributes:
        masked: Views with blocks set to 0 (B, V, X, Y, Z).
        targets: What is to be restored: the scan in the place of the view (B, V, X, Y, Z), 0..1, or its local
            brightness.
        hidden: Where blocks are hidden, (B, V, X, Y, Z), 0 or 1.
    """

    masked: Tensor
    targets: Tensor
    hidden: Tensor


def find_scans(
    folders: Sequence[str], split: str, mask: str, cache: Path
) -> tuple[list[UnlabelledScan], list[str]]:
    """Find and prepare every scan, of any sequence, of a split; one that is there twice counts once.

    Args:
        folders: BIDS or FOMO folders, or tables, as few-shot tasks have them.
        split: Only cases of it; those that name none are `train`.
        mask: Last word of a label map beside the scan, outside of which it is set to 0 where there is
            one; "": scans as they are.
        cache: Where prepared arrays are kept.

    Returns:
        The scans, and a sentence for each that could not be used.

    Raises:
        VCMError: There is no scan that can be used.
    """
    found: dict[str, UnlabelledScan] = {}
    complaints = []
    cases = [(folder, case) for folder in folders for case in find_cases(folder, split)]
    for folder, case in track(cases, "Preparing"):
        outside = case.maps.get(mask) if mask else None
        for sequence, path in case.images.items():
            try:
                known = identity(path, cache)
                key = f"{_VERSION}|{known.file}|{sha256(outside) if outside else ''}"
                file = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
                if not file.is_file():
                    _prepare(path, outside, file)
            except VCMError as error:
                complaints.append(str(error))
            else:
                scan = UnlabelledScan(case.name, sequence, known, file, folder)
                first = found.setdefault(known.content, scan)
                if first is not scan:
                    complaints.append(
                        f"{case.name} {sequence} in {folder} is the scan of {first.case} in {first.folder}, and counts once."
                    )
    if not found:
        raise VCMError(
            f"None of the scans in {', '.join(folders)} can be used, the first because: "
            f"{complaints[0] if complaints else 'there are none'}"
        )
    return list(found.values()), complaints


def report_complaints(complaints: Sequence[str]) -> None:
    """On stderr, the first ten."""
    for sentence in complaints[:10]:
        print(f"left out: {sentence}", file=sys.stderr)
    if len(complaints) > 10:
        print(f"left out: {len(complaints) - 10} further scans.", file=sys.stderr)


def _prepare(path: Path, outside: Path | None, file: Path) -> None:
    mask = read_label_map(outside) if outside else None
    scan = read_volume(path)
    made = prepare({"scan": scan}, ("scan",), SEGMENTER_SPACING, SEGMENTER_SHAPE, mask)
    file.parent.mkdir(parents=True, exist_ok=True)

    def write(part: Path) -> None:
        with part.open("wb") as stream:
            np.save(stream, made.image[0].astype(np.float16), allow_pickle=False)

    write_whole(file, write)


class ViewSampler:
    """Views of scans.

    Args:
        scans: To draw from.
        batch_size: B.
        views: V: 1, or 2 to be compared. Two views are of two sequences of a case where it has several.
        crop: Edge [voxel], a multiple of 8; 0: whole scans.
        hidden: Share of the blocks that are set to 0.
        block: Edge of a block [voxel].
        strength: Of the augmentation, see `seen_otherwise`.
        local: Whether views and targets are deviations from the brightness around each voxel.
        motion: Strength of turns, scales and shifts.
    """

    def __init__(
        self,
        scans: Sequence[UnlabelledScan],
        batch_size: int,
        views: int,
        crop: int,
        hidden: float,
        block: int,
        strength: float,
        local: bool = False,
        motion: float = 1.0,
    ) -> None:
        self.scans, self.batch_size, self.views = scans, batch_size, views
        self.local, self.motion = local, scaled(MOTION, motion)
        self.hidden, self.block, self.strength = hidden, block, strength
        self.size = tuple(min(crop, n) if crop else n for n in SEGMENTER_SHAPE)
        self.of_case: dict[tuple[str, str], list[int]] = {}
        for place, scan in enumerate(scans):
            self.of_case.setdefault((scan.folder, scan.case), []).append(place)

    def draw(self, random: np.random.Generator) -> DrawnScans:
        """One batch; a function of the generator alone."""
        # Different scans, as a contrastive loss takes those of a batch to be.
        count, size = len(self.scans), self.batch_size
        places = random.choice(count, size, replace=size > count)
        images = [self._row(int(place), random) for place in places]
        seeds = random.integers(2**63, size=(size, self.views))
        return DrawnScans(torch.stack(images), torch.from_numpy(seeds))

    def _row(self, place: int, random: np.random.Generator) -> Tensor:
        images = []
        for number in range(self.views):
            if number:
                scan = self.scans[place]
                same = self.of_case[scan.folder, scan.case]
                others = [p for p in same if p != place] or [place]
                place = others[int(random.integers(len(others)))]
            images.append(self.scans[place].image())
        return torch.stack(images)

    @torch.no_grad()
    def make(self, drawn: DrawnScans) -> Views:
        """The views that were drawn, on the device of `drawn`; their noise is drawn of torch."""
        images, shape = drawn.images.flatten(0, 1).float(), drawn.seeds.shape
        randoms = [np.random.default_rng(seed) for seed in drawn.seeds.flatten().tolist()]
        with torch.autocast(images.device.type, enabled=False):
            targets = self._crops(images, randoms)
            views = several_seen_otherwise(targets, randoms, self.strength)
            if self.local:
                targets, views = (local_brightness(x[:, None])[:, 0] for x in (targets, views))
        hidden = hidden_blocks(self.size, self.block, self.hidden, randoms).to(images.device)
        parts = (views * (1 - hidden), targets, hidden)
        return Views(*(part.unflatten(0, shape) for part in parts))

    def _crops(self, images: Tensor, randoms: Sequence[np.random.Generator]) -> Tensor:
        """A crop of each image (N, X, Y, Z), turned, scaled, shifted, mirrored."""
        size, edge = np.array(images.shape[1:]), np.array(self.size)
        low, high = np.minimum(edge / 2, size / 2), np.maximum(size - edge / 2, size / 2)
        drawn = [draw_motion(r, r.uniform(low, high), self.motion, mirror=True) for r in randoms]
        matrices, centres = map(np.stack, zip(*drawn, strict=True))
        grids = crop_grids(self.size, matrices, centres, size, images.device)
        return functional.grid_sample(images[:, None], grids, "bilinear", align_corners=False)[:, 0]


def hidden_blocks(
    size: Sequence[int], block: int, share: float, randoms: Sequence[np.random.Generator]
) -> Tensor:
    """1 in a share of the blocks of a grid, 0 elsewhere, one grid per generator (N, X, Y, Z)."""
    counts = [-(-n // block) for n in size]
    total = int(np.prod(counts))
    chosen = np.zeros((len(randoms), total), np.float32)
    for row, random in zip(chosen, randoms, strict=True):
        row[random.permutation(total)[: round(share * total)]] = 1
    grids = torch.from_numpy(chosen.reshape(-1, *counts))
    for axis in range(3):
        grids = grids.repeat_interleave(block, 1 + axis)
    return grids[:, : size[0], : size[1], : size[2]]
