"""The training set that `vcm prepare` writes: scans on a model's grid, with a table of what is known of each.

Knows the files of a prepared folder, and refuses one that is not finished.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VCMError
from vcm.files import read_table
from vcm.imaging.participants import SPLITS
from vcm.imaging.source import nobody
from vcm.imaging.volume import Grid, read_volume

#: Columns of a prepared participants.tsv.
COLUMNS = [
    "participant_id", "split", "age", "sex", "ventricular_volume", "brain_volume", "participant",
    "image", "label_map",
]  # fmt: skip
#: Without these it is no such table.
NEEDED = COLUMNS[:6]
#: Cells that say that nothing is known.
NOTHING = ("", "n/a", "nan")
#: Lies in a prepared folder while it is written to, and after a run that did not come to its end.
UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class Subject:
    """One scan of a prepared set.

    Attributes:
        subject: Name of the scan, sub-01 or sub-01_ses-2.
        split: train, validation or test.
        age: In years; None where unknown, as the next three.
        sex: F or M.
        ventricular_volume: In mL.
        brain_volume: In mL, without ventricles and extracerebral CSF.
        folder: Holds its files.
        participant: The person, sub-01; scans of one are not independent.
    """

    subject: str
    split: str
    age: float | None
    sex: str | None
    ventricular_volume: float | None
    brain_volume: float | None
    folder: Path
    participant: str = ""

    @property
    def image_file(self) -> Path:
        """The brain, T1w."""
        return self.folder / f"{self.subject}_T1w.nii.gz"

    @property
    def classes_file(self) -> Path:
        """The eight-class map; it need not be there."""
        return self.folder / f"{self.subject}_dseg.nii.gz"

    @property
    def has_classes(self) -> bool:
        """Whether it has an eight-class map."""
        return self.classes_file.is_file()

    def image(self) -> NDArray[np.float32]:
        """Brain T1w on the model's grid (X, Y, Z), 0..1."""
        return np.asarray(read_volume(self.image_file).data, dtype=np.float32)

    def classes(self) -> NDArray[np.uint8]:
        """Eight-class map on the model's grid (X, Y, Z), 0..8."""
        return read_volume(self.classes_file).data.astype(np.uint8)


def load_prepared(*folders: str | Path, split: str | None = None) -> list[Subject]:
    """Scans of one or more folders written by `vcm prepare`.

    Args:
        folders: Prepared folders.
        split: train, validation or test; None: all.

    Raises:
        VCMError: A folder is no prepared one, is not finished or is given twice, a cell cannot be
            understood, or there is no such scan.
    """
    subjects = []
    _refuse_twice(folders)
    for folder in map(Path, folders):
        if (folder / UNFINISHED).exists():
            raise VCMError(
                f"{folder} is being prepared, or the run that prepared it was stopped: wait for it, or "
                "run the same vcm prepare again; what is done is kept."
            )
        if not (folder / "participants.tsv").is_file():
            fault = "is not there" if not folder.exists() else "holds no participants.tsv"
            raise VCMError(
                f"{folder} {fault}: give a folder that vcm prepare wrote (vcm prepare SCANS --out {folder.name})."
            )
        for row in read_table(folder / "participants.tsv"):
            lacking = [name for name in NEEDED if name not in row]
            if lacking:
                raise VCMError(
                    f"{folder} was not written by vcm prepare (its table has no {', '.join(lacking)}): "
                    "prepare it first, and give the folder that vcm prepare wrote."
                )
            subject = _subject(row, folder)
            if split in (None, subject.split):
                subjects.append(subject)
    if not subjects:
        raise nobody(split, folders)
    return subjects


def _refuse_twice(folders: Sequence[str | Path]) -> None:
    """Refuse a folder that is given twice, by whichever names: each of its scans would count twice."""
    first: dict[Path, str | Path] = {}
    for folder in folders:
        same = first.setdefault(Path(folder).resolve(), folder)
        if same is not folder:
            raise VCMError(
                f"{folder} is given twice, the first time as {same}: give each folder once, as each of its scans "
                "would count twice."
            )


def _subject(row: dict[str, str], folder: Path) -> Subject:
    name = row["participant_id"]
    return Subject(
        name,
        _word(row, "split", folder, SPLITS),
        _number(row, "age", folder),
        _sex(row, folder),
        _number(row, "ventricular_volume", folder),
        _number(row, "brain_volume", folder),
        folder / name,
        row.get("participant") or name,
    )


def _number(row: Mapping[str, str], column: str, folder: Path) -> float | None:
    """A cell as a number, None where nothing is known; what was typed into it since is not guessed."""
    text = row[column].strip()
    if text.lower() in NOTHING:
        return None
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise _unknown_cell(row, column, folder, "a number or n/a")
    return value


def _sex(row: Mapping[str, str], folder: Path) -> str | None:
    if row["sex"].strip().lower() in NOTHING:
        return None
    return _word(row, "sex", folder, ("F", "M", "n/a"))


def _word(row: Mapping[str, str], column: str, folder: Path, words: tuple[str, ...]) -> str:
    """A cell that holds one of few words; another one, typed since, would leave its scan out unseen."""
    text = row[column].strip()
    if text not in words:
        raise _unknown_cell(row, column, folder, f"{', '.join(words[:-1])} or {words[-1]}")
    return text


def _unknown_cell(row: Mapping[str, str], column: str, folder: Path, wanted: str) -> VCMError:
    return VCMError(
        f"{column} of {row['participant_id']} in {folder / 'participants.tsv'} is '{row[column]}': write {wanted}, "
        "or correct the source's table and prepare it again."
    )


def with_classes(subjects: list[Subject]) -> list[Subject]:
    """Those that have an eight-class map.

    Raises:
        VCMError: There are none.
    """
    mapped = [s for s in subjects if s.has_classes]
    if not mapped:
        splits = ", ".join(sorted({s.split for s in subjects}))
        raise VCMError(
            f"None of the {len(subjects)} subjects ({splits}) has a label map: add *_dseg.nii.gz to the "
            "source folder, or let a segmenter make them, then prepare it again."
        )
    return mapped


def one_per_folder(subjects: Sequence[Subject]) -> list[Subject]:
    """The first of each prepared folder, whose scans all lie on one grid."""
    found: dict[Path, Subject] = {}
    for subject in subjects:
        found.setdefault(subject.folder.parent, subject)
    return [*found.values()]


def check_one_grid(subjects: Sequence[Subject]) -> None:
    """Raise VCMError where the scans of two prepared folders lie on other voxels, or the same ones in another place."""
    first, *others = one_per_folder(subjects)
    grid = read_volume(first.image_file).grid
    for other in others:
        own = read_volume(other.image_file).grid
        if own.shape != grid.shape or not np.allclose(own.affine, grid.affine, atol=1e-3):
            one, two = (
                f"{g.shape} from {np.round(g.affine[:3, 3], 1).tolist()} mm" for g in (grid, own)
            )
            raise VCMError(
                f"Scans of {first.folder.parent} lie on voxels {one} and those of {other.folder.parent} on {two}, so "
                "they do not fit each other: prepare all for one model, with the same --spacing or --model."
            )


def check_grid(subject: Subject, grid: Grid, model: str) -> None:
    """Raise VCMError where a prepared scan does not lie on the voxels of the model."""
    own = read_volume(subject.image_file).grid
    if own.shape != grid.shape or not np.allclose(own.affine, grid.affine, atol=1e-3):
        sizes, wanted = ("x".join(f"{s:.3g}" for s in g.spacing) for g in (own, grid))
        raise VCMError(
            f"{subject.image_file.name} was prepared on {own.shape} voxels of {sizes} mm, but {model} "
            f"works on {grid.shape} of {wanted} mm: prepare the scans again, for {model}."
        )
