"""`vcm segment tissues` for every T1w scan of a BIDS dataset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vcm.derivatives import Derivation
from vcm.imaging.bids import stem
from vcm.imaging.participants import Participant
from vcm.imaging.vocabulary import CLASS_NAMES
from vcm.preparation.segment import fingerprints, segment_file


def tissue_derivation(segmenter: str) -> Derivation:
    """What is made of each scan.

    Args:
        segmenter: Name of an embedded segmenter, its folder, or auto.
    """

    def run(path: Path, work: Path, person: Participant) -> Mapping[str, object]:
        volumes = segment_file(
            path, work / f"{stem(path).removesuffix('_T1w')}_dseg.nii.gz", segmenter
        )
        return {f"{name} [mL]": round(volume, 2) for name, volume in volumes.items()}

    settings = {"segmenter": fingerprints(segmenter)}
    labels = tuple(enumerate(CLASS_NAMES))
    return Derivation("Tissues", "T1w", run, settings, {"mask": {"Type": "Brain"}}, labels)
