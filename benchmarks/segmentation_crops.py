"""How well one or a few labelled crops teach `vcm segment`'s features: the hippocampus with manual masks.

    python benchmarks/segmentation_crops.py HIPPOCAMPUS --out docs/study/segmentation/crops

HIPPOCAMPUS holds T1w crops of 1 mm and their masks (Medical Segmentation Decathlon, Task04): 1 anterior, 2 posterior.
Of the first crops by name --shots are labelled, --draws times others; the last 60 are segmented. Crops are no
brains, so the command refuses them and its parts are called here: features and surroundings of slices2mm, with
perceptrons; registration finds no brain to align and is left out. A voxel is given to the network as one of its own
(--spacing 2 reads the crop at 2 mm). A row per draw, number and crop in OUT/segmentation.tsv: Dice; CPU
seconds of the fits in OUT/costs.tsv. Rows that are there are not made again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from segmentation import Table

from vcm.embedded import network_folder
from vcm.imaging.acquisition import isotropic_about
from vcm.imaging.brain import to_unit_range
from vcm.imaging.geometry import resample
from vcm.imaging.volume import Grid, Volume, read_label_map, read_volume
from vcm.metrics import bootstrap_interval
from vcm.segmentation.features import DiffusionFeatures, load_denoisers
from vcm.segmentation.labelled import LabelledBrain
from vcm.segmentation.segmenter import FewShotSegmenter

NAMES = ["background", "anterior", "posterior"]
#: Crops that are never labelled.
TESTS = 60
#: What is no brain would be 0: the darkest voxel of a crop is above it.
DARKEST = 1e-3


def crops_of(folder: Path) -> list[tuple[str, Path, Path]]:
    """Name, scan and mask of each."""
    found = sorted(folder.glob("sub-*/anat/*_T1w.nii.gz"))
    return [(p.parts[-3], p, p.with_name(p.name.replace("_T1w", "_dseg"))) for p in found]


def read(scan: Path, mask: Path, spacing: float) -> tuple[NDArray, NDArray[np.int16], Grid]:
    """Image in 0..1 and labels on voxels of that size, in the crop's own directions."""
    image, labels = read_volume(scan), read_label_map(mask)
    grid = isotropic_about(image.grid, spacing)
    values = resample(image, grid, order=1)
    scaled, _ = to_unit_range(values, np.ones(values.shape, bool))
    classes = resample(labels, grid, order=0).astype(np.int16)
    return np.maximum(scaled, np.float32(DARKEST)), classes, grid


def dice_of(
    segmenter: FewShotSegmenter, scan: Path, mask: Path, spacing: float
) -> dict[str, float]:
    """Of each structure, on the crop's own voxels."""
    image, _, grid = read(scan, mask, spacing)
    voices = ("features",)
    heard = segmenter.combined(segmenter.listen(image, voices), voices)
    posterior = heard.posterior.astype(np.float32)
    truth = read_label_map(mask)
    shares = [resample(Volume(p, grid.affine), truth.grid, order=1) for p in posterior]
    found = np.stack(shares).argmax(0)
    pairs = [(found == k, truth.data == k) for k in range(1, len(NAMES))]
    made = [2 * (a & b).sum() / max(a.sum() + b.sum(), 1) for a, b in pairs]
    return dict(zip(NAMES[1:], [round(float(v), 5) for v in made], strict=True))


def mean_by(rows: list[dict[str, Any]], key: str) -> dict[str, float]:
    """Mean Dice of both structures for each value of a column."""
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row[key], []).extend(float(row[name]) for name in NAMES[1:])
    return {value: float(np.mean(found)) for value, found in values.items()}


def summarise(rows: list[dict[str, Any]]) -> None:
    """Mean Dice by number of labelled crops, over draws and both structures."""
    for shots in sorted({int(r["shots"]) for r in rows}):
        own = [r for r in rows if int(r["shots"]) == shots]
        means = list(mean_by(own, "subject").values())
        low, high = bootstrap_interval(np.mean, np.array(means))
        each = list(mean_by(own, "draw").values())
        print(
            f"{shots} labelled: {np.mean(means):.3f} [{low:.3f}, {high:.3f}], draws",
            np.round(each, 3),
        )


def main() -> None:
    """Fit, segment, print the means."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="HIPPOCAMPUS")
    parser.add_argument("--slices", default="slices2mm")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--spacing", type=float, default=1.0, help="that crops are read at [mm]")
    parser.add_argument("--tests", type=int, default=TESTS)
    parser.add_argument("--out", type=Path, default=Path("runs/segmentation_crops"))
    given = parser.parse_args()
    crops = crops_of(given.folder)
    pool, tests = crops[: len(crops) - TESTS], crops[len(crops) - TESTS :][: given.tests]
    given.out.mkdir(parents=True, exist_ok=True)
    results = Table(given.out / "segmentation.tsv", ["shots", "draw", "subject", *NAMES[1:]])
    costs = Table(given.out / "costs.tsv", ["shots", "draw", "what", "cpu_seconds"])
    net = load_denoisers(network_folder(given.slices))[0]
    for shots in given.shots:
        for draw in range(given.draws):
            key: dict[str, Any] = {"shots": str(shots), "draw": str(draw)}
            if results.has(**key, subject=tests[-1][0]):
                continue
            chosen = [pool[n] for n in np.random.default_rng(draw).permutation(len(pool))[:shots]]
            brains = [
                LabelledBrain(*read(scan, mask, given.spacing)[:2], name)
                for name, scan, mask in chosen
            ]
            torch.manual_seed(draw)
            start = time.process_time()
            segmenter = FewShotSegmenter(DiffusionFeatures(net), NAMES)
            segmenter.fit(brains, ("features",), judged=0)
            fitted = time.process_time() - start
            costs.add([{**key, "what": "fit", "cpu_seconds": round(fitted, 1)}])
            results.add(
                [
                    {**key, "subject": name, **dice_of(segmenter, scan, mask, given.spacing)}
                    for name, scan, mask in tests
                ]
            )
    summarise(results.rows)


if __name__ == "__main__":
    main()
