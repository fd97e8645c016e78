"""How far white lies above grey matter in T1w scans, and in the same scans inverted: the threshold of
`vcm upsample`.

    python benchmarks/contrast.py PREPARED [PREPARED ...] --limit 25

The first training scans of each folder that `vcm prepare` wrote. Expected of 25 scans each: ds002748 at
1 mm 0.94 at least, every fifth of IXI at 2 mm 0.60; inverted at most the negatives. Scans of other
contrasts are told by `vcm upsample` when it refuses them: a FLAIR 0.23, two T2w -1.55 and -1.12.
"""

from __future__ import annotations

import argparse

import numpy as np

from vcm.imaging.contrast import LEAST_SEPARATION, t1w_separation
from vcm.imaging.prepared_set import load_prepared
from vcm.imaging.volume import read_volume


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("prepared", nargs="+")
    parser.add_argument("--limit", type=int, default=25)
    given = parser.parse_args()
    print(f"threshold {LEAST_SEPARATION:g}; least, median, greatest")
    for folder in given.prepared:
        found: dict[str, list[float]] = {"as they are": [], "inverted": []}
        for subject in load_prepared(folder, split="train")[: given.limit]:
            scan = read_volume(subject.image_file)
            inverted = np.where(scan.data > 0, 1.01 - scan.data, 0)
            found["as they are"].append(t1w_separation(scan.data, scan.grid))
            found["inverted"].append(t1w_separation(inverted, scan.grid))
        for name, values in found.items():
            low, middle, high = np.percentile(values, [0, 50, 100])
            print(f"{folder}, {len(values)} scans {name}: {low:.2f}, {middle:.2f}, {high:.2f}")


if __name__ == "__main__":
    main()
