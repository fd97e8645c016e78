"""The table of participants: read whatever program wrote it, with ages, sexes and splits as people spell them.

Understands what has one meaning; what has several or none becomes unknown, with a note that says so.
"""

from __future__ import annotations

import csv
import io
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vcm.errors import VCMError, VCMWarning

SPLITS = ("train", "validation", "test")
_SPLIT_WORDS = {
    "train": "train", "training": "train", "trn": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "tst": "test",
}  # fmt: skip
_NEVER_TOLD = {"", "n/a", "na", "nan"}
_UNKNOWN = _NEVER_TOLD | {"none", "null", "unknown", "unk", "-", "--", ".", "?"}
_FEMALE = {"f", "female", "w", "woman", "weiblich", "femme", "femenino", "femminile", "girl"}
_MALE = {"m", "male", "man", "männlich", "maennlich", "masculin", "masculino", "maschile", "boy"}
_WORDS = _FEMALE | _MALE
_NOT = {"not", "non", "no"}
_YEARS = {"y": 1.0, "m": 1 / 12, "w": 7 / 365.25, "d": 1 / 365.25}
_UNITS = r"y(?:rs?|o|ears?)?|m(?:o|onths?)?|w(?:eeks?)?|d(?:ays?)?"
_AGE = re.compile(
    r"(?P<over>>=?)?\s*(?P<number>\d+(?:[.]\d*|,\d{1,2})?)\s*(?P<top>\+)?\s*"
    rf"(?P<unit>{_UNITS})?\.?",
    re.IGNORECASE,
)
_UNIT = re.compile(rf"(?:in )?\W?(?P<unit>{_UNITS}|a|wk)\W?")
#: Names of cases that end in the number of a scan of one subject: BraTS-GLI-00001-000, UPENN-GBM-00001_11.
_OF_SUBJECT = re.compile(r"(BraTS-[A-Za-z]+-\d+|UPENN-GBM-\d+)[-_]\d+")
#: Ages beyond this [years] are codes for unknown, or typing errors.
OLDEST = 120.0


@dataclass(frozen=True)
class Participant:
    """One row of the table.

    Attributes:
        name: With its prefix, sub-01.
        session: ses-1, or '' where the table has no sessions.
        age: In years; None where unknown.
        sex: F, M, or None where unknown.
        split: train, validation or test, any other word as it stands, or '' where the table has none.
        notes: What could not be understood, or was understood with a reservation.
    """

    name: str
    session: str = ""
    age: float | None = None
    sex: str | None = None
    split: str = ""
    notes: tuple[str, ...] = ()


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a table with a header, empty ones left out; column names in lower case.

    Reads UTF-8 with or without a byte-order mark, UTF-16 and Latin-1, separated by tabs, or by
    semicolons or commas where the header has no tab. Between tabs a quotation mark that nothing closes is
    a letter like any other.

    Raises:
        VCMError: Two columns have one name, a row has more cells than there are columns, or a quotation
            mark is not closed.
    """
    lines = [line for line in _lines(_decoded(path.read_bytes()), path) if any(line)]
    names = [name.lower() for name in lines[0]] if lines else []
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise VCMError(
            f"{path} has the column {twice[0]} {names.count(twice[0])} times: keep one, as nobody can tell "
            "which is meant."
        )
    longer = next((line for line in lines if any(line[len(names) :])), None)
    if longer:
        raise VCMError(
            f"{path} has a row of more cells than there are columns ({', '.join(longer)}), so nobody can tell which "
            "belongs to which: give every cell its column, and write decimals with a point."
        )
    return [dict(zip(names, line + [""] * len(names), strict=False)) for line in lines[1:]]


def _lines(text: str, path: Path) -> list[list[str]]:
    """Cells of each line, without the space around them."""
    header = text.lstrip("\r\n").split("\n", 1)[0]
    separator = next((c for c in "\t;," if c in header), "\t")

    def read(**options: Any) -> list[list[str]]:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, **options)
        return [[cell.strip() for cell in line] for line in reader]

    try:
        return read(strict=True)
    # A lonely quotation mark, which would take all that follows into its cell.
    except csv.Error as error:
        if separator == "\t":
            return read(quoting=csv.QUOTE_NONE)
        raise VCMError(
            f"{path} cannot be read ({error}): close every quotation mark that begins a cell, or remove it."
        ) from error


def _decoded(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    if data[:200].count(0) > len(data[:200]) // 4:  # UTF-16 without a mark: every other byte is 0
        return data.decode("utf-16-le" if data[1:2] == b"\0" else "utf-16-be", errors="replace")
    with suppress(UnicodeDecodeError):
        return data.decode("utf-8-sig")
    return data.decode("latin-1")


def read_participants(folder: Path) -> list[Participant]:
    """The participants of a BIDS folder; none where it has no participants.tsv.

    Ages of sub-*/sub-*_sessions.tsv are taken for the sessions that they name.

    Raises:
        VCMError: The table has no column participant_id, or two columns of one name.
    """
    path = folder / "participants.tsv"
    if not path.is_file():
        return []
    rows = read_rows(path)
    if rows and "participant_id" not in rows[0]:
        raise VCMError(
            f"{path} has no column participant_id (its columns are {', '.join(rows[0])}): BIDS needs "
            "one row per subject."
        )
    _warn_of_unread_age(rows, path)
    described = _described(folder / "participants.json")
    levels, unit = _levels(described), _unit_of_age(described)
    sexes = {_sex_cell(row, levels) for row in rows}
    found = []
    for row in rows:
        if not row["participant_id"]:
            continue
        name, notes = "sub-" + row["participant_id"].removeprefix("sub-"), []
        age, note = parse_age(row.get("age", ""), unit)
        notes += [note] if note else []
        sex, note = parse_sex(_sex_cell(row, levels), sexes)
        notes += [note] if note else []
        split = parse_split(row.get("split", ""))
        found.append(Participant(name, session_of(row), age, sex, split, tuple(notes)))
    return found


def _warn_of_unread_age(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """Name a column that seems to hold ages and is not read, where there is none called age."""
    columns = list(rows[0]) if rows else []
    similar = [name for name in columns if re.search(r"\bage(?!n)|_age\b", name)]
    if "age" not in columns and similar:
        warnings.warn(
            f"{path} has no column age, so ages are unknown, but one called '{similar[0]}': call it age (in "
            "years, or with its unit in participants.json).",
            VCMWarning,
            stacklevel=3,
        )


def is_told(cell: str) -> bool:
    """Whether a cell that may hold any word says something: `none` and `unknown` may be classes."""
    return cell.lower() not in _NEVER_TOLD


def parse_split(text: str) -> str:
    """train, validation or test; any other word as it stands, '' where the cell says nothing."""
    return "" if text.lower() in _UNKNOWN else _SPLIT_WORDS.get(text.lower(), text)


def session_of(row: Mapping[str, str]) -> str:
    """ses-1, or '' for a row that names no session; column names in lower case."""
    session = row.get("session_id", row.get("session", ""))
    return "" if session.lower() in _UNKNOWN else "ses-" + session.removeprefix("ses-")


def ages_of_sessions(folder: Path, participant: str) -> dict[str, tuple[float | None, str]]:
    """Age [years] at each session, by sub-*_sessions.tsv, and a note where it has to be made.

    An age that is told but not understood is None, as are ages of one session that differ. A session whose age
    is not told is left out.
    """
    path = folder / participant / f"{participant}_sessions.tsv"
    if not path.is_file():
        return {}
    unit = age_unit(path.with_suffix(".json"), folder / "sessions.json")
    told: dict[str, dict[str, tuple[float | None, str]]] = {}
    for row in read_rows(path):
        session, cell = session_of(row), row.get("age", "")
        age, note = parse_age(cell, unit)
        if session and (age is not None or note):
            told.setdefault(session, {})[cell] = age, note
    return {session: _one_age(cells, path) for session, cells in told.items()}


def subject_of(case: str) -> str:
    """Whose case it is, by its name: sessions of one subject are cases of their own."""
    named = _OF_SUBJECT.fullmatch(case)
    return named[1] if named else re.split(r"_ses[-_]", case)[0]


def age_unit(*descriptions: Path) -> str:
    """Unit of the ages of a table, by the first of its descriptions that is there: y, m, w or d, else as it stands; y for none."""
    found = next((path for path in descriptions if path.is_file()), None)
    return _unit_of_age(_described(found)) if found else "y"


def at_session(
    row: Participant, session: str, ages: Mapping[str, tuple[float | None, str]]
) -> Participant:
    """The row with the age at a session, and a note where that had to be made or is the one of participants.tsv.

    Args:
        row: Of the participant.
        session: Of the scan, '' where its name has none.
        ages: Of the participant's sessions, see `ages_of_sessions`.
    """
    age, note = ages.get(session, (row.age, ""))
    if ages and session not in ages and age is not None and not row.session:
        note = f"has no age in {row.name}_sessions.tsv: {age:g} years of participants.tsv are taken"
    return replace(row, age=age, notes=(*row.notes, note) if note else row.notes)


def _one_age(cells: Mapping[str, tuple[float | None, str]], path: Path) -> tuple[float | None, str]:
    """The age of a session by the cells that tell it, and a note."""
    (age, note), *others = cells.values()
    if any(other != age for other, _ in others):
        return (
            None,
            f"has the ages {' and '.join(cells)} in {path.name}, so it is unknown: keep one",
        )
    return age, note


def parse_age(text: str, unit: str = "y") -> tuple[float | None, str]:
    """An age in years, and a note where it has to be made.

    34, 32.5, 32,5, 34 years, DICOM's 045Y, 018M (months), 006W and 003D are understood; 89+ and >89
    are taken for 89 with a note, ranges and codes such as 999 or -1 for unknown with a note.

    Args:
        text: A cell.
        unit: Of a cell that names none: y, m, w or d; of any other the age is unknown.
    """
    text = text.strip()
    if text.lower() in _UNKNOWN:
        return None, ""
    found = _AGE.fullmatch(text)
    if not found:
        return None, f"age '{text}' is not understood, so it is unknown"
    years = _YEARS.get(found["unit"][:1].lower() if found["unit"] else unit)
    if years is None:
        return None, f"age '{text}' is in '{unit}', which is not understood, so it is unknown"
    age = float(found["number"].replace(",", ".")) * years
    if age > OLDEST:
        return None, f"age '{text}' is over {OLDEST:g} years, so it is unknown"
    if found["top"] or found["over"]:
        return age, f"age '{text}' is taken for {age:g}"
    return age, ""


def parse_sex(text: str, column: set[str] | frozenset[str] = frozenset()) -> tuple[str | None, str]:
    """F or M, None where unknown, and a note where it has to be made.

    Args:
        text: A cell.
        column: All cells of its column in lower case: 1 and 2 are M and F by ISO/IEC 5218 only where
            both occur and 0 does not, since 0 and 1 are used both ways.
    """
    word = text.strip().lower()
    if word in _UNKNOWN:
        return None, ""
    if word in _FEMALE:
        return "F", ""
    if word in _MALE and not (word == "m" and "h" in column):  # hombre and mujer
        return "M", ""
    if word in ("1", "2") and {"1", "2"} <= column and "0" not in column:
        sex = "M" if word == "1" else "F"
        return sex, f"sex {word} is taken for {sex} (1 male, 2 female, as in ISO/IEC 5218)"
    return None, f"sex '{text}' is not understood, so it is unknown: write F or M"


def _sex_cell(row: Mapping[str, str], levels: Mapping[str, str]) -> str:
    cell = row.get("sex", row.get("gender", "")).strip().lower()
    return levels.get(cell, cell)


def _described(path: Path) -> dict[str, dict[str, Any]]:
    """What the description of a table says of its columns, by their names in lower case."""
    with suppress(OSError, ValueError, AttributeError):
        columns = json.loads(_decoded(path.read_bytes()))
        return {str(k).lower(): v for k, v in columns.items() if isinstance(v, dict)}
    return {}


def _unit_of_age(described: Mapping[str, Mapping[str, Any]]) -> str:
    """Unit of the column age: y, m, w or d, else as it stands; y where nothing is said, as BIDS has it."""
    unit = str(described.get("age", {}).get("Units", "")).strip().lower()
    if unit in _UNKNOWN:
        return "y"
    found = _UNIT.fullmatch(unit)
    return found["unit"][0].replace("a", "y") if found else unit


def _levels(described: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What the values of the column sex mean; a number whose description is not understood means that text."""
    column = described.get("sex", described.get("gender", {}))
    levels = column.get("Levels")
    if not isinstance(levels, dict) or not levels:
        return _levels_in_text(str(column.get("Description", "")))
    found = {}
    for value, meaning in levels.items():
        # Plain text, or the object that newer versions of BIDS allow.
        text = meaning.get("Description", "") if isinstance(meaning, dict) else meaning
        words = re.findall(r"\w+", str(text or "").lower())
        known = [word for word in words if word in _WORDS]
        sexes = {word in _FEMALE for word in known}
        said = words[: words.index(known[0])] if known else []
        if known and (not said or len(sexes) == 1) and _NOT.isdisjoint(said):
            found[str(value).lower()] = known[0]
        elif words and str(value).isdigit():
            found[str(value)] = " ".join(words)
    return found


def _levels_in_text(text: str) -> dict[str, str]:
    """What numbers mean by a text such as 'sex of the participant (1 = female, 2 = male)'.

    Where it tells one sex alone and leaves a number without one, as '0/1 = male/female' does, each means the text.
    """
    numbers, words = re.findall(r"\d+", text), re.findall(r"\w+", text.lower())
    pairs = re.findall(r"(?=\b(\w+)\s*[=:]\s*['\"]?(\w+))", text.lower())
    both = [pair for one, other in pairs for pair in ((one, other), (other, one))]
    found = {code: word for code, word in both if code.isdigit() and word in _WORDS}
    if len({word in _FEMALE for word in found.values()}) == 2 or set(found) == set(numbers):
        return found
    return {} if _WORDS.isdisjoint(words) else dict.fromkeys(numbers, text.strip())


def one_participant(rows: Sequence[Participant], session: str) -> tuple[Participant | None, str]:
    """The row of a scan among those of its participant, or what is wrong.

    Args:
        rows: Every row of one participant.
        session: Of the scan, '' where its name has none.

    Returns:
        The row and ''; or None and a sentence. What the rows of several sessions tell in common holds
        for a scan without a session; what they differ in is unknown.
    """
    of_session = [row for row in rows if session and row.session == session]
    candidates = of_session or [row for row in rows if not row.session] or list(rows)
    if not candidates:
        return None, "has no row in participants.tsv: add one"
    distinct = list(dict.fromkeys(candidates))
    first = distinct[0]
    if len(distinct) == 1 and (not session or first.session in ("", session)):
        return first, ""
    if not first.session or of_session:
        return None, (
            f"has {len(distinct)} rows in participants.tsv that differ: keep one, or one per session "
            "with a column session_id"
        )
    if session:
        return None, f"has no row for {session} in participants.tsv: add one"
    ages, sexes, splits = ({getattr(r, k) for r in distinct} for k in ("age", "sex", "split"))
    differing = [k for k, v in (("age", ages), ("sex", sexes)) if len(v) > 1]
    note = f"has a scan without a session and {len(distinct)} rows by session" + (
        f", which differ in {' and '.join(differing)}: taken for unknown" if differing else ""
    )
    return Participant(
        first.name,
        "",
        first.age if len(ages) == 1 else None,
        first.sex if len(sexes) == 1 else None,
        first.split if len(splits) == 1 else "",
        (*first.notes, note),
    ), ""
