"""Brains with a mass in four contrasts, to try a few-shot segmentation of several sequences on.

    python benchmarks/simulated_masses.py PREPARED --out FOLDER/masses
    python benchmarks/simulated_masses.py PREPARED MORE --split test --count 34 --tests 14 --out FOLDER/masses_unseen

PREPARED is one or more folders that `vcm prepare --spacing 1` wrote: brains, T1w, with maps of eight tissues. Each of its first --count
subjects gets one mass: a core, a rim that only T1w with gadolinium shows bright, oedema in the white
matter around. T2w and FLAIR are painted from the tissues, with the texture of the T1w. A case is
FOLDER/masses/sub-NNN/anat with T1w, ce-gd_T1w, T2w, FLAIR and dseg (1 core, 2 oedema, 3 enhancing);
the last --tests cases are of the split test. Nothing here looks like a patient; what it
shares with one is that no single sequence tells the three parts apart.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from vcm.files import write_table
from vcm.imaging.prepared_set import Subject, load_prepared
from vcm.imaging.volume import Volume, read_volume, write_volume

#: Brightness of background and the eight tissues.
T2W = np.array([0, 0.33, 0.5, 0.95, 0.42, 0.5, 0.5, 0.9, 0.38], np.float32)
FLAIR = np.array([0, 0.42, 0.6, 0.12, 0.5, 0.62, 0.62, 0.2, 0.45], np.float32)
#: Of the eight tissues: where a mass may begin, where oedema spreads, and the brain stem, which is spared.
WHITE, GREY, DEEP, STEM = 1, 2, 4, 7
CORE, OEDEMA, ENHANCING = 1, 2, 3
Image = NDArray[np.float32]


@dataclass(frozen=True)
class Mass:
    """Where the parts are."""

    core: NDArray[np.bool_]
    oedema: NDArray[np.bool_]
    enhancing: NDArray[np.bool_]

    @property
    def labels(self) -> NDArray[np.uint8]:
        """0 elsewhere."""
        labels = np.zeros(self.core.shape, np.uint8)
        labels[self.oedema], labels[self.enhancing], labels[self.core] = OEDEMA, ENHANCING, CORE
        return labels


def noise(random: np.random.Generator, shape: tuple[int, ...], smooth: float) -> Image:
    """White noise, smoothed with that standard deviation [voxel]."""
    return gaussian_filter(random.standard_normal(shape).astype(np.float32), smooth)


def draw_mass(
    tissues: NDArray[np.uint8], brain: NDArray[np.bool_], random: np.random.Generator
) -> Mass:
    """A mass of 9 to 24 mm in radius, of irregular shape, 12 mm and more inside the brain."""
    inner = distance_transform_edt(brain) > 12
    places = np.argwhere(np.isin(tissues, (WHITE, GREY, DEEP)) & inner)
    centre = places[random.integers(len(places))]
    radius = random.uniform(9, 24)
    shape = tissues.shape
    dents = noise(random, shape, radius * 0.35)
    offsets = np.ogrid[tuple(slice(-c, n - c) for c, n in zip(centre, shape, strict=True))]
    distance = np.sqrt(sum(o**2 for o in offsets))
    mass = (radius * (1 + 0.25 * dents / dents.std()) - distance > 0) & brain & (tissues != STEM)
    rim = random.uniform(2, 5)
    core = (distance_transform_edt(mass) > rim) & (noise(random, shape, 3) > -0.05)
    fingers = noise(random, shape, 5)
    fingers /= fingers.std()
    reach = random.uniform(0.4, 1.1) * radius
    near = distance_transform_edt(~mass) < reach * (1 + 0.5 * fingers)
    return Mass(core, near & (tissues == WHITE) & ~mass, mass & ~core)


def paint(
    image: Image, where: NDArray[np.bool_], value: float, share: float, random: np.random.Generator
) -> Image:
    """That value with some texture, for a share of what was there."""
    weight = gaussian_filter(where.astype(np.float32), 0.8) * share
    texture = 0.2 * noise(random, image.shape, 1)
    return image * (1 - weight) + weight * (value + texture)


def contrasts(
    t1w: Image, tissues: NDArray[np.uint8], mass: Mass, random: np.random.Generator
) -> dict[str, Image]:
    """Four sequences of a brain with a mass, by their names in a file."""
    texture = t1w - gaussian_filter(t1w, 3)
    t2w, flair = (
        np.clip(gaussian_filter(means[tissues], 0.7) - share * texture, 0, 1)
        for means, share in ((T2W, 0.4), (FLAIR, 0.25))
    )
    strength = random.uniform(0.5, 0.9)
    made = {}
    for name, image, oedema, rim, core in (
        ("T1w", t1w, (0.5, 0.5), (0.4, 0.5), (0.2, 0.35)),
        ("ce-gd_T1w", t1w * random.uniform(0.95, 1.1), (0.5, 0.5), (0.85, 1.15), (0.2, 0.35)),
        ("T2w", t2w, (0.75, strength), (0.55, 0.7), (0.7, 0.95)),
        ("FLAIR", flair, (0.9, strength), (0.65, 0.85), (0.35, 0.8)),
    ):
        image = paint(image, mass.oedema, oedema[0], oedema[1], random)
        image = paint(image, mass.enhancing, random.uniform(*rim), 0.85, random)
        made[name] = paint(image, mass.core, random.uniform(*core), 0.85, random)
    return made


def scanned(
    image: Image, brain: NDArray[np.bool_], random: np.random.Generator
) -> NDArray[np.int16]:
    """With a bias field of 15 %, noise and another scale, 0 outside of the brain."""
    field = noise(random, image.shape, 40)
    level = random.uniform(0.01, 0.04)
    noisy = image * (1 + 0.15 * field / field.std()) + level * random.standard_normal(image.shape)
    kept = np.where(brain, np.clip(noisy, 0.005, None), 0)
    return (kept * random.uniform(200, 1500)).astype(np.int16)


def write_case(subject: Subject, name: str, out: Path, random: np.random.Generator) -> None:
    """One case of the folder."""
    scan = read_volume(subject.image_file)
    t1w = scan.data.astype(np.float32)
    t1w /= np.percentile(t1w[t1w > 0], 99.5)
    tissues, brain = subject.classes(), t1w > 0.01
    mass = draw_mass(tissues, brain, random)
    folder = out / name / "anat"
    folder.mkdir(parents=True, exist_ok=True)
    for sequence, image in contrasts(t1w, tissues, mass, random).items():
        made = Volume(scanned(image, brain, random), scan.grid.affine)
        write_volume(made, folder / f"{name}_{sequence}.nii.gz", "simulated")
    write_volume(Volume(mass.labels, scan.grid.affine), folder / f"{name}_dseg.nii.gz", "simulated")


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("prepared", nargs="+")
    parser.add_argument(
        "--split", help="of the brains, for instance test: those that no network saw"
    )
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--tests", type=int, default=12)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    subjects = load_prepared(*given.prepared, split=given.split)[: given.count]
    rows = []
    for number, subject in enumerate(subjects):
        name = f"sub-{number:03d}"
        write_case(subject, name, given.out, np.random.default_rng(number))
        split = "test" if number >= len(subjects) - given.tests else "train"
        rows.append({"participant_id": name, "split": split})
    write_table(given.out / "participants.tsv", rows, list(rows[0]))


if __name__ == "__main__":
    main()
