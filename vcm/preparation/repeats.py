"""Whether a scan is there twice: as the same file, or as another one that holds the same voxels.

A scan that is there twice would count twice, and could be trained on and tested with. Knows voxels, their
place and records; reads no file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import nibabel as nib
import numpy as np

from vcm.imaging.source import Finding
from vcm.imaging.volume import Volume
from vcm.preparation.record import PreparedScan

#: Decimals of an affine [mm] that tell two scans apart; further ones are rounding.
DECIMALS = 3


def content_checksum(scan: Volume) -> str:
    """SHA-256 of what a scan holds and where, the same however its file is named, compressed or turned.

    Args:
        scan: As read, with whichever axes in whichever order.

    Returns:
        Of shape, affine and values, with the axes in the order and direction nearest to RAS+.
    """
    turned = nib.as_closest_canonical(nib.Nifti1Image(scan.data, scan.affine))
    values = np.asarray(turned.dataobj, dtype=np.float32)
    place = np.round(turned.affine, DECIMALS) + 0.0  # no -0
    found = hashlib.sha256(f"{values.shape} {place.tolist()}".encode())
    found.update(values.tobytes())
    return found.hexdigest()


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
