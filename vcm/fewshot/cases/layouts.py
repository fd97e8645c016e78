"""Find the cases of a few-shot task: scans by sequence, and labels. Knows folders and tables.

Four layouts are read: BIDS (sub-X[/ses-Y]/anat/*_T1w.nii.gz, labels in participants.tsv or a
*_dseg.nii.gz beside the scan), that of FOMO (sub_X/ses_Y/t1.nii.gz, labels/sub_X[/ses_Y]/label.txt
or seg.nii.gz), a folder per case whose files begin with its name, as in BraTS (X/X_t1ce.nii.gz or X/X-t1c.nii.gz
with X/X_seg.nii.gz), and a table with the columns case, sequence, path and label. What
sub-X/sub-X_sessions.tsv says of a session of BIDS goes before what participants.tsv says of the subject.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vcm.errors import VCMError, VCMWarning, first_names
from vcm.fewshot.cases.tasks import Task, sequence_name, sequence_of_file, words_of
from vcm.imaging.bids import ENDINGS
from vcm.imaging.participants import (
    OLDEST,
    age_unit,
    is_told,
    parse_age,
    parse_split,
    read_rows,
    session_of,
    subject_of,
)
from vcm.imaging.scan_files import files_below

#: Last token of a file that holds labels or a mask, not a scan.
_MAP_TOKENS = ("dseg", "seg", "mask", "label", "labels", "segmentation", "segm")
#: Last token of a file that is neither.
_NEITHER = ("roi", "probseg")
#: Endings of images in any spelling, of which only ENDINGS are read.
_IMAGES = (*ENDINGS, ".hdr", ".hdr.gz")


@dataclass(frozen=True)
class Case:
    """One case: scans by canonical sequence, its labels by name, its label maps by file name token.

    values holds the columns of the table of participants as text, and 'label' where the layout has
    one label per case; maps holds files such as *_dseg.nii.gz under 'dseg'.
    """

    name: str
    images: dict[str, Path]
    values: dict[str, str] = field(default_factory=dict)
    maps: dict[str, Path] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """Whose scans they are: sessions of one subject are cases of their own."""
        return subject_of(self.name)

    @property
    def split(self) -> str:
        """Column split, 'train' where there is none."""
        return self.values.get("split") or "train"


@dataclass(frozen=True)
class Source:
    """Where cases are: a folder or table, its split, and the label map that masks the brain, if any."""

    data: str
    split: str | None = None
    mask: str = ""


@dataclass(frozen=True)
class Target:
    """Where the label of a case is found, and how it is read.

    label    a column (age, sex, label), or the token of a label map (dseg, mask)
    groups   class -> indices of the map that make it up; none: the indices 1, 2, ... as they are
    """

    label: str
    groups: Mapping[str, Sequence[int]] = field(default_factory=dict)


def find_cases(source: str | Path, split: str | None = None) -> list[Case]:
    """Cases of a folder or table, by name, of one split or all.

    Raises:
        VCMError: there are none, two scans of one case have one name, or a label has no case.
    """
    path = Path(source)
    left = _LeftOut()
    if path.is_file():
        cases = _from_table(path)
    elif not path.is_dir():
        raise VCMError(f"{path} does not exist: give a folder of cases or a table.")
    elif (path / "participants.tsv").is_file() or any(path.glob("sub-*")):
        cases = _from_bids(path, left)
    else:
        cases = _from_fomo(path, left) or _from_named_folders(path, left)
    left.warn(path)
    if not cases:
        raise VCMError(
            f"No case was found in {path}: give a BIDS folder (sub-*/anat/*_T1w.nii.gz), one of the FOMO "
            "layout (sub_*/ses_*/t1.nii.gz), one with a folder per case (X/X_t1.nii.gz), or a table with the "
            "columns case, sequence, path."
        )
    chosen = [c for c in cases if split in (None, c.split)]
    if not chosen:
        there = ", ".join(sorted({c.split for c in cases}))
        raise VCMError(f"No case of {path} has the split '{split}': it has {there}.")
    return sorted(chosen, key=lambda c: c.name)


def label_text(case: Case, target: Target) -> str | None:
    """The label of a case in a column, as text; None where it is empty or n/a."""
    column = target.label if target.label in case.values else target.label.lower()
    if column not in case.values:
        raise VCMError(
            f"{case.name} has no column '{target.label}' (it has {', '.join(case.values) or 'none'}): "
            "name the column of the label."
        )
    text = case.values[column].strip()
    return text if is_told(text) else None


def label_number(case: Case, target: Target) -> float | None:
    """The label of a regression; None where unknown. Raises VCMError where it is no number, or no age of anybody."""
    text = label_text(case, target)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if value != value or abs(value) == float("inf"):
        raise VCMError(
            f"{target.label} of {case.name} is '{text}', but a regression needs a number: correct it, or "
            "set kind to classification."
        )
    if target.label.lower() == "age" and not 0 <= value <= OLDEST:
        raise VCMError(
            f"The age of {case.name} is {text}, but ages are 0 to {OLDEST:g} years: write n/a where it is unknown, and "
            "their unit into participants.json where they are not in years."
        )
    return value


def label_class(case: Case, target: Target, task: Task) -> int | None:
    """The class of a case, 0, 1, ...; None where unknown. Raises VCMError for an unknown class."""
    text = label_text(case, target)
    if text is None:
        return None
    if text not in task.classes:
        raise VCMError(
            f"{target.label} of {case.name} is '{text}', but the classes are "
            f"{', '.join(task.classes)}: correct it, or add the class."
        )
    return task.classes.index(text)


def with_labels(cases: Iterable[Case], target: Target, task: Task) -> list[Case]:
    """Cases whose scans the task can read and whose label is known; a VCMWarning names the others.

    Raises:
        VCMError: no case is left, or one lacks a required sequence.
    """
    kept: list[Case] = []
    without: list[Case] = []
    for case in cases:
        task.fill(case.images, case.name)
        if task.kind == "segmentation":
            known = target.label in case.maps
        elif task.kind == "classification":
            known = label_class(case, target, task) is not None
        else:
            known = label_number(case, target) is not None
        (kept if known else without).append(case)
    if not kept:
        maps = sorted({name for case in without for name in case.maps})
        raise VCMError(
            f"No case has a label '{target.label}': name the column or map that has it (maps beside the scans: "
            f"{', '.join(maps) or 'none'})."
        )
    if without:
        warnings.warn(
            f"{len(without)} of {len(without) + len(kept)} cases have no {target.label} and are left out: "
            f"{first_names([c.name for c in without])}.",
            VCMWarning,
            stacklevel=2,
        )
    return kept


@dataclass
class _LeftOut:
    """What of a folder is not read: images in other formats or spellings, subjects without a scan that is."""

    files: list[Path] = field(default_factory=list)
    subjects: list[str] = field(default_factory=list)

    def nifti(self, files: Iterable[Path]) -> list[Path]:
        """NIfTI files but hidden ones, such as the ._ files that macOS leaves."""
        shown = sorted(p for p in files if not p.name.startswith("."))
        read = [p for p in shown if p.name.endswith(ENDINGS)]
        self.files += [p for p in shown if p.name.lower().endswith(_IMAGES) and p not in read]
        return read

    def warn(self, folder: Path) -> None:
        """A VCMWarning names them."""
        if self.files:
            warnings.warn(
                f"{len(self.files)} images in {folder} are not read, {first_names([p.name for p in self.files])}: convert "
                "them to NIfTI, with names that end in .nii.gz or .nii.",
                VCMWarning,
                stacklevel=3,
            )
        if self.subjects:
            warnings.warn(
                f"{len(self.subjects)} folders of subjects in {folder} have no scan that is read and are left out: "
                f"{first_names(self.subjects)}. A name tells the sequence by a word of its own, as in sub-X_T1w.nii.gz.",
                VCMWarning,
                stacklevel=3,
            )


def _from_bids(folder: Path, left: _LeftOut) -> list[Case]:
    table = folder / "participants.tsv"
    rows: dict[str, list[dict[str, str]]] = {}
    if table.is_file():
        rows = _rows_by_subject(table)
        if not any((folder / name).is_dir() for name in rows):
            raise VCMError(f"None of the participants in {table} has a folder in {folder}.")
    subjects = sorted(p for p in folder.glob("sub-*") if p.is_dir())
    told = {subject: _rows_by_session(subject) for subject in subjects}
    tables = [row for of in rows.values() for row in of]
    tables += [row for of in told.values() for row in of.values()]
    columns = {k: "" for row in tables for k in row if k}
    cases = []
    inherited: dict[str, list[str]] = {}
    for subject in subjects:
        sessions = sorted(p for p in subject.glob("ses-*") if p.is_dir()) or [subject]
        for session in sessions:
            name = "_".join((subject.name, *((session.name,) if session != subject else ())))
            images, maps = _sorted_by_kind(name, left.nifti(files_below(session)))
            if images:
                row = _row_of(subject.name, session.name, rows.get(subject.name, []), table)
                own = told[subject].get(session.name, {})
                values = {**columns, **row, **{k: v for k, v in own.items() if v}}
                cases.append(Case(name, images, values, maps))
                for column in (k for k, v in own.items() if not v and is_told(row.get(k, ""))):
                    inherited.setdefault(column, []).append(name)
            else:
                left.subjects.append(name)
    _warn_of_inherited(inherited)
    if any("split" in row for of in rows.values() for row in of):
        _refuse_unmatched([c.subject for c in cases], rows, table)
    return cases


def _warn_of_inherited(inherited: Mapping[str, Sequence[str]]) -> None:
    """Say where a session's own table leaves open what the row of its subject tells, which is taken then."""
    for column, names in inherited.items():
        warnings.warn(
            f"The column {column} is empty in the *_sessions.tsv of {first_names(names)}: what participants.tsv says of "
            "the subject is taken, which may be of another date.",
            VCMWarning,
            stacklevel=4,
        )


def _refuse_unmatched(subjects: Iterable[str], rows: Collection[str], table: Path) -> None:
    """Say of which subjects a table tells no split, so that they count as training cases.

    Raises:
        VCMError: It has rows without a folder too, so these subjects may be called otherwise there.
    """
    without = list(dict.fromkeys(s for s in subjects if s not in rows))
    if not without:
        return
    lost = [name for name in rows if not (table.parent / name).is_dir()]
    missing = f"{first_names(without)} {'has' if len(without) == 1 else 'have'} no row in {table}, whose column split tells"
    if lost:
        raise VCMError(
            f"{missing} training from test cases, and {first_names(lost)} there no folder: name them alike."
        )
    warnings.warn(
        f"{missing} training from test cases: it counts as train.", VCMWarning, stacklevel=3
    )


def _rows_by_subject(table: Path) -> dict[str, list[dict[str, str]]]:
    """Rows of each participant, with its prefix; splits in one spelling."""
    rows = read_rows(table)
    unit = age_unit(table.with_suffix(".json"))
    if rows and "participant_id" not in rows[0]:
        raise VCMError(
            f"{table} has no column participant_id (its columns are {', '.join(rows[0])}): BIDS needs one "
            "row per subject."
        )
    found: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        if row["participant_id"]:
            name = "sub-" + row["participant_id"].removeprefix("sub-")
            found.setdefault(name, []).append(_in_years(_with_split(row), unit))
    return found


def _rows_by_session(subject: Path) -> dict[str, dict[str, str]]:
    """What sub-X_sessions.tsv says of each session, "" in cells that say nothing.

    Raises:
        VCMError: Two rows of one session differ.
    """
    table = subject / f"{subject.name}_sessions.tsv"
    found: dict[str, dict[str, str]] = {}
    unit = age_unit(table.with_suffix(".json"), subject.parent / "sessions.json")
    for row in read_rows(table) if table.is_file() else []:
        understood = _in_years(_with_split(row), unit)
        told = {k: v if is_told(v) else "" for k, v in understood.items() if k}
        session = session_of(row)
        if session and found.setdefault(session, told) != told:
            raise VCMError(f"{session} has rows in {table} that differ: keep one.")
    return found


def _with_split(row: dict[str, str]) -> dict[str, str]:
    """The row with its split in one spelling."""
    return {**row, "split": parse_split(row["split"])} if "split" in row else row


def _in_years(row: dict[str, str], unit: str) -> dict[str, str]:
    """The row with its age in years, where the description of the table has it in months, weeks or days."""
    age, _ = parse_age(row.get("age", ""), unit) if unit in ("m", "w", "d") else (None, "")
    return row if age is None else {**row, "age": f"{age:.6g}"}


def _row_of(
    subject: str, session: str, rows: Sequence[dict[str, str]], table: Path
) -> dict[str, str]:
    """What the table says of one session: its own row, or the one without a session; {} where it has none.

    Raises:
        VCMError: Several rows differ, so nobody can tell which is meant.
    """
    own = [row for row in rows if session_of(row) == session]
    chosen = own or [row for row in rows if not session_of(row)]
    if session == subject and len(rows) == 1:
        chosen = list(rows)  # the folder has no sessions, and the table names the only one
    if any(row != chosen[0] for row in chosen):
        raise VCMError(
            f"{subject} has {len(chosen)} rows in {table} that differ: keep one, or one per session with a "
            "column session_id."
        )
    if rows and not chosen:
        raise VCMError(f"{subject} has no row for {session} in {table}: add one.")
    return {k: v for k, v in chosen[0].items() if k} if chosen else {}


def _from_fomo(folder: Path, left: _LeftOut) -> list[Case]:
    root = folder / "preprocessed" if (folder / "preprocessed").is_dir() else folder
    labels = folder / "labels"
    columns = {"label": ""} if any(labels.rglob("label.txt")) else {}
    cases, used = [], set()
    for subject in sorted(p for p in root.glob("sub_*") if p.is_dir()):
        sessions = sorted(p for p in subject.glob("ses_*") if p.is_dir()) or [subject]
        for session in sessions:
            below = session.relative_to(root)
            name = "_".join(below.parts)
            images, maps = _sorted_by_kind(name, left.nifti(session.iterdir()))
            values = dict(columns)
            for at in (labels / below, labels / subject.name):
                used.add(at)
                if (at / "label.txt").is_file() and not values["label"]:
                    values["label"] = _text_of(at / "label.txt")
                for seg in (at / "seg.nii.gz", at / "seg.nii"):
                    if seg.is_file():
                        maps.setdefault("seg", seg)
            if images:
                cases.append(Case(name, images, values, maps))
            else:
                left.subjects.append(name)
    for found in sorted([*labels.rglob("label.txt"), *labels.rglob("seg.nii*")]):
        if found.parent not in used:
            raise VCMError(
                f"{found} is the label of no case in {root}: remove it, or add the scans of "
                f"{found.parent.relative_to(labels)}."
            )
    return cases


def _text_of(file: Path) -> str:
    """What a file of one label says. Raises VCMError where it is no UTF-8, which may begin with a byte-order mark."""
    try:
        return file.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise VCMError(f"{file} is no text in UTF-8 ({error}): save it as such.") from error


def _from_named_folders(folder: Path, left: _LeftOut) -> list[Case]:
    """A case per folder, of the files in it that begin with its name."""
    cases = []
    for home in sorted(p for p in folder.iterdir() if p.is_dir()):
        files = left.nifti(p for p in home.iterdir() if p.name.startswith(home.name))
        images, maps = _sorted_by_kind(home.name, files)
        if images:
            cases.append(Case(home.name, images, {}, maps))
    return cases


def _from_table(path: Path) -> list[Case]:
    rows = read_rows(path)
    if not rows or not {"case", "sequence", "path"} <= set(rows[0]):
        raise VCMError(f"{path} needs the columns case, sequence and path, and a row per scan.")
    images: dict[str, dict[str, Path]] = {}
    values: dict[str, dict[str, str]] = {}
    maps: dict[str, dict[str, Path]] = {}
    columns = {k: "" for k in rows[0] if k and k not in ("case", "sequence", "path")}
    for row in map(_with_split, rows):
        name, file = row["case"], path.parent / row["path"]
        if not name or set(name) & set("/\\") or name.startswith("."):
            raise VCMError(
                f"A case of {path} is called '{name}', but its answer is a file of that name: give a name without "
                "slashes or a dot in front."
            )
        if not file.is_file():
            raise VCMError(f"{file}, a scan of {name} in {path}, does not exist: correct its path.")
        if row["sequence"].lower() in _MAP_TOKENS:
            _add(maps.setdefault(name, {}), row["sequence"].lower(), file, name)
        else:
            _add(images.setdefault(name, {}), sequence_name(row["sequence"]), file, name)
        others = {k: v for k, v in row.items() if k in columns and v}
        for key, text in others.items():
            before = values.setdefault(name, {}).setdefault(key, text)
            if before != text:
                raise VCMError(f"{name} has two values of {key} in {path}: {before} and {text}.")
    for name in maps:
        if name not in images:
            raise VCMError(f"{path} has a label map of {name}, but no scan of it: add the scan.")
    return [Case(n, images[n], columns | values.get(n, {}), maps.get(n, {})) for n in images]


def _sorted_by_kind(
    case: str, files: Iterable[Path]
) -> tuple[dict[str, Path], dict[str, Path]]:  # fmt: skip
    """Scans by sequence and label maps by their last token; files of no known name are left."""
    images: dict[str, Path] = {}
    maps: dict[str, Path] = {}
    for file in files:
        last = words_of(re.sub(r"\.nii(\.gz)?$", "", file.name))[-1]
        if last in _MAP_TOKENS:
            _add(maps, last, file, case)
            continue
        if last in _NEITHER:
            continue
        sequence = sequence_of_file(file.name)
        if sequence is not None:
            _add(images, sequence, file, case)
    return images, maps


def _add(there: dict[str, Path], name: str, file: Path, case: str) -> None:
    if name in there:
        raise VCMError(
            f"{case} has two files of {name} ({there[name].name} and {file.name}): keep one, or list "
            "the scans in a table with the columns case, sequence, path."
        )
    there[name] = file
