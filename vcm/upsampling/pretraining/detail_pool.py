"""Thick slices drawn of training scans, and what a model expects under them: computed once, kept on disk.

Each file holds what DetailNet reads, the scan itself and its brain (5, X, Y, Z): slices last, cut to
the brain, float16; about 32 MB at 1 mm.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vcm.embedded import model_folder
from vcm.errors import VCMError
from vcm.files import check_output, fingerprint, sha256, whole
from vcm.imaging.draws import SETTINGS
from vcm.imaging.source import Scan
from vcm.inputs import InputRequest, network_inputs, resolve_inputs
from vcm.nets.detail import READS
from vcm.pipeline import VCMPipeline
from vcm.progress import track
from vcm.upsampling.detail.brain_detail import MARGIN, detail_input
from vcm.upsampling.detail.consistency import DataConsistency
from vcm.upsampling.detail.prior import encode_slices, expected_brain
from vcm.upsampling.pretraining.isotropic_scan import IsotropicScan
from vcm.upsampling.scans.box import box_around
from vcm.upsampling.scans.space import ResultSpace

#: Name of the tensor in a file.
DRAWN = "drawn"
#: The channel of the brain.
BRAIN = len(READS) + 1
#: Bytes per voxel of a model's volume that a file takes, at most.
BYTES = 2 * (len(READS) + 2)


class DetailBatch(NamedTuple):
    """What the detail network learns from; slices last.

    Attributes:
        read: What DetailNet reads (B, 3, X, Y, Z), see vcm.nets.detail.READS.
        truth: The scan, in 0..1 of its brain (B, 1, X, Y, Z).
        brain: 1 inside the brain, 0 outside, of the same shape.
    """

    read: Tensor
    truth: Tensor
    brain: Tensor


class DetailPool:
    """Files in a folder; what is there already, by the same model and drawn alike, is not made again."""

    def __init__(
        self,
        folder: str | Path,
        model: str,
        pipeline: VCMPipeline,
        noise: float,
        seed: int,
        labels: str = "auto",
    ) -> None:
        self.folder, self.pipeline, self.noise, self.seed = Path(folder), pipeline, noise, seed
        self.labels = labels
        # As `vcm upsample` has them of a scan of which nothing is known.
        rule = pipeline.input_rule
        self.inputs = network_inputs(rule, resolve_inputs(rule, InputRequest()))
        weights = fingerprint(model_folder(model))
        self.model_checksum = _checksum(weights)
        self.made_by = [weights, noise, seed, SETTINGS]

    def files(self, scans: Sequence[Scan], draws: int) -> list[Path]:
        """One per scan and draw; those that are missing are made. Raises VCMError."""
        every = [(scan, self._of(scan, draws)) for scan in scans]
        count = sum(not path.is_file() for _, (own, _) in every for path in own)
        voxels = math.prod(self.pipeline.volume_grid.shape)
        check_output(self.folder, BYTES * voxels * count)
        for scan, (own, number) in track(every, "Drawing thick slices"):
            missing = {draw: path for draw, path in enumerate(own) if not path.is_file()}
            if missing:
                self._make(missing, scan, number)
        return [path for _, (own, _) in every for path in own]

    def _of(self, scan: Scan, draws: int) -> tuple[list[Path], int]:
        """Files of a scan, and the number that its draws are made of: it depends on the image alone."""
        made_by = [*self.made_by, sha256(scan.image)]
        of_image = digest = _checksum(made_by)
        if scan.labels:
            digest = _checksum([*made_by, sha256(scan.labels), self._vocabulary()])
        names = (f"{digest[:12]}_{scan.subject}_{draw}.safetensors" for draw in range(draws))
        return [self.folder / name for name in names], int(of_image[:8], 16)

    def _vocabulary(self) -> str:
        """Name of the vocabulary; of a table of the user's the content."""
        given = Path(self.labels)
        return sha256(given) if given.is_file() else self.labels

    def _make(self, missing: dict[int, Path], scan: Scan, number: int) -> None:
        """Files of draws of one scan, which is read and aligned once."""
        isotropic = IsotropicScan.read(scan, self.pipeline.volume_grid, self.labels)
        for draw, path in missing.items():
            random = np.random.default_rng((self.seed, number, draw))
            drawn = {DRAWN: self._drawn(isotropic, random)}
            with whole(path) as part:
                save_file(drawn, part)

    @torch.inference_mode()
    def _drawn(self, isotropic: IsotropicScan, random: np.random.Generator) -> Tensor:
        scan = isotropic.in_thick_slices(random)
        space, measured = ResultSpace(scan), DataConsistency(scan, noise=self.noise)
        features = encode_slices(self.pipeline, scan.condition())
        brain = expected_brain(self.pipeline, features, self.inputs, "auto")
        read = detail_input(space, measured, measured.project(space.to_scan_space(brain)))
        known = np.stack([isotropic.scaled, isotropic.brain])
        known = np.moveaxis(known, 1 + space.across, -1)
        kept = (slice(None), *box_around(known[1] > 0, MARGIN))
        drawn = np.concatenate([read, known])[kept]
        return torch.from_numpy(np.ascontiguousarray(drawn, dtype=np.float16))


def _checksum(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def draw_crops(
    files: Sequence[Path], crop: int, batch_size: int, random: np.random.Generator
) -> DetailBatch:
    """Crops that hold brain, mirrored, turned in plane and scaled at random."""
    crops: list[Tensor] = []
    while len(crops) < batch_size:
        one = _crop(files[int(random.integers(len(files)))], crop, random)
        if one[BRAIN].mean() > 0.2:
            crops.append(one)
    batch = torch.stack(crops)
    gain = torch.from_numpy(random.uniform(0.85, 1.15, (batch_size, 1, 1, 1, 1))).float()
    scaled = gain * batch
    for kept in (READS.index("nearness"), BRAIN):
        scaled[:, kept] = batch[:, kept]
    return split_channels(scaled)


def split_channels(drawn: Tensor) -> DetailBatch:
    """What a file or a crop (B, 5, X, Y, Z) holds."""
    read, truth, brain = drawn.split([len(READS), 1, 1], 1)
    return DetailBatch(read.contiguous(), truth.contiguous(), (brain > 0.5).float())


def pooled(path: Path) -> Tensor:
    """(5, X, Y, Z) of one file, whole."""
    with safe_open(path, "pt") as opened:
        drawn: Tensor = opened.get_tensor(DRAWN).float()
    return drawn


def _crop(path: Path, size: int, random: np.random.Generator) -> Tensor:
    """(5, size, size, size) at a random place; only that part of the file is read."""
    with safe_open(path, "pt") as opened:
        part = opened.get_slice(DRAWN)
        extent = part.get_shape()[1:]
        if min(extent) < size:
            raise VCMError(
                f"crop is {size}, and a brain in {path} has {min(extent)} voxels: choose less."
            )
        x, y, z = (slice(c, c + size) for c in (int(random.integers(n - size + 1)) for n in extent))
        crop: Tensor = part[:, x, y, z].float()
    mirrored = [axis for axis in (1, 2, 3) if random.random() < 0.5]
    crop = crop.flip(mirrored) if mirrored else crop
    return crop.transpose(1, 2) if random.random() < 0.5 else crop
