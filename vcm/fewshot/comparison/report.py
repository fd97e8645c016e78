"""The HTML page of a few-shot study: what study.md says, with tables that sort, and the curves."""

from __future__ import annotations

import json
import re
from pathlib import Path

from vcm.report.page import Page, Picture, Section, Table


def study_page(out: Path) -> Page:
    """What `vcm fewshot study` shows.

    Args:
        out: Folder that holds study.md and what it names.
    """
    heading, *blocks = re.split(r"^## ", (out / "study.md").read_text("utf-8"), flags=re.MULTILINE)
    record = json.loads((out / "study.json").read_text(encoding="utf-8"))
    return Page(
        "Few-shot study",
        lead=" ".join(heading.splitlines()[1:]).strip(),
        sections=[_section(block, out) for block in blocks],
        provenance=record,
    )


def _section(block: str, out: Path) -> Section:
    """A section of Markdown as `vcm.fewshot.comparison.page` writes it: paragraphs, tables, pictures, bullets."""
    title, _, rest = block.partition("\n")
    words, tables, pictures, heading = [], [], [], ""
    for part in rest.strip().split("\n\n"):
        picture = re.fullmatch(r"!\[(.+)\]\((.+)\)", part.strip())
        if picture:
            pictures.append(Picture((out / picture[2]).read_bytes(), picture[1]))
        elif part.startswith("|"):
            head, _, *rows = [_cells(line) for line in part.splitlines()]
            tables.append(Table(head, rows, heading))
            heading = ""
        elif part.startswith("* "):
            rows = [line.removeprefix("* ").split(": ", 1) for line in part.splitlines()]
            tables.append(Table(("method", "saw"), rows))
        elif part.endswith(":"):
            heading = part.removesuffix(":")
        else:
            words.append(part)
    return Section(title.strip(), " ".join(words), pictures, tables=tables)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]
