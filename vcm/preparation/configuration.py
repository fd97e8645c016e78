"""What a user may choose for `vcm prepare` and `vcm segment tissues`. Names, defaults, texts."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar


@dataclass
class Preparation:
    """Configuration of `vcm prepare`.

    Attributes:
        folder: BIDS folder with *_T1w.nii.gz, with *_dseg.nii.gz where there are label maps and
            participants.tsv where age and sex are known; or a plain folder of T1w files.
        out: Folder for the training set; not needed with --check.
        labels: Vocabulary of the label maps: auto, freesurfer, synthseg, dlmuse, vcm8, bids, fast,
            5tt, a YAML table, or mask for brain masks in their place.
        segmenter: Segmenter for scans without a label map: segmenter2mm, or a folder. Default: they
            stay without one.
        image_desc: The desc of the scans where a subject has several, for instance brain.
        label_desc: The desc of the label maps where a scan has several, for instance aseg.
        split_seed: Makes the split of subjects where the table has none: 80 % train, a tenth each
            for validation and test.
        spacing: Voxel size of the embedded models' grids [mm]: 2 or 1.
        model: Prepare on the grid of this model instead: a name or a folder.
        workers: Number of parallel processes.
    """

    headings: ClassVar[dict[str, str]] = {
        "folder": "Scans and result",
        "spacing": "Grid",
        "workers": "Machine",
    }

    folder: Path | None = None
    out: Path | None = None
    labels: str = "auto"
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    spacing: float = 2.0
    model: str = ""
    segmenter: str = ""
    image_desc: str = ""
    label_desc: str = ""
    split_seed: int = 0


@dataclass
class Segmentation:
    """Configuration of `vcm segment tissues`.

    Attributes:
        scan: Scan (NIfTI), with the skull or without; T1w is labelled best.
        out: Label map to write, for instance sub-01_dseg.nii.gz.
        segmenter: Name of an embedded segmenter, or folder that vcm pretrain segmenter wrote. auto:
            segmenter2mm for T1w scans, anysegmenter2mm for other contrasts and where that is in doubt.
        overwrite: Replace a label map that is there.
    """

    scan: Path | None = None
    out: Path | None = None
    segmenter: str = "auto"
    overwrite: bool = False
