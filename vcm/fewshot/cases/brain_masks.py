"""The brain of a case that shows its skull: found in its first scan, else in another one, and kept.

Knows scans and where masks are kept; nothing of labels or methods.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vcm.errors import VCMError, first_names
from vcm.files import sha256, write_whole
from vcm.imaging.extraction import find_brain, shows_a_skull
from vcm.imaging.geometry import resample
from vcm.imaging.volume import Grid, Volume

#: Raised when another brain is found than before, so that no mask of before is read.
_VERSION = 1
#: What stands for a case without its skull.
_EXTRACTED = b"extracted"
#: Of the cases that this process has seen, by the checksums of their files.
_masks: dict[str, bytes] = {}


def brain_mask(scans: Mapping[str, Volume]) -> Volume | None:
    """The brain of a case on the voxels of its first scan; None where no scan has its skull.

    Args:
        scans: Of one case, by slot, the reference first. They share a world.

    Raises:
        VCMError: No scan of the case shows a plausible brain; says what is wrong with the first.
    """
    reference, *others = scans.values()
    try:
        brain = find_brain(reference)
    except VCMError:
        for other in others:
            found = _found_in(other, reference.grid)
            if found is not None:
                return reference.with_data(found)
        raise
    # Of a case with its skull in the other scans alone, the first one tells where the brain is.
    has_skull = brain.is_found_here or any(map(shows_a_skull, others))
    return brain.as_volume(reference) if has_skull else None


def _found_in(other: Volume, grid: Grid) -> NDArray[np.uint8] | None:
    """The brain that another scan shows, 0 and 1 on that grid."""
    try:
        mask = find_brain(other).as_volume(other)
    except VCMError:
        return None
    share = resample(mask.with_data(mask.data.astype(np.float32)), grid, order=1)
    return np.asarray(share > 0.5, dtype=np.uint8)


def kept_brain_mask(
    scans: Mapping[str, Volume], files: Sequence[Path], cache: Path | None = None
) -> Volume | None:
    """As `brain_mask`, found once: it takes seconds, and is asked for by every method and draw.

    Args:
        scans: Of one case.
        files: Of these scans, in the same order.
        cache: Folder where masks are kept; None: they are kept in memory alone. One that is not there is not made:
            what is refused leaves nothing behind.

    Raises:
        VCMError: As `brain_mask`.
    """
    reference = next(iter(scans.values()))
    key = "-".join([str(_VERSION), *(sha256(file)[:32] for file in files)])
    file = cache / "brain_masks" / key if cache and cache.is_dir() else None
    if key not in _masks:
        is_kept = file is not None and file.is_file()
        _masks[key] = file.read_bytes() if file and is_kept else _packed(brain_mask(scans))
    packed = _masks[key]
    if file and not file.is_file():
        write_whole(file, lambda part: part.write_bytes(packed))
    return _unpacked(packed, reference)


def refuse_unfound(faults: Mapping[str, str], cases: int, of: str) -> None:
    """Raise VCMError that names all cases without a brain.

    Args:
        faults: What was said of each of them.
        cases: How many were looked at.
        of: Where they are.
    """
    if faults:
        raise VCMError(
            f"No brain was found in {len(faults)} of {cases} cases of {of}, {first_names(list(faults))}: give their brain "
            "masks in files (mask: the last word of their names), or leave the cases out. Of the first: "
            f"{next(iter(faults.values()))}"
        )


def _packed(mask: Volume | None) -> bytes:
    if mask is None:
        return _EXTRACTED
    return zlib.compress(np.packbits(mask.data > 0).tobytes())


def _unpacked(packed: bytes, reference: Volume) -> Volume | None:
    if packed == _EXTRACTED:
        return None
    bits = np.frombuffer(zlib.decompress(packed), np.uint8)
    data = np.unpackbits(bits, count=reference.data.size)
    return reference.with_data(data.reshape(reference.data.shape))
