"""One run as one HTML page that opens from disk, without a network: what was made, the numbers, the record.

Knows how a page is put together and which parts it may have; jobs fill them. What is handed to the browser
for the volumes is in vcm.report.viewer, where pages lie in a folder in vcm.report.folder.
"""

from __future__ import annotations

import base64
import io
import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcm import __version__
from vcm.report.plots import Plot
from vcm.report.viewer import Viewer, encode_viewer

if TYPE_CHECKING:
    from jinja2 import Template


@dataclass(frozen=True)
class Cell:
    """A cell of a table as the page shows and sorts it."""

    shown: str
    value: str
    is_words: bool
    link: str = ""

    @property
    def is_long(self) -> bool:
        """Whether it is a sentence, which needs a wide column."""
        return len(self.shown) > 40


@dataclass(frozen=True)
class Table:
    """Rows that the reader can sort.

    Attributes:
        columns: Heads, with units.
        rows: A value per column: numbers, words, None where there is none, or a `Cell`.
        title: Above it.
        text: What the numbers are.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    title: str = ""
    text: str = ""

    def heads(self) -> Iterator[tuple[str, bool]]:
        """Each head, and whether words stand below it, which are aligned to the left."""
        rows = list(self.cells())
        for number, column in enumerate(self.columns):
            yield column, any(row[number].is_words for row in rows)

    def cells(self) -> Iterator[list[Cell]]:
        """Row by row, as the page shows them."""
        for row in self.rows:
            yield [value if isinstance(value, Cell) else _as_cell(value) for value in row]


@dataclass(frozen=True)
class Picture:
    """A PNG in the page.

    Attributes:
        png: The file's bytes.
        caption: Below it.
    """

    png: bytes
    caption: str

    @property
    def source(self) -> str:
        """As an address that holds the picture itself."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode('ascii')}"


@dataclass(frozen=True)
class Thumbnail:
    """A link to another page of the folder, with a small picture."""

    name: str
    link: str
    source: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a page, with a link to it in the page's head."""

    title: str
    text: str = ""
    pictures: Sequence[Picture] = ()
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()
    gallery: Sequence[Thumbnail] = ()


@dataclass(frozen=True)
class Page:
    """What a page says.

    Attributes:
        title: Of the page.
        name: Of the subject, as its files begin; empty where a folder has this one page.
        lead: One sentence below the title.
        warning: What nobody may overlook.
        facts: A few values in short, by name.
        viewer: Volumes; None where there are none to show.
        sections: In their order.
        provenance: What repeats the run, as the sidecars say it; `Command` is shown above the rest.
    """

    title: str
    name: str = ""
    lead: str = ""
    warning: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    viewer: Viewer | None = None
    sections: Sequence[Section] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)


def picture_of(path: Path, caption: str) -> list[Picture]:
    """The PNG of a job; none where it was not drawn."""
    return [Picture(path.read_bytes(), caption)] if path.is_file() else []


def table_of(rows: Sequence[Mapping[str, object]], title: str = "", text: str = "") -> Table:
    """A table of rows that share their columns."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return Table(columns, [[row.get(name) for name in columns] for row in rows], title, text)


def render(page: Page, kind: str = "page", back: bool = False) -> str:
    """The page as HTML; the same page gives the same bytes.

    Args:
        page: What it says.
        kind: `page`, or `index` for one that lists others.
        back: Whether it links to the index of its folder.
    """
    from markupsafe import Markup

    viewer = encode_viewer(page.viewer) if page.viewer and page.viewer.images else None
    record = {k: v for k, v in page.provenance.items() if k != "Command"}
    command = page.provenance.get("Command") or []
    return _template().render(
        page=page,
        version=__version__,
        entry=Markup(_entry(page, kind)),
        style=Markup(_asset("style.css")),
        back=Markup(_LINK_BACK if back else _NO_LINK),
        viewer=viewer,
        panels=min(2, len(page.viewer.images)) if page.viewer else 1,
        plan=Markup(viewer.plan) if viewer else "",
        licence=Markup(f"<!--\n{_asset('niivue.LICENSE.txt')}\n-->") if viewer else "",
        page_script=Markup(_asset("page.js")),
        viewer_script=Markup(_asset("viewer.js")),
        command=shlex.join(map(str, command)) if isinstance(command, (list, tuple)) else command,
        provenance=json.dumps(record, indent=2, default=str, ensure_ascii=False) if record else "",
    )


_NO_LINK, _LINK_BACK = "<!-- no index -->", '<li><a href="report.html">All reports</a></li>'


def with_link_back(page: str) -> str:
    """A page that `render` made without a link to the index of its folder, with it."""
    return page.replace(_NO_LINK, _LINK_BACK, 1)


#: Width of the pictures in an index [pixels].
_THUMBNAIL = 360


def _entry(page: Page, kind: str) -> str:
    """What an index says of the page: JSON, `<` escaped."""
    pictures = [p for section in page.sections for p in section.pictures]
    small = _thumbnail(pictures[0]) if pictures and page.name and kind == "page" else ""
    entry = {"kind": kind, "name": page.name, "title": page.title, "facts": dict(page.facts)}
    return json.dumps(entry | {"picture": small}).replace("<", "\\u003c")


def _thumbnail(picture: Picture) -> str:
    from PIL import Image

    out = io.BytesIO()
    with Image.open(io.BytesIO(picture.png)) as image:
        small = image.convert("RGB")
        small.thumbnail((_THUMBNAIL, _THUMBNAIL))
        small.save(out, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"


def _as_cell(value: object) -> Cell:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return Cell("n/a", "", False)
    if isinstance(value, bool):
        return Cell("yes" if value else "no", str(int(value)), True)
    if isinstance(value, int):
        return Cell(str(value), str(value), False)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return Cell(str(value), str(value), True)
    if not math.isfinite(number):
        return Cell("n/a", "", False)
    shown = value if isinstance(value, str) else f"{number:.4g}"
    return Cell(shown, repr(number), False)


@cache
def _template() -> Template:
    from jinja2 import Environment
    from markupsafe import Markup

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["safe_svg"] = Markup
    return environment.from_string(_asset("page.html"))


@cache
def _asset(name: str) -> str:
    return (files("vcm.report") / "assets" / name).read_text(encoding="utf-8")
