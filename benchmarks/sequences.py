"""What a segmenter of several sequences knows before any shot: Dice on drawn brains, and on lesions of patients.

    python benchmarks/sequences.py sequences2mm PREPARED --split test --out OUT [--patients OPENMS_MNI]

The brains are those of a split of PREPARED, given a tumour and scanned in four sequences, one draw of each; see
vcm.imaging.random_sequences. OPENMS_MNI holds patients with multiple sclerosis and masks of their lesions: each
voxel that the network gives to any part of a tumour counts as lesion. OUT gets drawn.tsv and patients.tsv; printed are
means with 95 % bootstrap intervals over brains.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from vcm.fewshot.cases.layouts import find_cases
from vcm.fewshot.cases.preparation import prepare
from vcm.fewshot.comparison.metrics import dice
from vcm.fewshot.methods.model import probabilities
from vcm.fewshot.methods.network import FewShotUNet
from vcm.fewshot.methods.parents import load_parent
from vcm.files import write_table
from vcm.imaging.conditions import NUMBER_OF_CLASSES
from vcm.imaging.geometry import resample
from vcm.imaging.prepared_set import load_prepared, with_classes
from vcm.imaging.random_sequences import LABELS, SEQUENCES, draw_sequences
from vcm.imaging.volume import read_label_map, read_volume
from vcm.progress import track

#: Voxels [mm] of the network, and edge of the windows that it reads [voxel].
SPACING, WINDOW = (2.0, 2.0, 2.0), 64


@torch.inference_mode()
def answer(net: FewShotUNet, image: torch.Tensor) -> np.ndarray:
    """Labels (X, Y, Z) of sequences (4, X, Y, Z)."""
    return probabilities(net, image[None], True, WINDOW)[0].numpy().argmax(0)


def drawn(net: FewShotUNet, prepared: list[str], split: str) -> list[dict[str, object]]:
    """Dice of each label, a row per brain of the split; None where the brain lacks the label."""
    rows = []
    subjects = with_classes(load_prepared(*prepared, split=split))
    for number, subject in enumerate(track(subjects, "Drawn")):
        spacing = read_volume(subject.image_file).grid.spacing[0]
        random = np.random.default_rng((0, number))
        images, labels = draw_sequences(subject.image(), subject.classes(), spacing, random)
        found = answer(net, torch.from_numpy(images))
        row: dict[str, object] = {"brain": subject.subject}
        for place, name in list(enumerate(LABELS))[1:]:
            there = (labels == place).any()
            row[name] = dice(found == place, labels == place) if there else None
        parts = [x > NUMBER_OF_CLASSES for x in (found, labels)]
        rows.append({**row, "any part": dice(*parts) if parts[1].any() else None})
    return rows


def patients(net: FewShotUNet, folder: str) -> list[dict[str, object]]:
    """Dice of lesions, a row per patient."""
    rows = []
    for case in find_cases(folder):
        scans = {s: read_volume(p) for s, p in case.images.items() if s in SEQUENCES}
        made = prepare(scans, SEQUENCES, SPACING)
        mask = read_label_map(case.maps["mask"])
        share = resample(mask.with_data((mask.data > 0).astype(np.float32)), made.grid, order=1)
        found = answer(net, torch.from_numpy(made.image)) > NUMBER_OF_CLASSES
        truth = share > 0.5
        rows.append(
            {
                "patient": case.name, "sequences": " ".join(scans), "lesions [mL]": truth.sum() * 0.008,
                "found [mL]": found.sum() * 0.008, "dice": dice(found, truth),
            }
        )  # fmt: skip
    return rows


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("network")
    parser.add_argument("prepared", nargs="+")
    parser.add_argument("--split", default="test")
    parser.add_argument("--patients")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    net = load_parent(given.network).network
    given.out.mkdir(parents=True, exist_ok=True)
    rows = drawn(net, given.prepared, given.split)
    write_table(given.out / "drawn.tsv", rows, list(rows[0]))
    random = np.random.default_rng(0)
    for name in list(rows[0])[1:]:
        values = np.array([row[name] for row in rows if row[name] is not None], float)
        means = random.choice(values, (4000, len(values))).mean(1)
        low, high = np.percentile(means, [2.5, 97.5])
        print(f"{name:>18} {values.mean():.3f} [{low:.3f}, {high:.3f}] of {len(values)}")
    if given.patients:
        rows = patients(net, given.patients)
        write_table(given.out / "patients.tsv", rows, list(rows[0]))
        for row in rows:
            print(row)


if __name__ == "__main__":
    main()
