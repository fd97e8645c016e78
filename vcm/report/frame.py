"""A page inside a notebook: the same HTML in a frame, which neither Jupyter nor a network has to know.

Knows how a notebook asks an object for HTML; what the page says is in vcm.report.page.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from vcm.errors import VCMError
from vcm.report.folder import REPORT


@dataclass(frozen=True)
class Frame:
    """Shown where it is the last value of a cell, or is given to `IPython.display.display`.

    Attributes:
        html: The page.
        height: Of the frame [pixels]; the page scrolls within it.
    """

    html: str = field(repr=False)
    height: int = 780

    def _repr_html_(self) -> str:
        """Jupyter's hook. The page lies in the attribute, so that a saved notebook keeps it."""
        return (
            f'<iframe title="report of vcm" srcdoc="{escape(self.html)}" '
            f'style="width:100%;height:{self.height}px;border:0"></iframe>'
        )


def show_report(folder: str | Path, height: int = 780) -> Frame:
    """The page that a command left, in a frame.

    Args:
        folder: Where its results lie, or its HTML file.
        height: Of the frame [pixels].

    Raises:
        VCMError: There is no page.
    """
    path = Path(folder)
    path = path / REPORT if path.is_dir() else path
    if not path.is_file():
        raise VCMError(f"{path} does not exist: give a folder that a command of vcm wrote.")
    return Frame(path.read_text(encoding="utf-8"), height)
