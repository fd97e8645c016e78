"""A scan to try `vcm upsample` with: the MNI152 template that nilearn ships, cut into thick slices.

An average of 152 brains, so it is smoother than any scan, and its truth is known.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vcm.errors import VCMError
from vcm.imaging.degradation import simulate_thick
from vcm.imaging.volume import Volume, read_volume, write_volume

#: Between the axial slices [mm]; the template's brightest voxel; what is brain, of that.
SPACING, BRIGHTEST, BRAIN = 6.0, 1000.0, 0.1


def example_truth() -> Volume:
    """The brain-extracted template at 1 mm, 0..1000."""
    from nilearn.datasets import load_mni152_template

    image = load_mni152_template(resolution=1)
    data = np.clip(np.asarray(image.dataobj, dtype=np.float32), 0, 1)
    return Volume(BRIGHTEST * data, np.asarray(image.affine), source="MNI152")


def example_scan(folder: Path) -> Path:
    """Write it in axial slices, skull-stripped, to the folder, unless it is there.

    Raises:
        VCMError: Another file of that name is there.
    """
    thick, _ = simulate_thick(example_truth(), "axial", SPACING)
    brain = thick.data > BRAIN * BRIGHTEST
    kept = thick.with_data(np.where(brain, thick.data, 0).astype(np.float32))
    path = folder / f"tpl-MNI152_acq-{SPACING:g}mm_T1w.nii.gz"
    if not path.exists():
        return write_volume(kept, path)
    if not np.array_equal(read_volume(path).data, kept.data):
        raise VCMError(f"{path} exists and is not the example: choose another folder.")
    return path
