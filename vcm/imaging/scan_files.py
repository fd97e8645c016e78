"""Files of a folder of scans, however deep they lie, and which of them are T1w scans.

Knows names of files, folders and links; opens no image.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from vcm.errors import VCMWarning
from vcm.imaging.bids import ENDINGS, parse, stem

#: Last part of the names of maps that are made of a scan.
MAPS = ("dseg", "probseg", "mask")
#: Parts of a name that say with which space a file has to do, not what it shows.
_SPACE = re.compile(r"(space|from|to)-T1w")
#: Parts of the names of uncertainty maps, as vcm segment and vcm upsample write them.
_UNCERTAINTY = re.compile(r"desc-[a-zA-Z0-9]*(uncertainty|std)")


def files_below(folder: Path, without: Sequence[Path] = ()) -> list[Path]:
    """Files of a folder and of all folders in it, those that are links to folders too.

    Hidden files and folders are left out, and the __MACOSX of an archive. A link to a file is listed even where its
    content is not there, as that of an annexed file. A folder that is reached twice, as by a link to one above it, is read once.
    A folder that cannot be read is left out, and a VCMWarning says so.

    Args:
        folder: Where to look.
        without: Folders that are not entered. `folder` itself is, also where it is one of them or lies in one.

    Returns:
        Their paths, which begin with `folder`, sorted.
    """
    entered = {os.path.realpath(path) for path in (folder, *without)}
    found: list[Path] = []
    for here, folders, files in os.walk(folder, onerror=_warn_of_unreadable, followlinks=True):
        found += [Path(here, name) for name in files if not name.startswith(".")]
        # What lies here itself comes first, so that a link to it is the one that is left out.
        inside = sorted(sorted(Path(here, name) for name in folders), key=Path.is_symlink)
        folders[:] = [path.name for path in inside if _is_new(path, entered)]
    return sorted(found)


def _is_new(folder: Path, entered: set[str]) -> bool:
    """Whether a folder is to be entered, which is noted then."""
    real = os.path.realpath(folder)
    if folder.name.startswith((".", "__MACOSX")) or real in entered:
        return False
    entered.add(real)
    return True


def _warn_of_unreadable(error: OSError) -> None:
    warnings.warn(
        f"{error.filename} cannot be read ({error.strerror}), so its files are left out: let it be read, and run again.",
        VCMWarning,
        stacklevel=2,
    )


def is_t1w(path: Path) -> bool:
    """Whether the name of a file is that of a T1w scan, not of a map that was made of one or lies in its space."""
    parts = [part for part in stem(path).split("_") if not _SPACE.fullmatch(part)]
    if not path.name.endswith(ENDINGS) or not any("T1w" in part for part in parts):
        return False
    # In a name of BIDS its end alone says what a file shows: sub-01_mod-T1w_defacemask.
    named = parse(path)
    if named is not None and (named.suffix != "T1w" or named.is_phase):
        return False
    return parts[-1] not in MAPS and not any(_UNCERTAINTY.fullmatch(part) for part in parts)
