"""Label maps for prepared scans that came without one, made by a tissue segmenter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vcm.files import fingerprint, sha256
from vcm.imaging.conditions import ventricular_and_brain_volume
from vcm.imaging.volume import read_volume, write_volume
from vcm.preparation.record import PreparedScan
from vcm.preparation.segment import label_prepared
from vcm.weights.segmenter import load_segmenter, segmenter_folder


class Labeller:
    """Labels the prepared scans that were made without a label map and with this segmenter.

    Args:
        name: Of an embedded segmenter, or its folder.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.checksum = ", ".join(fingerprint(segmenter_folder(name)).values())
        self.net = load_segmenter(name)

    def __call__(self, prepared: PreparedScan, out: Path) -> PreparedScan:
        """Write the label map of a scan in the set `out`, where it is missing; returns its record."""
        if "segmenter" not in prepared.made_from or prepared.labelled_by:
            return prepared
        name, folder = prepared.participant_id, out / prepared.participant_id
        classes, at_2mm = label_prepared(read_volume(folder / f"{name}_T1w.nii.gz"), self.net)
        file = write_volume(classes, folder / f"{name}_dseg.nii.gz", "eight classes, vcm segmenter")
        ventricles, brain = ventricular_and_brain_volume(at_2mm.data, at_2mm.grid.voxel_volume)
        labelled = replace(
            prepared, ventricular_volume=ventricles, brain_volume=brain, labelled_by=self.name,
            files=prepared.files | {file.name: sha256(file)},
        )  # fmt: skip
        labelled.write(folder)
        return labelled
