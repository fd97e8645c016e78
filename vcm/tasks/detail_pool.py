"""Thick slices drawn of training scans, and what a model expects under them: computed once, kept on disk.

Each file holds what DetailNet reads and, as a last channel, the scan itself (4, X, Y, Z): slices last,
cut to the brain, float16; about 30 MB at 1 mm.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vcm.errors import VCMError
from vcm.imaging.dataset import Subject
from vcm.imaging.thick_draws import SETTINGS, draw_thick, draw_tilt
from vcm.nets.detail import READS
from vcm.pipeline import VCMPipeline
from vcm.tasks.explanation import Explanation
from vcm.tasks.model_inputs import as_tensor, settle
from vcm.tasks.placing import nowhere
from vcm.tasks.thick_scan import ThickScan
from vcm.tasks.training import Draw
from vcm.tasks.upsample import Upsampling, expected_brain
from vcm.weights import fingerprint, model_folder

#: Voxels kept around the brain, and the name of the tensor in a file.
MARGIN, DRAWN = 6, "drawn"


class DetailPool:
    """Files in a folder; what is there already, by the same model and drawn alike, is not made again."""

    def __init__(
        self, folder: str | Path, model: str, pipeline: VCMPipeline, noise: float, seed: int
    ) -> None:
        self.folder, self.pipeline, self.noise, self.seed = Path(folder), pipeline, noise, seed
        # As `vcm upsample` has them of a scan of which nothing is known.
        wishes = Upsampling(model=model)
        self.inputs = as_tensor(settle(wishes, pipeline, nowhere(pipeline.volume_grid)), pipeline)
        made_by = [fingerprint(model_folder(model)), noise, seed, SETTINGS]
        self.digest = hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:12]

    def files(self, subjects: Sequence[Subject], draws: int) -> list[Path]:
        """One per scan and draw; those that are missing are made."""
        wanted = [(subject, draw) for draw in range(draws) for subject in subjects]
        paths = []
        for subject, draw in track(wanted, "Drawing thick slices"):
            path = self.folder / f"{self.digest}_{subject.subject}_{draw}.safetensors"
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_name(f".part-{path.name}")
                save_file({DRAWN: self._drawn(subject, draw)}, part)
                part.replace(path)
            paths.append(path)
        return paths

    @torch.inference_mode()
    def _drawn(self, subject: Subject, draw: int) -> Tensor:
        name = int.from_bytes(hashlib.sha256(subject.subject.encode()).digest()[:4], "big")
        random = np.random.default_rng((self.seed, name, draw))
        image, grid = subject.image(), self.pipeline.volume_grid
        thick, acquisition = draw_thick(image, grid, random)
        # The model sees a tilted head; the slices and the scan itself stay as they are.
        tilt = draw_tilt(grid, random)
        scan = ThickScan(thick, thick.data > 0.02, acquisition, grid, grid, tilt, (0.0, 1.0), 1.0)
        own = Explanation(scan, noise=self.noise)
        features = self.pipeline.encode([torch.from_numpy(scan.condition())[None]])
        brain = expected_brain(self.pipeline, features, self.inputs, "bfloat16")
        read = own.read(own.explain(own.placed(brain)))
        truth = np.moveaxis(image, own.across, -1)[None]
        kept = (slice(None), *_about(truth[0] > 0, MARGIN))
        return torch.from_numpy(np.concatenate([read, truth])[kept].astype(np.float16))

    def draw_from(
        self, subjects: Sequence[Subject], draws: int, crop: int, batch_size: int
    ) -> Draw:
        """Crops that hold brain, mirrored, turned in plane and scaled at random; see DetailObjective."""
        files = self.files(subjects, draws)

        def draw(random: np.random.Generator) -> tuple[Tensor, ...]:
            crops: list[Tensor] = []
            while len(crops) < batch_size:
                one = _crop(files[random.integers(len(files))], crop, random)
                if (one[-1] > 0).float().mean() > 0.2:
                    crops.append(one)
            batch = torch.stack(crops)
            gain = torch.from_numpy(random.uniform(0.85, 1.15, (batch_size, 1, 1, 1, 1))).float()
            nearness = READS.index("nearness")
            scaled = gain * batch
            scaled[:, nearness] = batch[:, nearness]
            truth = scaled[:, -1:].contiguous()
            return scaled[:, : len(READS)].contiguous(), truth, (truth > 0).float()

        return draw


def pooled(path: Path) -> Tensor:
    """(4, X, Y, Z) of one file, whole."""
    with safe_open(path, "pt") as opened:
        drawn: Tensor = opened.get_tensor(DRAWN).float()
    return drawn


def _crop(path: Path, size: int, random: np.random.Generator) -> Tensor:
    """(4, size, size, size) at a random place; only that part of the file is read."""
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


def _about(mask: NDArray[np.bool_], margin: int) -> tuple[slice, slice, slice]:
    """The box around a mask."""
    where = np.argwhere(mask)
    low = np.maximum(where.min(0) - margin, 0)
    high = np.minimum(where.max(0) + 1 + margin, mask.shape)
    x, y, z = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return x, y, z
