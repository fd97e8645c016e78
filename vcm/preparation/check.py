"""Check a folder of scans before anything is prepared or trained: every problem in one table.

Repairs and writes nothing. A problem is a row: whose, what, and what to do about it.
"""

from __future__ import annotations

from pathlib import Path

from vcm.errors import VCMError, noted
from vcm.files import sha256
from vcm.imaging.background import find_background
from vcm.imaging.brain import refuse_unfit
from vcm.imaging.conditions import class_volumes
from vcm.imaging.content_checksum import content_checksum
from vcm.imaging.source import Finding, Scan, read_source
from vcm.imaging.vocabulary import read_brain
from vcm.imaging.volume import read_volume
from vcm.progress import track


def check_folder(
    folder: Path, labels: str = "auto", image_desc: str = "", label_desc: str = ""
) -> list[Finding]:
    """All problems of a folder; an empty list for none.

    What `read_source` rejects or notes, missing label maps where others have one, differing grids,
    unknown labels, unreadable and constant images, label maps in the place of scans, lost slices, what is
    understood with a reservation, and the same scan twice.

    Args:
        folder: A BIDS folder, or one of T1w files.
        labels: Vocabulary of the label maps: a name, a YAML table, 'mask', or 'auto'.
        image_desc: As `read_source`.
        label_desc: As `read_source`.

    Raises:
        VCMError: There is no such folder, or no scan in it.
    """
    source = read_source(folder, image_desc, label_desc)
    problems = [*source.rejected, *source.notes]
    with_labels = sum(scan.labels is not None for scan in source.scans)
    seen: dict[str, Scan] = {}
    for scan in track(source.scans, "Checking"):
        if scan.labels is None and with_labels:
            what = f"has no *_dseg.nii.gz, as {with_labels} others have"
            problems.append(Finding(scan.subject, what))
        found, content = _scan_problems(scan, labels)
        problems += found
        first = seen.setdefault(content, scan)
        if first is not scan:
            across = "" if first.split == scan.split else f", across {first.split} and {scan.split}"
            what = f"is the same scan as {first.subject}{across}: keep one"
            problems.append(Finding(scan.subject, what))
    return problems


def _scan_problems(scan: Scan, labels: str) -> tuple[list[Finding], str]:
    """What is wrong with one scan, and a checksum: of what it holds, of its file where that cannot be read."""
    content = ""
    try:
        with noted() as notes:
            image = read_volume(scan.image)
            content = content_checksum(image)
            mask, classes = ~find_background(image.data), None
            if scan.labels:
                mask, classes = read_brain(scan.labels, labels, image)
            refuse_unfit(image, mask)
    except VCMError as error:
        return [Finding(scan.subject, str(error))], content or sha256(scan.image)
    except Exception as error:  # as vcm prepare would reject it
        what = f"cannot be read ({type(error).__name__}: {error})"
        return [Finding(scan.subject, what)], content or sha256(scan.image)
    found = [Finding(scan.subject, note) for note in notes]
    if classes is None:
        return found, content
    volumes = class_volumes(classes.data, classes.grid.voxel_volume)
    empty = [name for name, volume in volumes.items() if volume == 0]
    if empty:
        found.append(Finding(scan.subject, f"has no voxel of {', '.join(empty)}"))
    return found, content
