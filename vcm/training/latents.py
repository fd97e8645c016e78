"""Training scans as latents: encoded once, with moved and mirrored copies, in one file per scan and kind.

Copy 0 is the scan, copy 1 its mirror, further ones are mirrored at random and moved by a small
random affine, so that few scans teach more than few positions and sizes. A file is named by what it
was made of, so a stale one is never found and a new scan costs its own encoding alone; files are
memory-mapped, so a set may be larger than memory. Knows nothing of objectives or steps.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.spatial.array import Affine
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from vcm.errors import VCMError
from vcm.files import check_output, whole
from vcm.imaging.conditions import IMAGE_CONDITIONS
from vcm.imaging.draws import draw_condition
from vcm.imaging.nifti import open_nifti
from vcm.imaging.prepared_set import Subject
from vcm.imaging.scan_checksums import file_checksum
from vcm.imaging.volume import Grid
from vcm.inputs import InputRule, scan_inputs
from vcm.nets.frozen import FrozenAutoencoder
from vcm.progress import track
from vcm.training.batches import LatentBatch, ModuleBatch


@dataclass(frozen=True)
class MotionRanges:
    """How far a copy may move, either way: rotation [rad], shift [voxel], scale (share), per axis."""

    rotation: float = 0.07
    shift: float = 2.0
    scale: float = 0.05


@dataclass(frozen=True)
class Motion:
    """A small affine of the model's grid: mirror, rotation [rad], shift [voxel], scale."""

    mirror: bool = False
    rotation: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def move(self, values: Tensor, mode: str) -> Tensor:
        """(C, X, Y, Z) -> the same shape; mode 'bilinear' or 'nearest'."""
        if self.mirror:
            values = values.flip(1)
        if self == Motion(mirror=self.mirror):
            return values
        # MONAI's affine maps output to input, so a size grows by 1 / its scale.
        inverse = [1 / s for s in self.scale]
        affine = Affine(self.rotation, None, self.shift, inverse, padding_mode="zeros", mode=mode)
        moved: Any = affine(MetaTensor(values.float()))[0]
        found: Tensor = moved.as_tensor().to(values.dtype)
        return found

    @property
    def volume_factor(self) -> float:
        """By how much volumes grow."""
        return float(np.prod(self.scale))


def draw_motion(random: np.random.Generator, ranges: MotionRanges) -> Motion:
    """Mirrored half of the time, moved uniformly within the ranges."""
    return Motion(
        bool(random.random() < 0.5),
        _triple(random.uniform(-ranges.rotation, ranges.rotation, 3)),
        _triple(random.uniform(-ranges.shift, ranges.shift, 3)),
        _triple(random.uniform(1 - ranges.scale, 1 + ranges.scale, 3)),
    )


@dataclass(frozen=True)
class EncodedScan:
    """One scan with its copies.

    Attributes:
        mu: Mean of the standardised latent (copies, C, x, y, z), half precision.
        sigma: Its standard deviation, of the same shape.
        classes: Class maps 0..8 (copies, X, Y, Z), uint8, where a condition is made of them.
        images: Intensities 0..1 (copies, X, Y, Z), half precision, where a condition is made of them.
    """

    mu: Tensor
    sigma: Tensor
    classes: Tensor | None = None
    images: Tensor | None = None


@dataclass(frozen=True)
class LatentSet:
    """What a network of latents learns from, N = scans x copies, copies of one scan side by side.

    Attributes:
        scans: Encoded, with equally many copies.
        inputs: What the denoiser is told of each (N, K).
        grid: Voxels of the volumes.
        conditions: Names of what the module reads, in its order; none for the frozen model itself.
    """

    scans: Sequence[EncodedScan]
    inputs: Tensor
    grid: Grid
    conditions: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(C, x, y, z)."""
        return tuple(self.scans[0].mu.shape[1:])

    @property
    def nbytes(self) -> int:
        """What it takes in memory, all of it read."""
        kinds = ((s.mu, s.sigma, s.classes, s.images) for s in self.scans)
        return sum(t.nbytes for kind in kinds for t in kind if t is not None)

    def posterior(self, index: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of one latent, each (C, x, y, z)."""
        scan, copy = self._at(index)
        return scan.mu[copy].float(), scan.sigma[copy].float()

    def spread(self) -> Tensor:
        """(C, x, y, z): root of the mean square of z_0 at each position, at least 0.02."""
        square = torch.zeros(self.latent_shape)
        for mu, sigma in map(self.posterior, range(len(self))):
            square += mu.square() + sigma.square()
        return (square / len(self)).sqrt().clamp(min=0.02)

    def volume(self, number: int, index: int, random: np.random.Generator) -> NDArray[np.float32]:
        """One of the conditions (C_k, X, Y, Z) of one scan; some are drawn."""
        scan, copy = self._at(index)
        classes = None if scan.classes is None else scan.classes[copy].numpy()
        image = None if scan.images is None else scan.images[copy].float().numpy()
        return draw_condition(self.conditions[number], classes, image, self.grid, random)

    def volumes(self, index: int, random: np.random.Generator) -> NDArray[np.float32]:
        """All of them (sum C_k, X, Y, Z), in their order."""
        numbers = range(len(self.conditions))
        return np.concatenate([self.volume(k, index, random) for k in numbers])

    def draw(self, count: int, random: np.random.Generator) -> LatentBatch:
        """A batch for the diffusion model, scans drawn with replacement."""
        index = self._pick(count, random)
        return LatentBatch(*self._noised(index, random), self.inputs[index])

    def draw_conditioned(
        self, count: int, draws: int, drop: float, random: np.random.Generator
    ) -> ModuleBatch:
        """A batch for a module: `count` conditions, with `draws` latents, noises and times each.

        Args:
            count: B.
            draws: R.
            drop: Probability of each condition to be left out of a sample, never all of them.
            random: Of this batch.
        """
        index = self._pick(count, random)
        noised = self._noised(index.repeat_interleave(draws), random)
        z, noise, time = (x.unflatten(0, (count, draws)) for x in noised)
        conditions = np.stack([self.volumes(int(i), random) for i in index])
        keep = draw_keep(count, len(self.conditions), drop, random)
        return ModuleBatch(torch.from_numpy(conditions), z, noise, time, self.inputs[index], keep)

    def _at(self, index: int) -> tuple[EncodedScan, int]:
        number, copy = divmod(int(index), len(self.scans[0].mu))
        return self.scans[number], copy

    def _pick(self, count: int, random: np.random.Generator) -> Tensor:
        return torch.from_numpy(random.integers(len(self), size=count))

    def _noised(self, index: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        shape = (2, len(index), *self.latent_shape)
        spread, noise = torch.from_numpy(random.standard_normal(shape, dtype=np.float32))
        mu, sigma = (torch.stack(x) for x in zip(*map(self.posterior, index.tolist()), strict=True))
        return mu + sigma * spread, noise, torch.from_numpy(random.random(len(index)))


def draw_keep(count: int, conditions: int, drop: float, random: np.random.Generator) -> Tensor:
    """(B, K) bool: each condition is dropped with probability `drop`, but never all of a sample."""
    keep = random.random((count, conditions)) >= drop
    spared = random.integers(conditions, size=count)
    keep[~keep.any(1), spared[~keep.any(1)]] = True
    return torch.from_numpy(keep)


class LatentFiles:
    """Files of encoded scans in a folder, which any number of runs may share.

    Args:
        folder: Made where there is none.
        net: The autoencoder; scans are encoded on its device.
        copies: Per scan, the scan included.
        seed: Of the motions; those of a scan depend on it and on the scan alone.
        conditions: What is made of class maps or images, which are then kept too.
        ranges: Of the motions.
    """

    def __init__(
        self,
        folder: Path,
        net: FrozenAutoencoder,
        copies: int,
        seed: int,
        conditions: Sequence[str] = (),
        ranges: MotionRanges = MotionRanges(),
    ) -> None:
        self.folder, self.net, self.copies, self.seed = folder, net, copies, seed
        self.conditions, self.ranges = tuple(conditions), ranges
        kinds = {"images" if name in IMAGE_CONDITIONS else "classes" for name in conditions}
        self.kinds = ("latents", *sorted(kinds))
        self.encoder = checksum_of(net)

    def encode(self, subjects: Sequence[Subject]) -> None:
        """Write the files that are missing. Raises VCMError for a scan without a map that needs one."""
        missing = [(s, k) for s in subjects for k in self.kinds if not self._path(s, k).is_file()]
        if missing:
            check_output(self.folder, self._room([kind for _, kind in missing], missing[0][0]))
        for subject, kind in track(missing, "Encoding") if missing else ():
            with whole(self._path(subject, kind)) as part:
                save_file(self._made(subject, kind), part)

    def read(self, subjects: Sequence[Subject], rule: InputRule, grid: Grid) -> LatentSet:
        """The set of those scans, once `encode` has written their files."""
        scans, inputs = [], []
        for subject in subjects:
            tensors: dict[str, Tensor] = {}
            for kind in self.kinds:
                tensors |= load_file(self._path(subject, kind))
            scans.append(EncodedScan(**tensors))
            for motion in self._motions(subject):
                inputs.append(scan_inputs(rule, subject, motion.volume_factor))
        return LatentSet(scans, torch.tensor(inputs), grid, self.conditions)

    def _room(self, kinds: Sequence[str], like: Subject) -> int:
        """Bytes of files of these kinds, of scans on the voxels of `like`."""
        voxels = math.prod(open_nifti(like.image_file).shape)
        each = {
            "latents": 2 * 4 * math.prod(self.net.latent_shape),
            "classes": voxels,
            "images": 2 * voxels,
        }
        return self.copies * sum(each[kind] for kind in kinds)

    @torch.inference_mode()
    def _made(self, subject: Subject, kind: str) -> dict[str, Tensor]:
        if kind == "classes":
            refuse_without_map(subject)
            classes = torch.from_numpy(subject.classes())[None]
            return {kind: torch.stack([x[0] for x in self._moved(subject, classes, "nearest")])}
        image = torch.from_numpy(subject.image())[None]
        if kind == "images":
            moved = self._moved(subject, image, "bilinear")
            return {kind: torch.stack([x[0].half() for x in moved])}
        device = self.net.device
        mu, sigma = zip(
            *(self.net.encode(x[None].to(device)) for x in self._moved(subject, image, "bilinear")),
            strict=True,
        )
        return {"mu": torch.cat(mu).half().cpu(), "sigma": torch.cat(sigma).half().cpu()}

    def _moved(self, subject: Subject, values: Tensor, mode: str) -> Iterator[Tensor]:
        return (motion.move(values, mode) for motion in self._motions(subject))

    def _motions(self, subject: Subject) -> list[Motion]:
        still = [Motion(), Motion(mirror=True)][: self.copies]
        own = int(file_checksum(subject.image_file)[:8], 16)
        return still + [
            draw_motion(np.random.default_rng((self.seed, own, copy)), self.ranges)
            for copy in range(2, self.copies)
        ]

    def _path(self, subject: Subject, kind: str) -> Path:
        """Named by everything that the content depends on."""
        made_of: list[object] = [kind, self.copies, file_checksum(subject.image_file)]
        if self.copies > 2:
            made_of += [self.seed, asdict(self.ranges)]
        if kind == "latents":
            made_of.append(self.encoder)
        if kind == "classes" and subject.has_classes:
            made_of.append(file_checksum(subject.classes_file))
        key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:20]
        return self.folder / f"{subject.subject}_{kind}_{key}.safetensors"


def refuse_without_map(subject: Subject) -> None:
    """Raise VCMError for a scan without the label map that a condition is made of."""
    if not subject.has_classes:
        raise VCMError(
            f"{subject.subject} has no label map (*_dseg.nii.gz), and a condition is made of "
            "it: prepare the scans with label maps, or with a segmenter."
        )


def checksum_of(net: FrozenAutoencoder) -> str:
    """SHA-256 of an autoencoder: its type, its configuration and its tensors as float32."""
    own = {k: v for k, v in net.config.items() if not k.startswith("_")}
    found = hashlib.sha256(json.dumps([type(net).__name__, own], default=list).encode())
    for name, tensor in sorted(net.state_dict().items()):
        found.update(f"{name} {list(tensor.shape)}".encode())
        found.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z
