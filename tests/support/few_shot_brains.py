"""Cubes whose core grows darker with age: a task that a few shots teach."""

from pathlib import Path

import nibabel as nib
import numpy as np


def write_brains(folder: Path, first: int = 0) -> Path:
    """A BIDS folder of 16 subjects from number `first` on, ages 20 to 80, a quarter of them for testing; *_dseg is the core."""
    rows = ["participant_id\tage\tsex\tsplit"]
    random = np.random.default_rng(0)
    for n in range(first, first + 16):
        age = 20 + 4 * n
        data = random.normal(800, 10, (16, 16, 16)).astype(np.float32)
        mask = np.zeros((16, 16, 16), np.uint8)
        mask[5:11, 5:11, 5:11] = 1
        data[mask > 0] = 600 - 6 * age
        name = f"sub-{n:02}"
        anat = folder / name / "anat"
        anat.mkdir(parents=True)
        affine = np.diag([4.0, 4, 4, 1])
        nib.save(nib.Nifti1Image(data, affine), anat / f"{name}_T1w.nii.gz")
        nib.save(nib.Nifti1Image(mask, affine), anat / f"{name}_dseg.nii.gz")
        rows.append(f"{name}\t{age}\t{'FM'[n % 2]}\t{'test' if n % 4 == 0 else 'train'}")
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder
