"""A folder of scans as users have them: which scans there are, whose they are, and with which label map.

Knows names and tables; opens no image. A scan that cannot be used is named with the reason and never
stops the others.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vcm.errors import VCMError, VCMWarning
from vcm.imaging.bids import ENDINGS, BIDSFile, label_map_of, one_per_scan, parse, scan_name, stem
from vcm.imaging.nifti import is_pointer
from vcm.imaging.participants import (
    SPLITS,
    Participant,
    ages_of_sessions,
    at_session,
    one_participant,
    read_participants,
)
from vcm.imaging.scan_files import files_below

#: Endings of names that say that a file is no T1w scan.
_OTHER_IMAGES = {
    "dseg", "seg", "mask", "probseg", "t2w", "t2", "t2f", "flair", "pdw", "pd", "t2star", "t1map", "t2map",
    "swi", "bold", "sbref", "dwi", "asl", "cbf", "epi", "angio", "mra", "inplanet1", "inplanet2", "unit1",
}  # fmt: skip
#: ... that it is one, and that it is one with gadolinium, beside which a plain one may lie.
_T1W, _ENHANCED = {"t1w", "t1", "t1n"}, {"t1ce", "t1gd", "t1c"}
#: A name that is none of BIDS, and its ending: X_t1, IXI002-Guys-0828-T1, BraTS-GLI-00000-000-t2f.
_ENDED = re.compile(r"(?!sub-[^_.-]*$)(.+)[_.-]([a-zA-Z0-9]+)")
#: Endings of NIfTI in any spelling, of which only ENDINGS are read. The .img of a .hdr is none of its own.
_IMAGES = (*ENDINGS, ".hdr", ".hdr.gz")
#: Scans that a warning names one by one.
MOST_NAMED = 10
#: Shares of the subjects in a split that is made by seed.
SHARES = {"test": 0.1, "validation": 0.1}


@dataclass(frozen=True)
class Scan:
    """One scan of a source folder.

    Attributes:
        subject: Name of the scan, sub-01 or sub-01_ses-2; the unit that is prepared.
        image: The T1w file.
        labels: Its label map or mask.
        age: In years.
        sex: F or M.
        split: train, validation or test.
        participant: The person, sub-01, whose scans are all in one split.
    """

    subject: str
    image: Path
    labels: Path | None
    age: float | None
    sex: str | None
    split: str
    participant: str = ""


@dataclass(frozen=True)
class Finding:
    """Something to know of one scan or subject: its name, and a phrase that goes on from it."""

    subject: str
    what: str


@dataclass(frozen=True)
class Source:
    """What a folder holds.

    Attributes:
        scans: Those that can be read, as far as names and tables tell.
        rejected: Scans and subjects that cannot be used, with the reason.
        notes: What was understood with a reservation.
        split: Where the split comes from: 'participants.tsv', or 'seed N'.
    """

    scans: tuple[Scan, ...]
    rejected: tuple[Finding, ...]
    notes: tuple[Finding, ...]
    split: str


def read_source(
    folder: Path, image_desc: str = "", label_desc: str = "", split_seed: int = 0
) -> Source:
    """List the scans of a folder.

    Args:
        folder: A BIDS folder with or without participants.tsv, or a plain folder of T1w files.
        image_desc: The `desc` of the T1w files that are meant, for instance 'brain'; '' where each
            scan has one.
        label_desc: The `desc` of the label maps that are meant, for instance 'aseg'.
        split_seed: Makes the split where the table has none. A subject keeps its place in the order
            that the seed makes, whoever is added.

    Raises:
        VCMError: There is no such folder, or no T1w file in it.
    """
    if not folder.is_dir():
        raise VCMError(f"{folder} is no folder: give a BIDS folder, or one of T1w files.")
    table: dict[str, list[Participant]] = defaultdict(list)
    for row in read_participants(folder):
        table[row.name].append(row)
    images, maps, rejected = _by_subject(folder, table)
    if not images and not rejected:
        raise VCMError(
            f"No T1w scan was found in {folder}: give a BIDS folder, sub-01/anat/sub-01_T1w.nii.gz, "
            "or a folder of T1w files that end in .nii or .nii.gz."
        )
    scans, notes = [], []
    for owner in sorted(images):
        found = _scans_of(owner, folder, images[owner], maps[owner], table, image_desc, label_desc)
        scans += found[0]
        rejected += found[1]
        notes += found[2]
    rejected += [
        Finding(name, "has a row in participants.tsv but no T1w scan")
        for name in table
        if name not in images and all(finding.subject != name for finding in rejected)
    ]
    named = {*images, *table, *(finding.subject for finding in rejected)}
    rejected += [
        Finding(entry.name, "has a folder but no T1w scan")
        for entry in sorted(folder.glob("sub-*"))
        if entry.is_dir() and entry.name not in named
    ]
    scans, of_splits = _one_split_each(_in_order(scans, table))
    scans, of_rows, split = _with_splits(scans, split_seed)
    return Source(tuple(scans), (*rejected, *of_splits), (*notes, *of_rows), split)


def _with_splits(scans: list[Scan], seed: int) -> tuple[list[Scan], list[Finding], str]:
    """Every scan in a split, by the table or else by seed; notes; and which of both it was."""
    if any(scan.split for scan in scans):
        what = "has no split in participants.tsv: used for training"
        notes = [Finding(s.subject, what) for s in scans if not s.split]
        scans = [replace(scan, split=scan.split or "train") for scan in scans]
        return scans, notes, "participants.tsv"
    splits = split_by_seed({scan.participant for scan in scans}, seed)
    return [replace(s, split=splits[s.participant]) for s in scans], [], f"seed {seed}"


def find_scans(*folders: str | Path, split: str | None = None) -> list[Scan]:
    """Scans of one or more folders, of one split or all.

    A VCMWarning for each folder names the scans that cannot be used, and why.

    Raises:
        VCMError: There are none.
    """
    found: list[Scan] = []
    for folder in folders:
        source = read_source(Path(folder))
        found += source.scans
        if source.rejected:
            reasons = "; ".join(f"{r.subject} {r.what}" for r in source.rejected[:MOST_NAMED])
            more = len(source.rejected) - MOST_NAMED
            warnings.warn(
                f"{len(source.rejected)} scans or subjects of {folder} are left out: {reasons}"
                + (f"; and {more} more." if more > 0 else "."),
                VCMWarning,
                stacklevel=2,
            )
    return of_split(split, found, folders)


def of_split(split: str | None, scans: Iterable[Scan], folders: Iterable[str | Path]) -> list[Scan]:
    """Those of one split, or all.

    Args:
        split: train, validation or test; None: all.
        scans: Of these folders.
        folders: For the message.

    Raises:
        VCMError: There are none.
    """
    chosen = [scan for scan in scans if split in (None, scan.split)]
    if not chosen:
        raise nobody(split, folders)
    return chosen


class NobodyError(VCMError):
    """No subject of a split is there."""


def nobody(split: str | None, folders: Iterable[str | Path]) -> NobodyError:
    """The error for a folder without a subject of that split, or without any."""
    which = f" of split '{split}'" if split else " that can be used"
    return NobodyError(
        f"No subject{which} in {', '.join(map(str, folders))}: check participants.tsv, and its column "
        "split."
    )


def split_by_seed(participants: Iterable[str], seed: int) -> dict[str, str]:
    """Subjects -> train, validation or test.

    A tenth each for test and validation, at least one of each where there are three. The order is that of a hash of seed and name, so that it does not depend on who else is there.
    """
    order = sorted(
        participants, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest()
    )
    splits, start = dict.fromkeys(order, "train"), 0
    for number, (split, share) in enumerate(SHARES.items(), start=1):
        count = max(round(share * len(order)), int(len(order) > number))
        splits |= dict.fromkeys(order[start : start + count], split)
        start += count
    return splits


def _by_subject(
    folder: Path, table: Iterable[str]
) -> tuple[dict[str, list[BIDSFile]], dict[str, list[BIDSFile]], list[Finding]]:
    """T1w files and label maps of each subject, and files that lie in another's or another session's folder."""
    images: dict[str, list[BIDSFile]] = defaultdict(list)
    maps: dict[str, list[BIDSFile]] = defaultdict(list)
    rejected = []
    for owner, file in _files(folder, table):
        if file.get("sub") != owner.removeprefix("sub-"):
            what = f"lies in the folder of {owner}, but is named {file.path.name}: rename one"
            rejected.append(Finding(owner, what))
        elif session := _other_session(folder, file):
            what = f"lies in the folder of {session}, but is named {file.path.name}: rename one"
            rejected.append(Finding(owner, what))
        elif not file.path.name.endswith(ENDINGS):
            if file.suffix.lower() in ("t1w", "dseg", "seg"):
                what = f"has {file.path.name}, which is not read: make it a file that ends in .nii or .nii.gz"
                rejected.append(Finding(owner, what))
        elif file.suffix.lower() == "t1w" and not file.is_phase:
            images[owner].append(file)
        elif file.suffix.lower() in ("dseg", "seg"):
            maps[owner].append(file)
    return images, maps, rejected


def _other_session(folder: Path, file: BIDSFile) -> str:
    """The session in whose folder a file lies that is named after another one, '' for none."""
    folders = [p for p in file.path.relative_to(folder).parts[1:-1] if p.startswith("ses-")]
    own = file.get("ses")
    return folders[-1] if own and folders and folders[-1] != f"ses-{own}" else ""


def _files(folder: Path, table: Iterable[str]) -> Iterator[tuple[str, BIDSFile]]:
    """(subject, file) of every NIfTI file of the folders of subjects and of the folder itself.

    Hidden files are left out, as are folders such as derivatives and sourcedata. A file that is not
    named by BIDS belongs to the subject of its folder, or is a subject of its own.
    """
    names = {name for row in table for name in (row, row.removeprefix("sub-"))}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and (entry.name.startswith("sub-") or entry.name in names):
            owner = "sub-" + entry.name.removeprefix("sub-")
            for path in files_below(entry):
                if path.name.lower().endswith(_IMAGES):
                    yield owner, parse(path) or _plain(path, owner)
        elif entry.name.lower().endswith(_IMAGES) and not entry.is_dir():
            file = parse(entry) or _plain(entry)
            yield "sub-" + file.get("sub"), file


def _plain(path: Path, owner: str = "") -> BIDSFile:
    """A file that is not named by BIDS: NAME_T1w, NAME_dseg, or NAME alone, which is a T1w scan.

    NAME_t1ce is a further scan of the subject NAME.
    """
    ended = _ENDED.fullmatch(stem(path))
    name, suffix, further = stem(path), "T1w", ""
    if ended and ended[2].lower() in _OTHER_IMAGES | _T1W | _ENHANCED:
        name, suffix = ended.groups()
        further = suffix if suffix.lower() in _ENHANCED else ""
        suffix = "T1w" if suffix.lower() in _T1W | _ENHANCED else suffix
    name = name.removeprefix("sub-")
    subject = owner.removeprefix("sub-") or name
    told = "_".join(part for part in (name if name != subject else "", further) if part)
    return BIDSFile(path, {"sub": subject} | ({"name": told} if told else {}), suffix)


def _scans_of(
    owner: str,
    folder: Path,
    images: Sequence[BIDSFile],
    maps: Sequence[BIDSFile],
    table: dict[str, list[Participant]],
    image_desc: str,
    label_desc: str,
) -> tuple[list[Scan], list[Finding], list[Finding]]:
    """Scans, rejections and notes of one subject."""
    scans, rejected, notes = [], [], []
    by_scan: dict[frozenset[tuple[str, str]], list[BIDSFile]] = defaultdict(list)
    for file in images:
        by_scan[file.scan].append(file)
    ages = ages_of_sessions(folder, owner)
    for scan, files in by_scan.items():
        name = _name_of(files[0], owner)
        image, problem = one_per_scan(files, image_desc)
        labels = None
        if image is not None:
            others = [m for m in maps if m.scan == scan or m.scan not in by_scan]
            labels, problem = label_map_of(image, others, label_desc)
        session = f"ses-{files[0].get('ses')}" if files[0].get("ses") else ""
        row: Participant | None = Participant(owner)
        if table and not problem:
            row, problem = one_participant(table.get(owner, []), session)
        if row is not None and row.split not in ("", *SPLITS):
            problem = problem or f"is of the split '{row.split}': choose {', '.join(SPLITS)}"
        for needed in (image, labels):
            problem = problem or (_missing_content(needed.path) if needed else "")
        if problem or image is None or row is None:
            rejected.append(Finding(name, problem))
            continue
        path = labels.path if labels else None
        row = at_session(row, session, ages)
        scans.append(Scan(name, image.path, path, row.age, row.sex, row.split, owner))
        notes += [Finding(name, note) for note in row.notes]
    return scans, rejected, notes


def _name_of(file: BIDSFile, owner: str) -> str:
    if "name" in file.entities:
        return f"{owner}_{file.entities['name']}"
    return scan_name(file) if parse(file.path) else owner


def _missing_content(path: Path) -> str:
    """A phrase where a file is only a pointer to content that was not fetched, else ''."""
    fetch = "fetch it (datalad get, git annex get or git lfs pull)"
    if not path.exists():
        return f"has no content: {path.name} is a link to a file that is not there; {fetch}"
    if is_pointer(path):
        return f"has no content: {path.name} only points to it; {fetch}"
    return ""


def _in_order(scans: list[Scan], table: Iterable[str]) -> list[Scan]:
    """In the order of participants.tsv, then of names."""
    place = {name: n for n, name in enumerate(table)}
    return sorted(scans, key=lambda s: (place.get(s.participant, len(place)), s.subject))


def _one_split_each(scans: list[Scan]) -> tuple[list[Scan], list[Finding]]:
    """All sessions of a subject in its split; without the subjects that lie in several."""
    splits: dict[str, set[str]] = defaultdict(set)
    for scan in scans:
        splits[scan.participant] |= {scan.split} - {""}
    kept = [
        replace(s, split=next(iter(splits[s.participant]), ""))
        for s in scans
        if len(splits[s.participant]) < 2
    ]
    return kept, [
        Finding(
            s.subject,
            f"belongs to {s.participant}, whose sessions lie in the splits "
            f"{' and '.join(sorted(splits[s.participant]))}: keep all in one",
        )
        for s in scans
        if len(splits[s.participant]) > 1
    ]
