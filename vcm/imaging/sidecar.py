"""What the JSON file beside a scan says of its slices, as BIDS has it. Knows files; opens no image."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from vcm.errors import VCMWarning
from vcm.imaging.bids import stem

#: Key of BIDS [mm]: how thick a slice is, which may be less than how far slices are apart.
KEY = "SliceThickness"
#: A thickness is believed between these shares of the spacing.
LEAST, MOST = 0.3, 2.0


def told_thickness(scan: Path, spacing: float) -> float | None:
    """How thick slices are, by the JSON file of the same name beside a scan.

    Args:
        scan: The file of the scan; its JSON file need not be there.
        spacing: How far the slices are apart [mm].

    Returns:
        The thickness [mm]. None where the file does not say it; and, after a VCMWarning, where what it says
        cannot be used.
    """
    path = scan.with_name(f"{stem(scan)}.json")
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        value = told.get(KEY)
        thickness = None if value is None else float(value)
    except (OSError, ValueError, TypeError, AttributeError):
        _warn_unused(path, "cannot be read as a JSON object with a number for it", spacing)
        return None
    if thickness is None:
        return None
    if not LEAST * spacing <= thickness <= MOST * spacing:
        _warn_unused(path, f"says {thickness:g} mm", spacing)
        return None
    return thickness


def _warn_unused(path: Path, what: str, spacing: float) -> None:
    warnings.warn(
        f"{path.name} {what} ({KEY}), and the slices are {spacing:.3g} mm apart: it is not used; give slice_thickness "
        "if you know how thick they are.",
        VCMWarning,
        stacklevel=3,
    )
