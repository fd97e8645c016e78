"""Whole heads with a mass in three sequences of thick slices, to try a few-shot segmentation of clinical scans on.

    python benchmarks/masses_in_heads.py IXI2MM --split test --tests 12 --out FOLDER/masses_in_heads

IXI2MM is a BIDS folder of heads, T1w with their skull, with label maps. Each subject gets the mass of simulated_masses.py.
T1w and T1w with gadolinium show the head as it was scanned, FLAIR is painted in the brain and darker outside of it.
Slices are axial, --thickness mm thick. A case is FOLDER/masses_in_heads/sub-NNN/anat with T1w, ce-gd_T1w,
FLAIR and dseg (1: the mass with its oedema); the last --tests cases are of the split test. Nothing here is a patient's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom
from simulated_masses import Image, contrasts, draw_mass, noise

from vcm.fewshot.cases.layouts import Case, find_cases
from vcm.files import write_table
from vcm.imaging.geometry import halved_grid
from vcm.imaging.vocabulary import read_classes
from vcm.imaging.volume import Volume, read_volume, write_volume

SEQUENCES = ("T1w", "ce-gd_T1w", "FLAIR")


def upright(volume: Volume) -> Volume:
    """The same voxels, right, anterior, superior."""
    made = nib.as_closest_canonical(nib.Nifti1Image(volume.data, volume.affine))
    return Volume(np.asarray(made.dataobj), made.affine)


def halved(volume: Volume, order: int) -> Volume:
    """The same on voxels of half the size, 1 mm for heads of 2 mm, which masses are drawn in."""
    finer = zoom(volume.data, 2, order=order, grid_mode=True, mode="nearest")
    return Volume(finer, halved_grid(volume.grid).affine)


def slices(volume: Volume, thickness: int, labels: bool = False) -> Volume:
    """Axial slices, each the mean of so many, or the label that most of its voxels have."""
    count = volume.data.shape[2] // thickness
    blocks = volume.data[..., : count * thickness]
    blocks = blocks.reshape(*volume.data.shape[:2], count, thickness).astype(np.float32).mean(-1)
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, 2] * (thickness - 1) / 2
    affine[:3, 2] *= thickness
    return Volume((blocks > 0.5).astype(np.uint8) if labels else blocks, affine)


def outside(sequence: str, head: Image, random: np.random.Generator) -> Image:
    """Skull, fat and muscle as the sequence shows them."""
    if sequence == "FLAIR":
        return head ** random.uniform(0.8, 1.3) * random.uniform(0.4, 0.9)
    return head * random.uniform(0.95, 1.1)


def scanned(image: Image, random: np.random.Generator) -> NDArray[np.float32]:
    """With a bias field of 15 %, noise and another scale."""
    field = noise(random, image.shape, 40)
    level = random.uniform(0.01, 0.04)
    noisy = image * (1 + 0.15 * field / field.std()) + level * random.standard_normal(image.shape)
    return np.asarray(np.abs(noisy) * random.uniform(200, 1500), np.float32)


def write_case(case: Case, labels: str, name: str, thickness: int, out: Path, seed: int) -> None:
    """One case of the folder."""
    random = np.random.default_rng(seed)
    scan = halved(upright(read_volume(case.images["t1"])), 1)
    classes = halved(upright(read_classes(case.maps[labels])[0]), 0)
    tissues, head = classes.data.astype(np.uint8), scan.data.astype(np.float32)
    brain = tissues > 0
    head /= np.percentile(head[brain], 99.5)
    mass = draw_mass(tissues, brain, random)
    folder = out / name / "anat"
    folder.mkdir(parents=True, exist_ok=True)
    for sequence, image in contrasts(head * brain, tissues, mass, random).items():
        if sequence in SEQUENCES:
            whole = np.where(brain, image, outside(sequence, head, random))
            made = slices(Volume(scanned(whole, random), scan.affine), thickness)
            made = Volume(made.data.astype(np.int16), made.affine)
            write_volume(made, folder / f"{name}_{sequence}.nii.gz", "simulated")
    truth = slices(Volume((mass.labels > 0).astype(np.uint8), scan.affine), thickness, labels=True)
    write_volume(truth, folder / f"{name}_dseg.nii.gz", "simulated")


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("heads")
    parser.add_argument("--split", default="test")
    parser.add_argument("--labels", default="dseg", help="last word of the label maps' names")
    parser.add_argument("--count", type=int, default=26)
    parser.add_argument("--tests", type=int, default=12)
    parser.add_argument("--thickness", type=int, default=6, help="of a slice [mm]")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    cases = find_cases(given.heads, given.split)[: given.count]
    rows = []
    for number, case in enumerate(cases):
        name = f"sub-{number:03d}"
        write_case(case, given.labels, name, given.thickness, given.out, number)
        split = "test" if number >= len(cases) - given.tests else "train"
        rows.append({"participant_id": name, "split": split})
    write_table(given.out / "participants.tsv", rows, list(rows[0]))


if __name__ == "__main__":
    main()
