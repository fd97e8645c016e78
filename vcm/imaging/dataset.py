"""Folders of subjects: a BIDS-like source, and the training set that `vcm prepare` writes from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VCMError
from vcm.files import read_table
from vcm.imaging.volume import Grid, read_volume


@dataclass(frozen=True)
class Scan:
    """One subject of a source folder."""

    subject: str
    image: Path
    labels: Path | None
    age: float | None
    sex: str | None
    split: str


@dataclass(frozen=True)
class Subject:
    """One subject of a prepared set. Volumes [mL], age [years], sex F or M; None where unknown."""

    subject: str
    split: str
    age: float | None
    sex: str | None
    ventricular_volume: float | None
    brain_volume: float | None
    folder: Path

    @property
    def image_file(self) -> Path:
        return self.folder / f"{self.subject}_T1w.nii.gz"

    @property
    def classes_file(self) -> Path:
        return self.folder / f"{self.subject}_dseg.nii.gz"

    @property
    def has_classes(self) -> bool:
        return self.classes_file.is_file()

    def image(self) -> NDArray[np.float32]:
        """Brain T1w on the model's grid, 0..1."""
        return np.asarray(read_volume(self.image_file).data, dtype=np.float32)

    def classes(self) -> NDArray[np.uint8]:
        """Eight-class map on the model's grid, 0..8."""
        return read_volume(self.classes_file).data.astype(np.uint8)


def check_grid(subject: Subject, grid: Grid, model: str) -> None:
    """Raise VCMError where a prepared scan does not lie on the voxels of the model."""
    own = read_volume(subject.image_file).grid
    if own.shape != grid.shape or not np.allclose(own.affine, grid.affine, atol=1e-3):
        sizes, wanted = ("x".join(f"{s:.3g}" for s in g.spacing) for g in (own, grid))
        raise VCMError(
            f"{subject.image_file.name} was prepared on {own.shape} voxels of {sizes} mm, but {model} "
            f"works on {grid.shape} of {wanted} mm: run vcm prepare again with --model {model}."
        )


def find_scans(*folders: str | Path, split: str | None = None) -> list[Scan]:
    """Subjects of BIDS-like folders that have a `*_T1w.nii[.gz]`, of one split or all, in the order of
    participants.tsv. Raises VCMError."""
    found = [scan for folder in map(Path, folders) for scan in _scans_in(folder)]
    chosen = [scan for scan in found if split in (None, scan.split)]
    if not chosen:
        raise _nobody(split, folders)
    return chosen


def _scans_in(folder: Path) -> list[Scan]:
    rows = read_table(folder / "participants.tsv")
    if not rows or "participant_id" not in rows[0]:
        raise VCMError(
            f"{folder / 'participants.tsv'} has no column participant_id: BIDS needs one row per subject."
        )
    scans = []
    for row in rows:
        name = row["participant_id"]
        images = sorted((folder / name).rglob("*_T1w.nii*"))
        if not images:
            continue
        labels = sorted((folder / name).rglob("*_dseg.nii*"))
        sex = (row.get("sex") or "").strip().upper()[:1]
        scans.append(
            Scan(
                name,
                images[0],
                labels[0] if labels else None,
                _number(row.get("age")),
                sex if sex in ("F", "M") else None,
                row.get("split") or "train",
            )
        )
    if not scans:
        raise VCMError(
            f"No *_T1w.nii.gz of a subject in participants.tsv was found under {folder}: "
            "give a BIDS folder, sub-*/anat/sub-*_T1w.nii.gz."
        )
    return scans


def load_prepared(*folders: str | Path, split: str | None = None) -> list[Subject]:
    """Subjects of one or more folders written by `vcm prepare`, of one split or all. Raises VCMError."""
    subjects = []
    for folder in map(Path, folders):
        for row in read_table(folder / "participants.tsv"):
            if "ventricular_volume" not in row:
                raise VCMError(
                    f"{folder} was not written by vcm prepare (its table has no ventricular_volume): "
                    f"run vcm prepare {folder} --out PREPARED first."
                )
            if split is not None and row["split"] != split:
                continue
            subjects.append(
                Subject(
                    row["participant_id"],
                    row["split"],
                    _number(row["age"]),
                    row["sex"] if row["sex"] in ("F", "M") else None,
                    _number(row["ventricular_volume"]),
                    _number(row["brain_volume"]),
                    folder / row["participant_id"],
                )
            )
    if not subjects:
        raise _nobody(split, folders)
    return subjects


def _nobody(split: str | None, folders: Iterable[str | Path]) -> VCMError:
    return VCMError(
        f"No subject of split '{split}' in {', '.join(map(str, folders))}: check the column split "
        "of participants.tsv."
    )


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def with_classes(subjects: list[Subject]) -> list[Subject]:
    """Those that have an eight-class map. Raises VCMError if there are none."""
    mapped = [s for s in subjects if s.has_classes]
    if not mapped:
        raise VCMError(
            f"None of the {len(subjects)} subjects of split '{subjects[0].split}' has a label map: add "
            "*_dseg.nii.gz to the source folder, then prepare it again."
        )
    return mapped


SPLITS = ("train", "validation", "test")
