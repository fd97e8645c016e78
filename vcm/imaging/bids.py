"""Names of files by BIDS: entities, and which label map belongs to which scan.

Knows names and folders; opens no image. Small on purpose: pybids takes 2.5 s to import and 370 MB,
bids2table 150 MB of Arrow, and ancpbids reads sub-a-b as the subject a.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ENDINGS = (".nii.gz", ".nii")
#: Entities that say what was done with an image, not which image it is.
DERIVED = ("space", "res", "den", "desc", "label", "hemi", "atlas", "seg")
#: Values of `space` that mean the scan's own voxels.
OWN_SPACES = ("", "T1w", "orig", "native", "individual")

_ENDING = re.compile(r"(\.(nii|hdr|img))?(\.gz)?$", re.IGNORECASE)
_ENTITY = re.compile(r"([a-zA-Z]+)-([a-zA-Z0-9+]+)")


@dataclass(frozen=True)
class BIDSFile:
    """A file with its entities: sub-1_ses-2_run-01_T1w.nii.gz has sub 1, ses 2, run 1, suffix T1w."""

    path: Path
    entities: Mapping[str, str]
    suffix: str

    def get(self, entity: str) -> str:
        """Value of an entity, '' where the name has none."""
        return self.entities.get(entity, "")

    @property
    def is_phase(self) -> bool:
        """Whether it shows the phase of a scan, or its imaginary part, not how bright it is."""
        return self.get("part") in ("phase", "imag")

    @property
    def scan(self) -> frozenset[tuple[str, str]]:
        """The entities that say which image this is, without what was done with it."""
        return frozenset((k, v) for k, v in self.entities.items() if k not in DERIVED)


def parse(path: Path) -> BIDSFile | None:
    """The entities of a NIfTI file's name; None where it is not one that BIDS allows.

    An index is a number, so that run-1 and run-01 are one run.
    """
    *parts, suffix = stem(path).split("_")
    found = [_ENTITY.fullmatch(part) for part in parts]
    entities = {m[1]: _index(m[1], m[2]) for m in found if m}
    if len(entities) < len(parts) or "sub" not in entities or not suffix.isalnum():
        return None
    return BIDSFile(path, entities, suffix)


def stem(path: Path) -> str:
    """The name without .nii, .hdr or .img, and without .gz after it, in small letters or large ones."""
    return _ENDING.sub("", path.name)


def scan_name(file: BIDSFile) -> str:
    """The part of the name that says which image it is: sub-1_ses-2_run-01."""
    parts = stem(file.path).split("_")[:-1]
    return "_".join(p for p in parts if p.partition("-")[0] not in DERIVED)


def _index(entity: str, value: str) -> str:
    return (
        str(int(value)) if entity in ("run", "echo", "inv", "flip") and value.isdigit() else value
    )


def one_per_scan(files: Sequence[BIDSFile], desc: str = "") -> tuple[BIDSFile | None, str]:
    """The one file among several of the same scan, or what is wrong.

    Args:
        files: Files of one suffix whose `scan` is the same.
        desc: Only files of this `desc` are meant; '' prefers the file that nothing was done with.

    Returns:
        The file and ''; or None and a sentence.
    """
    if desc:
        files = [f for f in files if f.get("desc") == desc]
        if not files:
            return None, f"has no file with desc-{desc}"
    own = [f for f in files if f.get("space") in OWN_SPACES] or list(files)
    plain = [f for f in own if not any(f.get(entity) for entity in DERIVED)]
    chosen = plain if len(plain) == 1 else own
    if len(chosen) == 1:
        return chosen[0], ""
    names = ", ".join(f.path.name for f in chosen)
    return (
        None,
        f"has {len(chosen)} files of one kind ({names}): keep one, or say which desc is meant",
    )


def label_map_of(
    image: BIDSFile, maps: Sequence[BIDSFile], desc: str = ""
) -> tuple[BIDSFile | None, str]:
    """The label map of a scan, or what is wrong.

    Args:
        image: The scan.
        maps: Every label map of its subject that is not another scan's.
        desc: Only label maps of this `desc` are meant.

    Returns:
        The label map, None where the scan has none, and '' or a sentence.
    """
    same = [m for m in maps if m.scan == image.scan]
    on_voxels = [m for m in same if m.get("space") == image.get("space") or _own_space(m, image)]
    if not on_voxels:
        stray = [m for m in maps if m not in same and m.get("ses") == image.get("ses")]
        return None, (
            f"has the label map {stray[0].path.name}, whose entities are not those of "
            f"{image.path.name}: rename it so that session, acquisition and run agree"
            if stray
            else ""
        )
    # No label map is the plain one: where there are several, only `desc` can say which is meant.
    meant = [m for m in on_voxels if not desc or m.get("desc") == desc]
    if len(meant) == 1:
        return meant[0], ""
    if not meant:
        return None, f"has no label map with desc-{desc}"
    names = ", ".join(m.path.name for m in meant)
    return None, f"has {len(meant)} label maps ({names}): keep one, or say which desc is meant"


def _own_space(one: BIDSFile, other: BIDSFile) -> bool:
    return {one.get("space"), other.get("space")} <= set(OWN_SPACES)
