"""Results of one scan in a folder: their names, what they were made from, and whether they are all there.

Knows paths, sidecars and checksums; nothing of voxels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vcm.files import listed_files, read_json, refuse_to_replace, sha256
from vcm.imaging.bids import stem

#: Ends of the names of label map, map of probability and map of uncertainty.
VOLUMES = ("dseg", "probseg", "desc-uncertainty")


@dataclass(frozen=True)
class ScanResults:
    """Where the results of a scan lie.

    Attributes:
        scan: Its file.
        out: Folder of the results.
        made_from: Entries of the sidecar that say what they are made from.
    """

    scan: Path
    out: Path
    made_from: Mapping[str, object]

    @property
    def stem(self) -> str:
        """How their names begin."""
        return name_of(self.scan)

    @property
    def volumes(self) -> list[Path]:
        """Files of labels, probability and uncertainty."""
        return [self.out / f"{self.stem}_{end}.nii.gz" for end in VOLUMES]

    @property
    def sidecar(self) -> Path:
        """JSON that says what they are."""
        return self.out / f"{self.stem}_dseg.json"

    @property
    def picture(self) -> Path:
        """The PNG."""
        return self.out / f"{self.stem}_dseg.png"

    @property
    def mask(self) -> Path:
        """Brain mask, of a scan with its skull."""
        return self.out / f"{self.stem}_desc-brain_mask.nii.gz"

    def refuse_to_replace(self, overwrite: bool) -> None:
        """Raise VCMError where one of them would replace the scan or, without `overwrite`, what was made otherwise."""
        written = [*self.volumes, self.mask, self.picture, self.sidecar]
        refuse_to_replace(written, [self.scan], self.sidecar, self.made_from, overwrite)

    def are_whole(self) -> bool:
        """Whether all are what the sidecar says, and not a part of another run's."""
        files = listed_files(self.sidecar)
        there = all(_has(self.out / name, checksum) for name, checksum in files.items())
        return there and all(path.name in files for path in self.volumes)

    def volumes_ml(self) -> dict[str, object]:
        """Volume of each structure [mL], as the sidecar has it."""
        return dict(read_json(self.sidecar)["VolumesML"])


def name_of(scan: Path) -> str:
    """How the names of a scan's results begin."""
    return stem(scan).removesuffix("_T1w")


def _has(path: Path, checksum: str) -> bool:
    """Whether a file is there with that SHA-256."""
    return path.is_file() and sha256(path) == checksum
