"""How well one labelled subject teaches `vcm segment`, beside its competitors.

    python benchmarks/segmentation.py PREPARED SOURCE --slices FOLDER --labelled sub-IXI013 sub-IXI033 sub-IXI161

PREPARED is what `vcm prepare SOURCE` wrote; SOURCE has whole-brain label maps and a table of them
(--names, with the columns index and name). Subjects of --split are segmented with each labelled
subject by each method, on the whole grid. A row per labelled subject, method, subject and structure in
OUT/segmentation.tsv: Dice, 95 % Hausdorff distance [mm], relative error of the volume; costs in
OUT/costs.tsv: CPU seconds of the fit and of one scan. Rows that are there already are not made again, so
it can be stopped and resumed. The split `test` is for the final table alone: choose settings with
--split train.

Methods (see METHODS): atlas is single-atlas registration (demons), the floor; paper is the plain recipe
(noisy slices, no copies, features alone); random and surroundings tell what the pretraining is worth;
sagittal, coronal, axial are single views; nine is nine labelled slices with background.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance
from numpy.typing import NDArray

from vcm.files import read_table, write_table
from vcm.imaging.geometry import resample
from vcm.imaging.prepared_set import Subject, load_prepared
from vcm.imaging.volume import read_label_map, read_volume
from vcm.metrics import bootstrap_interval
from vcm.nets.slice_denoiser import SliceDenoiser
from vcm.segmentation.classifier_fit import FitSettings
from vcm.segmentation.features import DiffusionFeatures, load_denoisers, surroundings
from vcm.segmentation.labelled import UNKNOWN, LabelledBrain
from vcm.segmentation.segmenter import FewShotSegmenter

#: Seven bilateral structures, by a part of their names in the label table.
STRUCTURES = ("Thalamus", "Caudate", "Putamen", "Pallidum", "Hippocampus", "Amygdala", "Accumbens")
COLUMNS = ["labelled", "method", "subject", "structure", "dice", "hausdorff95", "volume_error"]


class Surroundings(DiffusionFeatures):
    """Intensities and places alone: what there is without a network."""

    def __init__(self, net: SliceDenoiser) -> None:
        super().__init__(net)
        self.views = []

    def __call__(
        self, image: NDArray[np.float32], mask: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float16]:
        """As DiffusionFeatures has it."""
        return surroundings(image, image > 0 if mask is None else mask)


@dataclass(frozen=True)
class Method:
    """How a segmenter is made, and which of its voices are heard."""

    features: Callable[[SliceDenoiser], DiffusionFeatures]
    voices: tuple[str, ...] = ("features",)
    copies: int = 12
    nine_slices: bool = False


def untrained(net: SliceDenoiser) -> SliceDenoiser:
    """The same network with random weights."""
    torch.manual_seed(1)
    return SliceDenoiser.from_config(net.config).eval()


def of_one_view(view: str) -> Callable[[SliceDenoiser], DiffusionFeatures]:
    """Features of a single view, with the surroundings."""

    def make(net: SliceDenoiser) -> DiffusionFeatures:
        features = DiffusionFeatures(net)
        features.views = [view]
        return features

    return make


METHODS: dict[str, Method] = {
    "features": Method(DiffusionFeatures),
    "features x atlas": Method(DiffusionFeatures, ("features", "atlas")),
    "features x unet x atlas": Method(DiffusionFeatures, ("features", "atlas", "unet")),
    "atlas": Method(DiffusionFeatures, ("atlas",), copies=0),
    "unet": Method(DiffusionFeatures, ("unet",), copies=0),
    "paper": Method(lambda n: DiffusionFeatures(n, noisy=True, surroundings=False), copies=0),
    "random": Method(lambda n: DiffusionFeatures(untrained(n))),
    "surroundings": Method(Surroundings),
    "nine": Method(DiffusionFeatures, copies=0, nine_slices=True),
    "sagittal": Method(of_one_view("sagittal")),
    "coronal": Method(of_one_view("coronal")),
    "axial": Method(of_one_view("axial")),
}


def labels_of(subject: Subject, source: Path, names: Sequence[dict[str, str]]) -> NDArray[np.int16]:
    """(X, Y, Z) of 0..7 on the prepared grid: background and STRUCTURES, left and right merged."""
    (path,) = sorted((source / subject.subject).rglob("*_dseg.nii*"))
    found = read_label_map(path)
    lookup = np.zeros(int(found.data.max()) + 1, np.int16)
    for row in names:
        for k, structure in enumerate(STRUCTURES, start=1):
            if structure in row["name"] and int(row["index"]) < len(lookup):
                lookup[int(row["index"])] = k
    record = json.loads((subject.folder / f"{subject.subject}_prepare.json").read_text("utf-8"))
    grid = read_volume(subject.image_file).grid
    moved = resample(
        found.with_data(lookup[found.data]), grid, np.asarray(record["to_common"]), order=0
    )
    return moved.astype(np.int16)


def nine_slices(brain: LabelledBrain) -> LabelledBrain:
    """Three slices of each view through the structures stay labelled, and all background outside them."""
    inside = np.argwhere(brain.labels > 0)
    labels = np.full_like(brain.labels, UNKNOWN)
    for axis in range(3):
        for place in np.percentile(inside[:, axis], (25, 50, 75)).astype(int):
            index = [slice(None)] * 3
            index[axis] = int(place)
            labels[tuple(index)] = brain.labels[tuple(index)]
    low, high = inside.min(0) - 2, inside.max(0) + 3
    beyond = np.ones(labels.shape, bool)
    beyond[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = False
    labels[beyond] = 0
    return replace(brain, labels=labels)


def measure(found: NDArray, truth: NDArray, spacing: float) -> list[dict[str, object]]:
    """A row per structure."""
    rows: list[dict[str, object]] = []
    for k, structure in enumerate(STRUCTURES, start=1):
        a, b = found == k, truth == k
        if not b.any():
            continue
        pair = [torch.from_numpy(np.stack([~m, m]))[None].float() for m in (a, b)]
        far = compute_hausdorff_distance(*pair, percentile=95, spacing=spacing) if a.any() else None
        rows.append(
            {
                "structure": structure,
                "dice": round(2 * (a & b).sum() / (a.sum() + b.sum()), 5),
                "hausdorff95": None if far is None else round(float(far), 3),
                "volume_error": round(a.sum() / b.sum() - 1, 5),
            }
        )
    return rows


def main() -> None:
    """Measure what is asked, then print the means."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("prepared")
    parser.add_argument("source", type=Path)
    parser.add_argument("--slices", type=Path, required=True)
    parser.add_argument("--names", type=Path)
    parser.add_argument("--labelled", nargs="+", required=True)
    parser.add_argument("--methods", nargs="+", default=["atlas", "features", "features x atlas"])
    parser.add_argument("--split", default="test")
    parser.add_argument("--subjects", type=int, default=0, help="the first few alone; 0: all")
    parser.add_argument("--steps", type=int, default=FitSettings.steps)
    parser.add_argument("--out", type=Path, default=Path("runs/segmentation"))
    given = parser.parse_args()
    names = read_table(given.names or next(given.source.glob("*_dseg.tsv")))
    everyone = {s.subject: s for s in load_prepared(given.prepared)}
    chosen = [s for s in everyone.values() if s.split == given.split]
    chosen = [s for s in chosen if s.subject not in given.labelled][: given.subjects or None]
    (net,) = load_denoisers(given.slices)
    given.out.mkdir(parents=True, exist_ok=True)
    table, costs = given.out / "segmentation.tsv", given.out / "costs.tsv"
    rows: list[dict[str, object]] = [*read_table(table)] if table.is_file() else []
    spent: list[dict[str, object]] = [*read_table(costs)] if costs.is_file() else []
    for labelled in given.labelled:
        own = everyone[labelled]
        brain = LabelledBrain(own.image(), labels_of(own, given.source, names), labelled)
        for name in given.methods:
            there = {r["subject"] for r in rows if (r["labelled"], r["method"]) == (labelled, name)}
            left = [s for s in chosen if s.subject not in there]
            if not left:
                continue
            method = METHODS[name]
            started = time.process_time()
            segmenter = FewShotSegmenter(method.features(net), ["background", *STRUCTURES]).fit(
                [nine_slices(brain) if method.nine_slices else brain],
                ("features", *(v for v in method.voices if v != "features")),
                FitSettings(steps=given.steps),
                method.copies,
            )
            fitted = time.process_time()
            for subject in left:
                found = segmenter.predict(subject.image(), method.voices).labels
                truth = labels_of(subject, given.source, names)
                key = {"labelled": labelled, "method": name, "subject": subject.subject}
                rows += [key | row for row in measure(found, truth, net.config.spacing)]
                write_table(table, rows, COLUMNS)
            each = (time.process_time() - fitted) / len(left)
            spent.append(
                {
                    "labelled": labelled, "method": name,
                    "fit": round(fitted - started, 1), "scan": round(each, 1),
                }
            )  # fmt: skip
            write_table(costs, spent, ["labelled", "method", "fit", "scan"])
    show(rows, given.labelled, given.methods)


def show(
    rows: Sequence[dict[str, object]], labelled: Sequence[str], methods: Sequence[str]
) -> None:
    """Mean Dice over structures and subjects, and the paired difference to the atlas."""
    for subject in labelled:
        means = {
            method: {
                s: float(np.mean([float(str(r["dice"])) for r in mine if r["subject"] == s]))
                for s in sorted({str(r["subject"]) for r in mine})
            }
            for method in methods
            if (mine := [r for r in rows if (r["labelled"], r["method"]) == (subject, method)])
        }
        for method, by_subject in means.items():
            values = np.array(list(by_subject.values()))
            text = f"{subject}\t{method}\t{values.mean():.3f} ± {values.std(ddof=1):.3f}\tworst {values.min():.3f}"
            floor = means.get("atlas")
            if floor and method != "atlas":
                both = [s for s in by_subject if s in floor]
                gain = np.array([by_subject[s] - floor[s] for s in both])
                low, high = bootstrap_interval(lambda g: float(g.mean()), gain)
                text += f"\tover atlas {gain.mean():+.3f} [{low:+.3f}, {high:+.3f}]"
            print(f"{text}\tn = {len(values)}")


if __name__ == "__main__":
    main()
