"""A sheet of real and synthetic brains, shuffled, to see how many are told apart at first sight.

    python benchmarks/real_or_synthetic.py EVALUATION PREPARED --out docs/study/real_or_synthetic

EVALUATION is what `vcm evaluate` wrote, with a sample under the map of each test subject; PREPARED the
folder that it measured. Half of the chosen subjects are shown as scanned, the others as synthesised, so that
no brain is there twice; which is which is decided by --seed. Writes sheet.png, numbered brains in an
axial and a coronal slice, and key.tsv, which is not to be read before the sheet.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from vcm.files import write_table
from vcm.imaging.prepared_set import load_prepared
from vcm.imaging.volume import read_volume
from vcm.report.picture import mosaic


def main() -> None:
    """Draw the sheet and write its key."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("prepared")
    parser.add_argument("--each", type=int, default=8, help="real, and as many synthetic")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    samples = {
        p.name.split("_seed")[0]: p
        for p in sorted((given.evaluation / "samples" / "controlled").glob("*.npy"))
    }
    subjects = [s for s in load_prepared(given.prepared, split="test") if s.subject in samples]
    random = np.random.default_rng(given.seed)
    chosen = random.permutation(len(subjects))[: 2 * given.each]
    order = random.permutation(len(chosen))
    rows, volumes = [], []
    for number, place in enumerate(order, start=1):
        subject, real = subjects[chosen[place]], place < given.each
        volumes.append(subject.image() if real else np.load(samples[subject.subject]).squeeze())
        rows.append(
            {"brain": number, "is": "real" if real else "synthetic", "subject": subject.subject}
        )
    given.out.mkdir(parents=True, exist_ok=True)
    affine = read_volume(subjects[0].image_file).affine
    mosaic(volumes, given.out / "sheet.png", [str(row["brain"]) for row in rows], affine)
    write_table(given.out / "key.tsv", rows, ["brain", "is", "subject"])


if __name__ == "__main__":
    main()
