"""Where pages lie: `report.html` of a folder is the page of its one run, or the index of many subjects.

The second subject whose page comes into a folder turns `report.html` into an index, and each page lies
beside it as NAME_report.html. A run that is of no subject, such as a training, has `report.html`, and a subject's page
lies beside it. A page never makes a job fail whose results are written; that it could not be
written is said.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from vcm.errors import VCMError, VCMWarning, noted
from vcm.files import write_whole
from vcm.report.page import Cell, Page, Section, Table, Thumbnail, render, with_link_back

REPORT = "report.html"
_ENTRY = re.compile(r'<script type="application/json" id="vcm-entry">(.*?)</script>', re.DOTALL)
#: An entry lies in the first bytes of a page, and its picture is small.
_ENTRY_WITHIN = 400_000


def write_report(folder: Path, make: Callable[[], Page]) -> Path | None:
    """Write the page of a run that is complete.

    Args:
        folder: Where its results lie.
        make: Gives the page; called here, so that whatever goes wrong with it is caught.

    Returns:
        Path of the page. None: it could not be written, and a VCMWarning says why.
    """
    try:
        # What is to be said of the inputs was said when they were read.
        with _alone(folder), noted():
            return _place(folder, make())
    except Exception as error:  # the results are there; only what shows them is not
        _warn(folder, error)
        return None


def write_index(
    folder: Path,
    title: str,
    rows: Sequence[Mapping[str, object]] = (),
    provenance: Mapping[str, Any] | None = None,
    lead: str = "",
    facts: Mapping[str, str] | None = None,
) -> Path | None:
    """Write the index of a folder: its pages, and a table of all subjects.

    Args:
        folder: Holds pages as NAME_report.html.
        title: Of the index.
        rows: A row per subject, whether it has a page or not; the first column names it.
        provenance: As `Page` has it.
        lead: One sentence below the title.
        facts: A few values in short, by name; by default how many subjects there are.

    Returns:
        Path of the index, or None as for `write_report`.
    """
    try:
        with _alone(folder):
            _refuse_foreign(folder / REPORT)
            found = _entry_of(folder / REPORT)
            if found and found["kind"] == "page" and found["name"]:
                move_page(folder / REPORT, folder / f"{found['name']}_{REPORT}")
            return _write_index(folder, title, rows, provenance or {}, lead, facts)
    except Exception as error:
        _warn(folder, error)
        return None


def move_page(source: Path, target: Path) -> None:
    """Move the page of one run into a folder with an index, which it then links to.

    Args:
        source: As `write_report` wrote it.
        target: NAME_report.html in the folder of the index.
    """
    text = source.read_text(encoding="utf-8")
    _write(target, with_link_back(text))
    source.unlink()


def page_of(folder: Path, name: str) -> str:
    """Name of the file that holds the page of a subject; empty where there is none."""
    path = folder / f"{name}_{REPORT}"
    if path.is_file():
        return path.name
    found = _entry_of(folder / REPORT)
    return REPORT if found and found["name"] == name else ""


def _alone(folder: Path) -> FileLock:
    """Held while the pages of a folder change; lies elsewhere, as nobody wants it among results.

    Anybody may hold it: people write into one folder.
    """
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return FileLock(Path(tempfile.gettempdir()) / f"vcm-report-{name}.lock", timeout=60, mode=0o666)


def _place(folder: Path, page: Page) -> Path:
    path = folder / REPORT
    _refuse_foreign(path)
    found = _entry_of(path)
    other = found["name"] if found and found["kind"] == "page" else ""
    if not page.name and other:
        path.replace(folder / f"{other}_{REPORT}")
    if not page.name or not found or other == page.name:
        _write(path, render(page))
        return path
    own = folder / f"{page.name}_{REPORT}"
    _refuse_foreign(own)
    if found["kind"] == "page" and not other:
        _write(own, render(page))
        return own
    if other:
        move_page(path, folder / f"{other}_{REPORT}")
    _write(own, render(page, back=True))
    _write_index(folder, "Reports", (), {}, "")
    return own


def _write_index(
    folder: Path,
    title: str,
    rows: Sequence[Mapping[str, object]],
    provenance: Mapping[str, Any],
    lead: str,
    facts: Mapping[str, str] | None = None,
) -> Path:
    entries = {}
    for path in sorted(folder.glob(f"*_{REPORT}")):
        found = _entry_of(path)
        if found and found["kind"] == "page":
            # What a page shows may be one of several files of its subject, which the table names.
            entries[path.name.removesuffix(f"_{REPORT}")] = (path.name, found)
    table = _table_of(rows, entries) if rows else _table_of_entries(entries)
    gallery = [Thumbnail(n, file, entry["picture"]) for n, (file, entry) in entries.items()]
    sections = [Section("Subjects", tables=[table])]
    if any(item.source for item in gallery):
        sections.append(Section("Pictures", gallery=gallery))
    page = Page(title, lead=lead, sections=sections, provenance=provenance)
    page = replace(page, facts=facts or {"subjects": str(len(rows) or len(entries))})
    _write(folder / REPORT, render(page, kind="index"))
    return folder / REPORT


def _table_of(rows: Sequence[Mapping[str, object]], entries: Mapping[str, Any]) -> Table:
    """A row per subject, linked to its page where it has one."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells: list[list[object]] = []
    for row in rows:
        name = str(row[columns[0]])
        file = entries[name][0] if name in entries else ""
        cells.append([Cell(name, name, True, file), *(row.get(c) for c in columns[1:])])
    return Table(columns, cells)


def _table_of_entries(entries: Mapping[str, Any]) -> Table:
    facts = list(dict.fromkeys(f for _, entry in entries.values() for f in entry["facts"]))
    rows = [
        [Cell(name, name, True, file), *(entry["facts"].get(f) for f in facts)]
        for name, (file, entry) in entries.items()
    ]
    return Table(["subject", *facts], rows)


def _entry_of(path: Path) -> dict[str, Any] | None:
    """What a page says of itself; None where there is none, or it is not one of vcm's."""
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", errors="replace") as stream:
        found = _ENTRY.search(stream.read(_ENTRY_WITHIN))
    return dict(json.loads(found[1])) if found else None


def _refuse_foreign(path: Path) -> None:
    if path.exists() and _entry_of(path) is None:
        raise VCMError(f"{path} is not a report of vcm and is left as it is: rename it.")


def _write(path: Path, text: str) -> None:
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def _warn(folder: Path, error: Exception) -> None:
    reason = str(error) if isinstance(error, VCMError) else f"{type(error).__name__}: {error}"
    warnings.warn(
        VCMWarning(f"The results in {folder} are complete, but not their report ({reason})"),
        stacklevel=3,
    )
