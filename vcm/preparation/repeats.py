"""Whether a scan is there twice: as the same file, or as another one that holds the same voxels.

A scan that is there twice would count twice, and could be trained on and tested with. Knows records; reads
no file.
"""

from __future__ import annotations

from collections.abc import Sequence

from vcm.imaging.source import Finding
from vcm.preparation.record import PreparedScan


def without_repeats(done: Sequence[PreparedScan]) -> tuple[list[PreparedScan], list[Finding]]:
    """The records of scans that are there once or came first, and the others with the reason.

    Args:
        done: In the order in which scans come first.
    """
    first: dict[str, PreparedScan] = {}
    kept, repeated = [], []
    for scan in done:
        known = [key for key in _identities(scan) if key in first]
        if known:
            same = first[known[0]]
            what = f"is the same scan as {same.participant_id} of split {same.split}: keep one"
            repeated.append(Finding(scan.participant_id, what))
            continue
        kept.append(scan)
        first |= dict.fromkeys(_identities(scan), scan)
    return kept, repeated


def _identities(scan: PreparedScan) -> list[str]:
    """Checksums that no other scan has: of its file, of what that holds, and of what was made of it."""
    made = scan.files.get(f"{scan.participant_id}_T1w.nii.gz", "")
    return [one for one in (scan.made_from["image"], scan.content, made) if one]
