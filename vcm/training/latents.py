"""Training scans as latents: encoded once, with moved and mirrored copies, kept in memory.

Copy 0 is the scan, copy 1 its mirror, further ones are mirrored at random and moved by a small
random affine, so that few scans teach more than few positions and sizes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.spatial.array import Affine
from numpy.typing import NDArray
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor

from vcm.errors import VCMError
from vcm.files import write_whole
from vcm.imaging.conditions import IMAGE_CONDITIONS
from vcm.imaging.draws import draw_condition
from vcm.imaging.prepared_set import Subject
from vcm.imaging.volume import Grid
from vcm.inputs import InputRule, scan_inputs
from vcm.nets.frozen import FrozenAutoencoder


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
        moved = affine(MetaTensor(values.float()))[0]
        return moved.as_tensor().to(values.dtype)

    @property
    def volume_factor(self) -> float:
        """By how much volumes grow."""
        return float(np.prod(self.scale))


def draw_motion(random: np.random.Generator) -> Motion:
    """Rotation within 4 degrees, shift within 2 voxels, scale within 5 % per axis."""
    return Motion(
        bool(random.random() < 0.5),
        _triple(random.uniform(-0.07, 0.07, 3)),
        _triple(random.uniform(-2, 2, 3)),
        _triple(random.uniform(0.95, 1.05, 3)),
    )


@dataclass(frozen=True)
class LatentSet:
    """Half-precision mu and sigma (N, C, x, y, z), inputs of the denoiser (N, K), classes (N, X, Y, Z);
    images (N, X, Y, Z) in half precision where a condition is made of them."""

    mu: Tensor
    sigma: Tensor
    covariates: Tensor
    classes: Tensor | None = None
    images: Tensor | None = None

    def draw(self, count: int, random: np.random.Generator) -> tuple[Tensor, ...]:
        """z_0, noise (both B, C, x, y, z), time 0..1 (B,), inputs (B, K)."""
        index = self._pick(count, random)
        return *self._noised(index, random), self.covariates[index]

    def draw_conditioned(
        self, count: int, draws: int, random: np.random.Generator
    ) -> tuple[Tensor, ...]:
        """Positions (B,) in this set; z_0, noise (B, R, C, x, y, z), time (B, R) of R `draws` per
        condition; inputs (B, K)."""
        index = self._pick(count, random)
        noised = self._noised(index.repeat_interleave(draws), random)
        own = (x.unflatten(0, (count, draws)) for x in noised)
        return index, *own, self.covariates[index]

    def condition(
        self, name: str, index: int, grid: Grid, random: np.random.Generator
    ) -> NDArray[np.float32]:
        """The condition of that name (C, X, Y, Z) of one scan. Raises VCMError without label maps."""
        if name not in IMAGE_CONDITIONS and self.classes is None:
            raise VCMError("The training scans have no label maps: give a set with *_dseg.nii.gz.")
        classes = None if self.classes is None else self.classes[index].numpy()
        image = None if self.images is None else self.images[index].float().numpy()
        return draw_condition(name, classes, image, grid, random)

    def spread(self) -> Tensor:
        """(C, x, y, z): root of the mean square of z_0 at each position, at least 0.02."""
        square = torch.zeros(self.mu.shape[1:])
        for mu, sigma in zip(self.mu, self.sigma, strict=True):
            square += mu.float().square() + sigma.float().square()
        return (square / len(self.mu)).sqrt().clamp(min=0.02)

    def _pick(self, count: int, random: np.random.Generator) -> Tensor:
        return torch.from_numpy(random.integers(len(self.mu), size=count))

    def _noised(self, index: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        shape = (2, len(index), *self.mu.shape[1:])
        spread, noise = torch.from_numpy(random.standard_normal(shape, dtype=np.float32))
        z = self.mu[index].float() + self.sigma[index].float() * spread
        return z, noise, torch.from_numpy(random.random(len(index)))


def encode_subjects(
    net: FrozenAutoencoder,
    subjects: list[Subject],
    rule: InputRule,
    copies: int,
    seed: int,
    cache: str = "",
    with_images: bool = False,
) -> LatentSet:
    """Encode every subject `copies` times; they must have what `rule` needs.

    With `cache`, a folder, the result is kept there under a name made of the autoencoder's weights,
    the scans, what is told of them, copies and seed, so that a stale one is never found. Class maps are part
    of the set where every subject has one, images where they are asked for.
    """
    key = _key(net, subjects, rule, copies, seed) + ("-images" if with_images else "")
    kept = Path(cache) / f"latents-{key}.safetensors"
    if cache and kept.is_file():
        tensors = load_file(kept)
    else:
        tensors = _encode(net, subjects, rule, copies, seed, with_images)
        if cache:
            write_whole(kept, lambda part: save_file(tensors, part))
    return LatentSet(**tensors)


@torch.inference_mode()
def _encode(
    net: FrozenAutoencoder,
    subjects: list[Subject],
    rule: InputRule,
    copies: int,
    seed: int,
    with_images: bool,
) -> dict[str, Tensor]:
    with_classes = all(subject.has_classes for subject in subjects)
    mus, sigmas, values, maps, images = [], [], [], [], []
    for number, subject in enumerate(track(subjects, "Encoding")):
        image = torch.from_numpy(subject.image())[None]
        classes = torch.from_numpy(subject.classes())[None] if with_classes else None
        for copy in range(copies):
            motion = Motion(mirror=copy == 1)
            if copy > 1:
                motion = draw_motion(np.random.default_rng((seed, number, copy)))
            moved = motion.move(image, "bilinear")
            mu, sigma = net.encode(moved[None])
            if with_images:
                images.append(moved[0].half())
            mus.append(mu[0].half())
            sigmas.append(sigma[0].half())
            values.append(scan_inputs(rule, subject, motion.volume_factor))
            if classes is not None:
                maps.append(motion.move(classes, "nearest")[0])
    tensors = {
        "mu": torch.stack(mus),
        "sigma": torch.stack(sigmas),
        "covariates": torch.tensor(values),
    }
    further = {"classes": maps, "images": images}
    return tensors | {name: torch.stack(kept) for name, kept in further.items() if kept}


def _key(
    net: FrozenAutoencoder, subjects: list[Subject], rule: InputRule, copies: int, seed: int
) -> str:
    digest = hashlib.sha256(repr((rule, copies, seed)).encode())
    for name, tensor in net.state_dict().items():
        digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
    for subject in subjects:
        digest.update(repr((subject.subject, subject.age, subject.sex)).encode())
        for path in (subject.image_file, subject.classes_file):
            digest.update(path.read_bytes() if path.is_file() else b"absent")
    return digest.hexdigest()[:20]


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z
