"""Checksum of what a scan holds and where, however its file is named, compressed or turned.

A scan that is there twice would count twice, and could be trained on and tested with.
"""

from __future__ import annotations

import hashlib

import nibabel as nib
import numpy as np

from vcm.imaging.volume import Volume

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
