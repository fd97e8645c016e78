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
from rich.progress import track
from torch import Tensor
from torch.nn import functional

from vcm.errors import VCMError
from vcm.fewshot.crops import Motion, crop_grid
from vcm.fewshot.features import SEGMENTER_SHAPE, SEGMENTER_SPACING
from vcm.fewshot.layouts import find_cases
from vcm.fewshot.preparation import prepare
from vcm.fewshot.views import seen_otherwise
from vcm.files import sha256, write_whole
from vcm.imaging.volume import read_label_map, read_volume

#: Raised when `prepare` returns something else, so that no file of before is read.
_VERSION = 1
#: Largest turn [rad], scale and shift [voxel] of a crop.
MOTION = Motion(0.2, 0.15, 2.0)


@dataclass(frozen=True)
class UnlabelledScan:
    """One scan, with its prepared array.

    Attributes:
        case: Name of its case: scans of one case are of one session of one subject.
        sequence: t1, t2, ...
        checksum: SHA-256 of its file.
        file: Of the prepared array (X, Y, Z), 0..1.
    """

    case: str
    sequence: str
    checksum: str
    file: Path

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
        targets: What is to be restored: the scan in the place of the view (B, V, X, Y, Z), 0..1.
        hidden: Where blocks are hidden, (B, V, X, Y, Z), 0 or 1.
    """

    masked: Tensor
    targets: Tensor
    hidden: Tensor


def find_scans(
    folders: Sequence[str], split: str, mask: str, cache: Path
) -> tuple[list[UnlabelledScan], list[str]]:
    """Find and prepare every scan, of any sequence, of a split.

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
    found, complaints = [], []
    cases = [case for folder in folders for case in find_cases(folder, split)]
    for case in track(cases, "Preparing"):
        outside = case.maps.get(mask) if mask else None
        for sequence, path in case.images.items():
            try:
                checksum = sha256(path)
                key = f"{_VERSION}|{checksum}|{sha256(outside) if outside else ''}"
                file = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
                if not file.is_file():
                    _prepare(path, outside, file)
            except VCMError as error:
                complaints.append(str(error))
            else:
                found.append(UnlabelledScan(case.name, sequence, checksum, file))
    if not found:
        raise VCMError(
            f"None of the scans in {', '.join(folders)} can be used, the first because: "
            f"{complaints[0] if complaints else 'there are none'}"
        )
    return found, complaints


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
    ) -> None:
        self.scans, self.batch_size, self.views = scans, batch_size, views
        self.hidden, self.block, self.strength = hidden, block, strength
        self.size = tuple(min(crop, n) if crop else n for n in SEGMENTER_SHAPE)
        self.of_case: dict[str, list[int]] = {}
        for place, scan in enumerate(scans):
            self.of_case.setdefault(scan.case, []).append(place)

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
                same = self.of_case[self.scans[place].case]
                others = [p for p in same if p != place] or [place]
                place = others[int(random.integers(len(others)))]
            images.append(self.scans[place].image())
        return torch.stack(images)

    @torch.no_grad()
    def make(self, drawn: DrawnScans) -> Views:
        """The views that were drawn, on the device of `drawn`; their noise is drawn of torch."""
        shape = drawn.seeds.shape
        with torch.autocast(drawn.images.device.type, enabled=False):
            made = [
                self._view(image.float(), seed)
                for image, seed in zip(
                    drawn.images.flatten(0, 1), drawn.seeds.flatten().tolist(), strict=True
                )
            ]
        return Views(*(torch.stack(part).unflatten(0, shape) for part in zip(*made, strict=True)))

    def _view(self, image: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        random, device = np.random.default_rng(seed), image.device
        size, edge = np.array(image.shape), np.array(self.size)
        low, high = np.minimum(edge / 2, size / 2), np.maximum(size - edge / 2, size / 2)
        centre = random.uniform(low, high)
        grid = crop_grid(random, self.size, centre, size, MOTION, mirror=True, device=device)
        target = functional.grid_sample(image[None, None], grid, "bilinear", align_corners=False)[
            0, 0
        ]
        view = seen_otherwise(target, random, self.strength, torch.randn_like(target))
        hidden = hidden_blocks(self.size, self.block, self.hidden, random, device)
        return view * (1 - hidden), target, hidden


def hidden_blocks(
    size: Sequence[int],
    block: int,
    share: float,
    random: np.random.Generator,
    device: torch.device | str = "cpu",
) -> Tensor:
    """1 in a share of the blocks of a grid, 0 elsewhere, (X, Y, Z)."""
    counts = [-(-n // block) for n in size]
    total = int(np.prod(counts))
    chosen = np.zeros(total, np.float32)
    chosen[random.permutation(total)[: round(share * total)]] = 1
    grid = torch.from_numpy(chosen.reshape(counts)).to(device)
    for axis in range(3):
        grid = grid.repeat_interleave(block, axis)
    return grid[: size[0], : size[1], : size[2]]
