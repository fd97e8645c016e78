"""Folders of scans as a user has them, made of the MNI152 brain."""

from pathlib import Path

import numpy as np
import pytest

from vcm.imaging.geometry import centred_grid
from vcm.imaging.registration import common_template
from vcm.imaging.volume import Volume, write_volume

#: Of no model: coarse, so that preparing is quick.
GRID = centred_grid((40, 56, 40), 4.0, (0.0, -18.0, 6.0), "LAS")

#: The eight classes -> numbers of FreeSurfer.
FREESURFER = np.array([0, 2, 3, 4, 10, 17, 18, 24, 16], np.int16)


def bids(folder: Path, moves) -> Path:
    """The MNI152 brain shifted by known amounts [mm], as a BIDS folder."""
    rows = ["participant_id\tage\tsex\tsplit"]
    template = common_template()
    for n, move in enumerate(moves):
        affine = template.affine.copy()
        affine[:3, 3] += move
        name = f"sub-{n:02d}"
        values = np.where(template.data > 0.2, template.data * 200, 0).astype(np.float32)
        write_volume(Volume(values, affine), folder / name / "anat" / f"{name}_T1w.nii.gz")
        rows.append(f"{name}\t{30 + n}\tF\ttrain")
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n")
    return folder


def without_slow_parts(patch: pytest.MonkeyPatch) -> None:
    """vcm prepare without registration, as if scans lay in the common space, and without its picture."""
    patch.setattr("vcm.imaging.brain.align_rigid", lambda image: np.eye(4))
    patch.setattr("vcm.preparation.prepare.mosaic", lambda *arguments: arguments[1])
