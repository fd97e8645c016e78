"""Prepared scans in memory, and new brains made of them on any device, drawn anew at every step.

A pack is one compressed .npz of 8-bit scans, class maps and covariates: a training set that travels,
without test scans. Knows scans, maps and covariates; no latents and no losses.
"""

from __future__ import annotations

import hashlib
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from vcm.errors import VCMError, VCMWarning, first_names
from vcm.files import write_whole
from vcm.imaging.conditions import CSF, VENTRICLES
from vcm.imaging.covariates import (
    COVARIATES,
    Ranges,
    fit_expected_volumes,
    sex_number,
    to_unit,
    trained_ranges,
)
from vcm.imaging.deformation import (
    DeformationSizes,
    deform,
    draw_deformations,
    refine_classes,
    refine_image,
    sampling_grid,
)
from vcm.imaging.prepared_set import Subject, check_grid, load_prepared
from vcm.imaging.scan_checksums import by_name, check_apart
from vcm.imaging.source import nobody
from vcm.imaging.vocabulary import NUMBER_OF_CLASSES
from vcm.imaging.volume import Grid, read_volume

#: Splits that a pack holds.
PACKED = ("train", "validation")


class ScanDraw(NamedTuple):
    """Which scans, and how they are changed; see vcm.imaging.deformation.

    Attributes:
        numbers: Of the scans in the pool (B,).
        affine: (B, 3, 4) [mm].
        coarse: Control points of the coarse field (B, 3, ...) [mm].
        fine: Control points of the fine field (B, 3, ...) [mm].
        appearance: Gain, gamma, and 1 for mirrored (B, 3).
    """

    numbers: Tensor
    affine: Tensor
    coarse: Tensor
    fine: Tensor
    appearance: Tensor


class Brains(NamedTuple):
    """What comes out.

    Attributes:
        images: Scans in 0..1 (B, 1, X, Y, Z).
        classes: Label maps, 0..8 (B, 1, X, Y, Z), uint8.
        covariates: In 0..1, volumes as measured in the deformed map (B, 4).
    """

    images: Tensor
    classes: Tensor
    covariates: Tensor


@dataclass
class ScanPool:
    """Scans of one split.

    Each is refined to half the voxel size when it is first drawn, and kept so on the device: 24 bytes a
    voxel of the grid.

    Attributes:
        images: (N, X, Y, Z) uint8, 255 for 1.
        classes: (N, X, Y, Z) uint8, 0..8.
        sex: (N,) 0 F or 1 M.
        age: (N,) [years].
        names: Of the scans.
        ranges: Of the covariates in training.
        grid: Of the scans, isotropic.
    """

    images: Tensor
    classes: Tensor
    sex: Tensor
    age: Tensor
    names: list[str]
    ranges: Ranges
    grid: Grid
    _refined: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.images)

    def scans(self) -> Tensor:
        """All of them as they are (N, 1, X, Y, Z) in 0..1."""
        return self.images[:, None].float() / 255

    def checksums(self) -> dict[str, str]:
        """Checksum of the voxels of each scan and of its label map, by its name."""
        made = zip(self.names, self.images, self.classes, strict=True)
        return by_name(
            (name, hashlib.sha256(image.numpy().tobytes() + classes.numpy().tobytes()).hexdigest())
            for name, image, classes in made
        )

    def draw(self, count: int, sizes: DeformationSizes, random: np.random.Generator) -> ScanDraw:
        """B scans and their changes: small tensors on the CPU, by the generator alone."""
        index = torch.from_numpy(random.integers(len(self), size=count))
        return ScanDraw(index, *draw_deformations(count, sizes, random))

    def unchanged(self, index: int) -> ScanDraw:
        """One scan as it is, but for its being read from the refined one."""
        sizes = replace(DeformationSizes().times(0), mirror=0)
        return ScanDraw(
            torch.tensor([index]), *draw_deformations(1, sizes, np.random.default_rng(0))
        )

    @torch.no_grad()
    def make(self, drawn: ScanDraw) -> Brains:
        """The brains that were drawn, on the device of `drawn`."""
        device = drawn.affine.device
        with torch.autocast(device.type, enabled=False):
            appearance = drawn.appearance.float()
            grid = sampling_grid(
                drawn.affine.float(),
                drawn.coarse.float(),
                drawn.fine.float(),
                appearance[:, 2],
                tuple(self.images.shape[1:]),
                self.grid.spacing[0],
            )
            images, maps = [], []
            for n, i in enumerate(drawn.numbers.tolist()):
                image, classes = self._at_half_size(i, device)
                one, own = deform(image.float(), classes, grid[n : n + 1], appearance[n : n + 1])
                assert own is not None
                images.append(one)
                maps.append(own)
            classes = torch.cat(maps)
            return Brains(torch.cat(images), classes, self.covariates(drawn.numbers, classes))

    def covariates(self, index: Tensor, classes: Tensor) -> Tensor:
        """Covariates as the networks read them.

        Args:
            index: Of the scans that sex and age are of (B,).
            classes: Label maps that the volumes are measured in (B, ..., X, Y, Z).

        Returns:
            (B, 4) in 0..1 by `ranges`, on the device of the maps.
        """
        ventricular, brain = self._volumes(classes)
        known = index.cpu()
        values: Any = {
            "sex": self.sex[known].to(brain),
            "age": self.age[known].to(brain),
            "ventricular_volume": ventricular,
            "brain_volume": brain,
        }
        scaled: Any = to_unit(values, self.ranges)
        return torch.stack(scaled, 1)

    def population(self) -> dict[str, object]:
        """What is assumed where a user says nothing; see vcm.imaging.covariates.describe_population."""
        ventricular, brain = self._volumes(self.classes)
        return {
            "typical_age": float(self.age.median()),
            "expected_volumes": fit_expected_volumes(
                self.sex.tolist(), self.age.tolist(), ventricular.tolist(), brain.tolist()
            ),
        }

    def _volumes(self, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Ventricular and brain volume [mL], each (B,)."""
        voxels = torch.stack(
            [
                torch.bincount(one.flatten().int(), minlength=NUMBER_OF_CLASSES + 1)
                for one in classes
            ]
        )
        millilitres = voxels.float() * self.grid.voxel_volume
        ventricular = millilitres[:, VENTRICLES]
        return ventricular, millilitres[:, 1:].sum(1) - ventricular - millilitres[:, CSF]

    def _at_half_size(self, i: int, device: torch.device) -> tuple[Tensor, Tensor]:
        if i not in self._refined:
            image = self.images[i][None, None].to(device).float() / 255
            classes = self.classes[i][None, None].to(device)
            self._refined[i] = refine_image(image).half(), refine_classes(classes)
        return self._refined[i]


def load_pool(data: Sequence[str], split: str) -> ScanPool:
    """Scans of one split that have sex, age and a label map with ventricles.

    Args:
        data: Folders that vcm prepare wrote, or one pack of them (.npz).
        split: train or validation. Covariates are scaled by the ranges of train.

    Raises:
        VCMError: There is no such scan, the file is no pack, the scans lie on different grids, or one to
            validate with is one to train on too, in another folder.
    """
    if len(data) == 1 and data[0].endswith(".npz"):
        return _unpack(Path(data[0]), split)
    known = _known(data)
    chosen, train = ([s for s in known if s.split == name] for name in (split, "train"))
    if not chosen:
        raise nobody(split, data)
    if split != "train":
        check_apart(train, chosen)
    return _pool_of(chosen, trained_ranges(train))


def pack_scans(data: Sequence[str], out: Path) -> int:
    """Write the scans of train and validation as one pack.

    Args:
        data: Folders that vcm prepare wrote.
        out: The file, .npz.

    Returns:
        Its size [bytes].

    Raises:
        VCMError: There is no scan to train on, the scans lie on different grids, or one is in both splits.
    """
    known = _known(data)
    train = [s for s in known if s.split == "train"]
    if not train:
        raise nobody("train", data)
    check_apart(train, [s for s in known if s.split != "train"])
    pool = _pool_of(known, trained_ranges(train))
    held = {
        "images": pool.images.numpy(),
        "classes": pool.classes.numpy(),
        "sex": pool.sex.numpy(),
        "age": pool.age.numpy(),
        "names": np.array(pool.names),
        "splits": np.array([s.split for s in known]),
        "ranges": np.array([pool.ranges[n] for n in COVARIATES]),
        "affine": pool.grid.affine,
    }

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.savez_compressed(file, **held)  # type: ignore[arg-type]

    write_whole(out, write)
    return out.stat().st_size


def _known(data: Sequence[str]) -> list[Subject]:
    """Scans of PACKED with all that a pool needs; a VCMWarning counts the others and names some."""
    everyone = [s for s in load_prepared(*data) if s.split in PACKED]
    # A map of three tissues has no ventricles, and their volume of 0 mL would be learned, and be nan as a logarithm.
    found = [
        s for s in everyone if s.has_classes and None not in (s.age, s.sex, s.ventricular_volume)
    ]
    left = [s.subject for s in everyone if s not in found]
    if left:
        warnings.warn(
            f"{len(left)} of {len(everyone)} scans are left out, as they lack age, sex or a label map with ventricles: "
            f"{first_names(left)}.",
            VCMWarning,
            stacklevel=3,
        )
    return found


def _pool_of(subjects: Sequence[Subject], ranges: Ranges) -> ScanPool:
    grid = read_volume(subjects[0].image_file).grid
    if not np.allclose(grid.spacing, grid.spacing[0], rtol=1e-3):
        sizes = " x ".join(f"{s:.4g}" for s in grid.spacing)
        raise VCMError(
            f"{subjects[0].image_file.name} has voxels of {sizes} mm, and deformations need cubes: "
            "prepare the scans with one spacing."
        )
    for subject in subjects[1:]:
        check_grid(subject, grid, subjects[0].subject)
    return ScanPool(
        torch.from_numpy(np.stack([(s.image() * 255).round().astype(np.uint8) for s in subjects])),
        torch.from_numpy(np.stack([s.classes() for s in subjects])),
        torch.tensor([float(sex_number(s.sex) or 0.0) for s in subjects]),
        torch.tensor([float(s.age or 0.0) for s in subjects]),
        [s.subject for s in subjects],
        ranges,
        grid,
    )


def _unpack(path: Path, split: str) -> ScanPool:
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {name: file[name] for name in file.files}
        chosen = held["splits"] == split
        ranges = {
            n: (float(a), float(b)) for n, (a, b) in zip(COVARIATES, held["ranges"], strict=True)
        }
        affine = held["affine"]
        images, classes, sex, age = (
            torch.from_numpy(held[n][chosen]) for n in ("images", "classes", "sex", "age")
        )
    # Whatever a damaged archive makes of the reader.
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile, zlib.error) as error:
        raise VCMError(
            f"{path} is no pack of prepared scans ({error}): give one written by pack_scans, or "
            "folders of vcm prepare."
        ) from error
    if not chosen.any():
        raise nobody(split, [path])
    names = [str(n) for n in held["names"][chosen]]
    x, y, z = images.shape[1:]
    return ScanPool(images, classes, sex, age, names, ranges, Grid((x, y, z), affine))
