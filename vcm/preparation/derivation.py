"""`vcm segment tissues` for every scan of one contrast of a BIDS dataset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vcm.derivatives import Derivation
from vcm.imaging.bids import stem
from vcm.imaging.participants import Participant
from vcm.imaging.vocabulary import CLASS_NAMES
from vcm.preparation.segment import fingerprints, segment_file


def tissue_derivation(segmenter: str, suffix: str = "T1w") -> Derivation:
    """What is made of each scan.

    Args:
        segmenter: Name of an embedded segmenter, its folder, or auto.
        suffix: Of the scans: T1w, T2w, FLAIR.
    """

    def run(path: Path, work: Path, person: Participant) -> Mapping[str, object]:
        name = stem(path).removesuffix(f"_{suffix}")
        volumes = segment_file(path, work / f"{name}_dseg.nii.gz", segmenter)
        return {f"{name} [mL]": round(volume, 2) for name, volume in volumes.items()}

    settings = {"segmenter": fingerprints(segmenter), "suffix": suffix}
    labels = tuple(enumerate(CLASS_NAMES))
    return Derivation("Tissues", suffix, run, settings, {"mask": {"Type": "Brain"}}, labels)
