"""BIDS derivatives: a folder of subjects in, a folder of results out, scan by scan.

Knows names, sidecars, resumption and the table of all subjects; what is done with a scan is handed over as
a function that writes into a folder. A scan that cannot be used does not stop the others.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vcm import __version__
from vcm.errors import VCMError
from vcm.files import (
    check_output,
    read_json,
    read_table,
    remove_unchanged,
    scratch_folder,
    sha256,
    versions,
    write_json,
    write_table,
    write_whole,
)
from vcm.imaging.bids import ENDINGS, BIDSFile, one_per_scan, parse, scan_name
from vcm.imaging.participants import (
    Participant,
    ages_of_sessions,
    at_session,
    one_participant,
    read_participants,
)
from vcm.imaging.scan_files import files_below
from vcm.report.folder import REPORT, move_page, write_index

DESCRIPTION, PARTICIPANTS, LABELS = "dataset_description.json", "participants.tsv", "dseg.tsv"
BIDS_VERSION = "1.10.0"
#: In `dataset_description.json`, what BIDS URIs of sources refer to.
_LINK = "source"
#: Files that BIDS does not know, for its validator.
_IGNORED = ("*.html", "summary.tsv", ".vcm", ".work", "**/figures")
#: Holds what one scan is made from, while it is made.
_WORK = ".work"
#: Holds what each scan was made from, and which files came of it.
_RECORDS = ".vcm"
#: Entry of a sidecar that tells whether a scan was done from the same file with the same settings.
_MADE_FROM = "MadeFrom"
#: How jobs name one of several samples.
_SEED = re.compile(r"_desc-([a-zA-Z0-9]+)_seed-(\d+)")

#: Writes the results of a file into a folder, under names that begin with the file's own, told what the
#: dataset says of its participant; returns more columns of the table.
RunOne = Callable[[Path, Path, Participant], Mapping[str, object]]


@dataclass(frozen=True)
class Derivation:
    """What is made of the scans of a folder.

    Attributes:
        title: Of the dataset and its index.
        suffix: Of the files that are read: T1w, FLAIR, dseg.
        run: Makes the results of one.
        settings: Whatever changes them, for the record and to know what is done already.
        keys: Further entries of the images' sidecars, such as SkullStripped, by suffix.
        label_table: (index, name) of the labels in a dseg; none: there is no dseg.
        reads: What the results depend on of participants.tsv: age, sex.
        beside: Gives what is read beside a file and changes its results, such as a value of its JSON file; None:
            nothing is.
    """

    title: str
    suffix: str
    run: RunOne
    settings: Mapping[str, Any]
    keys: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    label_table: Sequence[tuple[int, str]] = ()
    reads: Sequence[str] = ()
    beside: Callable[[Path], object] | None = None


def derive(
    derivation: Derivation,
    folder: Path,
    out: Path,
    participants: Sequence[str] = (),
    desc: str = "",
    overwrite: bool = False,
    command: Sequence[str] = (),
    on_scan: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, object]]:
    """Make a BIDS derivatives dataset; run again, it goes on where it was.

    Args:
        derivation: What is made of each scan.
        folder: A BIDS dataset, raw or derivatives.
        out: Folder for the results: a new one, or one that this function wrote.
        participants: Labels of those that are meant, with or without `sub-`; none: all.
        desc: Of the files that are meant, where a scan has several.
        overwrite: Make again what was made from other files or with other settings.
        command: What the record gives as the command.
        on_scan: Called with the scans that are done, and how many there are.

    Returns:
        A row per scan: scan, status (done, kept, or why not), and what `run` returned.

    Raises:
        VCMError: There is nothing to read, a participant is not there, or `out` is no place for it.
    """
    found, refused = find_files(folder, derivation.suffix, participants, desc)
    people = People(folder) if derivation.reads else None
    _refuse_place(folder, out)
    check_output(out)
    _refuse_other_labels(out, derivation)
    _describe_dataset(out, folder, derivation, command)
    rows: list[dict[str, object]] = [{"scan": n, "status": what} for n, what in refused.items()]
    for k, file in enumerate(found):
        row = _derive_one(derivation, file, folder, out, overwrite, people)
        rows.append({"scan": _name(file)} | row)
        on_scan(k + 1, len(found))
        _write_summary(out, derivation, rows, command)
    return sorted(rows, key=lambda row: str(row["scan"]))


class People:
    """What participants.tsv says of the subjects of a dataset, or of the dataset that it was made from.

    Args:
        folder: A BIDS dataset. Derivatives without a participants.tsv have that of the folder which
            their `SourceDatasets` name.

    Raises:
        VCMError: The table has no column participant_id, or two columns of one name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = _with_participants(folder)
        self._rows: dict[str, list[Participant]] = {}
        for row in read_participants(self.folder):
            self._rows.setdefault(row.name, []).append(row)

    def of(self, file: BIDSFile) -> Participant:
        """The row of a file's participant; one that knows nothing where there is no table.

        Raises:
            VCMError: The table has no row for it, or several that differ.
        """
        name = f"sub-{file.get('sub')}"
        session = f"ses-{file.get('ses')}" if file.get("ses") else ""
        row: Participant | None = Participant(name)
        if self._rows:
            row, problem = one_participant(self._rows.get(name, []), session)
            if row is None:
                raise VCMError(problem)
        assert row is not None
        return at_session(row, session, ages_of_sessions(self.folder, name))


def _with_participants(folder: Path) -> Path:
    if (folder / PARTICIPANTS).is_file():
        return folder
    described = read_json(folder / DESCRIPTION).get("SourceDatasets") or []
    links = [entry.get("URL", "") for entry in described if isinstance(entry, dict)]
    sources = [folder / link for link in links if link and "://" not in link]
    return next((s for s in sources if (s / PARTICIPANTS).is_file()), folder)


def find_files(
    folder: Path, suffix: str, participants: Sequence[str] = (), desc: str = ""
) -> tuple[list[BIDSFile], dict[str, str]]:
    """Files of one suffix, one per scan; and scans that have none or several, with what is wrong.

    Raises:
        VCMError: There is no such folder, subject or file.
    """
    if not folder.is_dir():
        raise VCMError(
            f"{folder} is no folder: give a BIDS dataset, which holds sub-01 and others."
        )
    subjects = {p.name: p for p in sorted(folder.glob("sub-*")) if p.is_dir()}
    wanted = [f"sub-{label.removeprefix('sub-')}" for label in participants] or list(subjects)
    missing = [name for name in wanted if name not in subjects]
    if missing:
        raise VCMError(
            f"{missing[0]} is not a subject of {folder}, which holds {', '.join(list(subjects)[:5])}"
            f"{' and others' if len(subjects) > 5 else ''}: give the label of one that is there.",
            argument="participant_label",
        )
    chosen: list[BIDSFile] = []
    refused: dict[str, str] = {}
    for name in dict.fromkeys(wanted):
        by_scan: dict[frozenset[tuple[str, str]], list[BIDSFile]] = {}
        for path in files_below(subjects[name]):
            file = parse(path) if path.name.endswith(ENDINGS) else None
            if file is not None and file.suffix == suffix and not file.is_phase:
                by_scan.setdefault(file.scan, []).append(file)
        if not by_scan:
            refused[name] = f"has no {suffix} file"
        for files in by_scan.values():
            file, problem = one_per_scan(files, desc)
            if file is not None:
                chosen.append(file)
            else:
                refused[scan_name(files[0])] = problem
    if not chosen:
        raise VCMError(
            f"No *_{suffix}.nii.gz of a subject in {folder} can be used: check its names."
        )
    return chosen, refused


def _name(file: BIDSFile) -> str:
    """How the results of a file begin: its scan, and the space that it lies in."""
    space = file.get("space")
    return scan_name(file) + (f"_space-{space}" if space else "")


def _derive_one(
    derivation: Derivation,
    file: BIDSFile,
    folder: Path,
    out: Path,
    overwrite: bool,
    people: People | None,
) -> dict[str, object]:
    """Status of one scan; its results are placed together, and its record last."""
    name = _name(file)
    record_file = out / _RECORDS / f"{name}.json"
    try:
        person = people.of(file) if people else Participant(f"sub-{file.get('sub')}")
        told = {name: getattr(person, name) for name in derivation.reads}
        made_from = _made_from(derivation, file.path, told)
        record = read_json(record_file)
        if record.get(_MADE_FROM) == made_from:
            changed = _changed(record, out)
            if changed and not overwrite:
                raise VCMError(
                    f"was done before, but {changed} was changed since: choose another folder for the results, or allow "
                    "them to be overwritten"
                )
            if not changed and all((out / name).is_file() for name in record["Files"]):
                return {"status": "kept", **record.get("Summary", {})}
        elif record and not overwrite:
            raise VCMError(
                "was done before from another file or with other settings: choose another folder for "
                "the results, or allow them to be overwritten"
            )
        notes = {"notes": "; ".join(person.notes)} if told and person.notes else {}
        with scratch_folder(out / _WORK) as work:
            summary = {**told, **derivation.run(file.path, work, person), **notes}
            placed = _place(derivation, file, work, folder, out, told)
        files = {name: sha256(out / name) for name in placed}
        remove_unchanged(out, _no_more_made(record, files))
        write_json(record_file, {
            "Sources": [_uri(file.path, folder)], _MADE_FROM: made_from, "Summary": summary,
            "Files": files, "Versions": versions(),
        })  # fmt: skip
        return {"status": "done", **summary}
    except VCMError as error:
        return {"status": str(error)}
    except Exception as error:  # whatever one scan is, the others are done
        return {"status": f"cannot be processed ({type(error).__name__}: {error})"}


def _place(
    derivation: Derivation,
    file: BIDSFile,
    work: Path,
    folder: Path,
    out: Path,
    told: Mapping[str, object],
) -> list[str]:
    """Move results under BIDS names; every image has a sidecar with the standard keys beside ours.

    Returns:
        Paths of all files in the dataset.
    """
    anat, name = _folder_of(file, out), _name(file)
    sidecars = {p.name.removesuffix(".json"): read_json(p) for p in work.glob("*.json")}
    sources: dict[str, object] = {"Sources": [_uri(file.path, folder)]}
    sources |= {"ParticipantsTable": dict(told)} if told else {}
    placed = []
    for path in sorted(work.iterdir()):
        if path.name == REPORT:
            target = out / f"{name}_{REPORT}"
        elif path.suffix == ".png":
            target = out / f"sub-{file.get('sub')}" / "figures" / _renamed(path.name, file)
        elif path.name.endswith(ENDINGS):
            target = anat / _renamed(path.name, file)
            ours = sidecars.get(path.name.removesuffix(".gz").removesuffix(".nii"), {})
            ours.pop("Files", None)  # the names of its files are others here
            sidecar = target.with_name(f"{target.name.split('.')[0]}.json")
            write_json(sidecar, {**ours, **sources, **derivation.keys.get(_suffix(target), {})})
            placed.append(sidecar.relative_to(out).as_posix())
        else:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.name == REPORT:
            move_page(path, target)
        else:
            os.replace(path, target)
        placed.append(target.relative_to(out).as_posix())
    return placed


def _renamed(name: str, file: BIDSFile) -> str:
    """sub-1_dseg_desc-synthetic_seed-0_T1w.nii.gz -> sub-1_desc-syntheticseed0_T1w.nii.gz."""
    stem = file.path.name.removesuffix(".gz").removesuffix(".nii")
    for start in (stem, stem.removesuffix(f"_{file.suffix}")):
        if name.startswith(start):
            rest = name[len(start) :]
            return _name(file) + _SEED.sub(r"_desc-\1seed\2", rest)
    return name


def _suffix(path: Path) -> str:
    return path.name.split(".")[0].rpartition("_")[2]


def _folder_of(file: BIDSFile, out: Path) -> Path:
    session = f"ses-{file.get('ses')}" if file.get("ses") else ""
    return out / f"sub-{file.get('sub')}" / session / "anat"


def _uri(path: Path, folder: Path) -> str:
    return f"bids:{_LINK}:{path.relative_to(folder).as_posix()}"


def _made_from(derivation: Derivation, path: Path, told: Mapping[str, object]) -> str:
    """One checksum of the file and what is read beside it, the settings, the participant, and the version."""
    given: dict[str, object] = {
        "file": sha256(path), "settings": dict(derivation.settings), "version": __version__,
    }  # fmt: skip
    if told:
        given["participant"] = dict(told)
    if derivation.beside:
        given["beside"] = derivation.beside(path)
    return hashlib.sha256(json.dumps(given, sort_keys=True, default=str).encode()).hexdigest()


def _no_more_made(record: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, str]:
    """Files of an earlier record, with their checksums, that are not among those made now."""
    earlier = record.get("Files")
    listed = earlier.items() if isinstance(earlier, dict) else ()  # once they had no checksums
    return {name: checksum for name, checksum in listed if name not in files}


def _changed(record: Mapping[str, Any], out: Path) -> str:
    """The first result of a scan that is there and not as it was written; empty: none."""
    listed = record["Files"].items() if isinstance(record["Files"], dict) else ()
    there = ((out / name, checksum) for name, checksum in listed if (out / name).is_file())
    return next((path.name for path, checksum in there if sha256(path) != checksum), "")


def _refuse_place(folder: Path, out: Path) -> None:
    given, wanted = folder.resolve(), out.resolve()
    inside = given in wanted.parents and given / "derivatives" not in wanted.parents
    if wanted == given or inside or wanted in given.parents:
        raise VCMError(
            f"{out} lies among the subjects of {folder}, or holds them: choose another folder, for "
            f"instance {folder / 'derivatives' / 'vcm'}.",
            argument="out",
        )
    there = read_json(out / DESCRIPTION)
    ours = there and any(g.get("Name") == "vcm" for g in there.get("GeneratedBy", []))
    if out.is_dir() and any(p.name not in (_WORK, _RECORDS) for p in out.iterdir()) and not ours:
        raise VCMError(
            f"{out} holds files that are no derivatives of vcm: choose a new folder.",
            argument="out",
        )


def _refuse_other_labels(out: Path, derivation: Derivation) -> None:
    """Refuse a dataset whose label maps have other labels: its dseg.tsv would name them wrongly."""
    table = out / LABELS
    if (
        not derivation.label_table
        or not table.is_file()
        or not any((out / _RECORDS).glob("*.json"))
    ):
        return
    held = [(row.get("index"), row.get("name")) for row in read_table(table)]
    if held != [(str(index), name) for index, name in derivation.label_table]:
        raise VCMError(
            f"{out} holds label maps with the labels of its {LABELS}, and other labels are to be written now: choose "
            "another folder.",
            argument="out",
        )


def _describe_dataset(
    out: Path, folder: Path, derivation: Derivation, command: Sequence[str]
) -> None:
    """The files of the dataset as a whole."""
    source = read_json(folder / DESCRIPTION)
    link = Path(os.path.relpath(folder.resolve(), out.resolve())).as_posix()
    described: dict[str, str] = {"URL": link}
    if source.get("DatasetDOI"):
        described["DOI"] = source["DatasetDOI"]
    write_json(out / DESCRIPTION, {
        "Name": f"{derivation.title}: {source.get('Name', folder.resolve().name)}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "vcm", "Version": __version__, "Description": " ".join(command)}],
        "SourceDatasets": [described],
        "DatasetLinks": {_LINK: link},
    })  # fmt: skip
    text = "".join(f"{name}\n" for name in _IGNORED)
    write_whole(out / ".bidsignore", lambda part: part.write_text(text, encoding="utf-8"))
    if derivation.label_table:
        labels = [{"index": index, "name": name} for index, name in derivation.label_table]
        write_table(out / LABELS, labels, ["index", "name"])
    readme = f"# {derivation.title}\n\nWritten by vcm {__version__}. {_README}\n"
    write_whole(out / "README.md", lambda part: part.write_text(readme, encoding="utf-8"))


_README = (
    "summary.tsv has a row per scan, report.html an index of their pages. Images made by a generative "
    "model say so in their sidecars and are not for diagnosis."
)


def _done_before(out: Path, named: Set[str]) -> list[dict[str, object]]:
    """Rows of scans that other runs made, of participants whom this one does not mean."""
    records = {p.stem: read_json(p) for p in sorted((out / _RECORDS).glob("*.json"))}
    return [
        {"scan": name, "status": "kept", **record.get("Summary", {})}
        for name, record in records.items()
        if name not in named
    ]


def _write_summary(
    out: Path, derivation: Derivation, rows: Sequence[Mapping[str, object]], command: Sequence[str]
) -> None:
    # Runs for some participants each share one table.
    rows = [*rows, *_done_before(out, {str(row["scan"]) for row in rows})]
    ordered = sorted(rows, key=lambda row: str(row["scan"]))
    columns = list(dict.fromkeys(name for row in ordered for name in row))
    write_table(out / "summary.tsv", ordered, columns)
    record = {"Command": list(command), "Settings": dict(derivation.settings)}
    refused = sum(row["status"] not in ("done", "kept") for row in rows)
    facts = {"scans": str(len(rows)), "done": str(len(rows) - refused), "refused": str(refused)}
    write_index(out, derivation.title, ordered, record, facts=facts)
