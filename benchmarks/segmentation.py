"""How well one labelled subject teaches `vcm segment`, beside its competitors.

    python benchmarks/segmentation.py PREPARED SOURCE --slices FOLDER --labelled sub-IXI013 sub-IXI033 sub-IXI161

PREPARED is what `vcm prepare SOURCE` wrote; SOURCE has whole-brain label maps and a table of them
(--names, with the columns index and name). Subjects of --split are segmented with each labelled
subject by each method, on the whole grid. A row per labelled subject, method, subject and structure in
OUT/segmentation.tsv: Dice, 95 % Hausdorff distance [mm], relative error of the volume; costs in
OUT/costs.tsv: CPU seconds of the fit and of one scan. Fitted segmenters stay in OUT/fitted. Rows that
are there already are not made again, so it can be stopped and resumed. The split `test` is for the
final table alone: choose settings with --split train. With --elsewhere the scans of another study are segmented instead, all of them;
benchmarks/aseg.tsv names the labels of FreeSurfer.

A method is a source of features and the voices that are heard beside it. Sources (see SOURCES):
diffusion, mae (--mae, a network of `vcm pretrain slices objective=masked`), untrained and surroundings tell what the pretraining is worth; slices alone has
neither intensities nor places beside the features, which tell left from right; paper is
the plain recipe (noisy slices, no copies, no surroundings); sagittal, coronal, axial are single views;
per view has a network for each view (--per-view, those of `vcm pretrain slices "views=[axial]"` and so on);
time 0, 0.03, 0.2, 0.4 and noisy change what the network is told and given (diffusion: 0.1, clean); fine and deep
are the two decoder blocks at the finest and at the coarsest resolution;
nine is nine labelled slices with background, at the quartiles of the structures and without deformed copies; in
`nine chosen` they are those that meet every structure best, and copies are learned from, as the command does, by a U-Net too. The atlas alone is single-atlas registration (demons).
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
from segmentation_tables import print_tables

from vcm.embedded import network_folder
from vcm.files import read_table, write_table, write_whole
from vcm.imaging.conditions import CLASS_NAMES
from vcm.imaging.geometry import model_grid, resample
from vcm.imaging.prepared_set import Subject, load_prepared
from vcm.imaging.volume import read_label_map, read_volume
from vcm.nets.slice_denoiser import SliceDenoiser
from vcm.segmentation.classifier_fit import FitSettings
from vcm.segmentation.features import DiffusionFeatures, load_denoisers, surroundings
from vcm.segmentation.labelled import UNKNOWN, LabelledBrain
from vcm.segmentation.segmenter import FewShotSegmenter
from vcm.segmentation.start import AUTO, load_start
from vcm.segmentation.voices import VOICES, Heard

#: Seven bilateral structures, by a part of their names in the label table.
STRUCTURES = ("Thalamus", "Caudate", "Putamen", "Pallidum", "Hippocampus", "Amygdala", "Accumbens")
Row = dict[str, object]
Networks = Sequence[SliceDenoiser]
COLUMNS = ["labelled", "method", "subject", "structure", "dice", "hausdorff95", "volume_error"]


class Surroundings(DiffusionFeatures):
    """Intensities and places alone: what there is without a network."""

    def __init__(self, nets: Networks) -> None:
        super().__init__(nets)
        self.views = []

    def __call__(
        self, image: NDArray[np.float32], mask: NDArray[np.bool_] | None = None
    ) -> NDArray[np.float16]:
        """As DiffusionFeatures has it."""
        return surroundings(image, image > 0 if mask is None else mask)


@dataclass(frozen=True)
class Source:
    """How a segmenter is made, of which labels, and which products of its voices are measured."""

    features: Callable[[Networks], DiffusionFeatures]
    products: tuple[tuple[str, ...], ...] = (("features",), ("features", "atlas"))
    copies: int = 12
    labelled: Callable[[LabelledBrain], LabelledBrain] = lambda brain: brain


def untrained(nets: Networks) -> Networks:
    """The same networks with random weights."""
    torch.manual_seed(1)
    return [SliceDenoiser.from_config(net.config).eval() for net in nets]


def of_one_view(view: str) -> Callable[[Networks], DiffusionFeatures]:
    """Features of a single view, with the surroundings."""

    def make(nets: Networks) -> DiffusionFeatures:
        features = DiffusionFeatures(nets)
        features.views = [view]
        return features

    return make


#: Between the names of subjects that are learned from together.
TOGETHER = "+"
ALONE = (("features",),)
PRODUCTS = (("features",), ("features", "atlas"), ("features", "unet", "atlas"))
SOURCES: dict[str, Source] = {
    "diffusion": Source(DiffusionFeatures, (*PRODUCTS, ("atlas",), ("unet",), ("unet", "atlas"))),
    "untrained": Source(lambda nets: DiffusionFeatures(untrained(nets)), PRODUCTS),
    "mae": Source(lambda nets: DiffusionFeatures(nets, time=0.0), PRODUCTS),
    "surroundings": Source(Surroundings, PRODUCTS),
    "per view": Source(DiffusionFeatures),
    "time 0": Source(lambda nets: DiffusionFeatures(nets, time=0.0)),
    "time 0.03": Source(lambda nets: DiffusionFeatures(nets, time=0.03)),
    "time 0.2": Source(lambda nets: DiffusionFeatures(nets, time=0.2)),
    "time 0.4": Source(lambda nets: DiffusionFeatures(nets, time=0.4)),
    "noisy": Source(lambda nets: DiffusionFeatures(nets, noisy=True)),
    "fine": Source(lambda nets: DiffusionFeatures(nets, blocks=(2, 3))),
    "deep": Source(lambda nets: DiffusionFeatures(nets, blocks=(0, 1))),
    "slices alone": Source(lambda nets: DiffusionFeatures(nets, surroundings=False)),
    "paper": Source(lambda nets: DiffusionFeatures(nets, noisy=True, surroundings=False), ALONE, 0),
    "nine": Source(DiffusionFeatures, ALONE, 0, lambda brain: nine_slices(brain, chosen=False)),
    "nine chosen": Source(
        DiffusionFeatures,
        (*PRODUCTS, ("features", "unet"), ("unet",), ("unet", "atlas")),
        labelled=lambda brain: nine_slices(brain, chosen=True),
    ),
    "sagittal": Source(of_one_view("sagittal"), ALONE),
    "coronal": Source(of_one_view("coronal"), ALONE),
    "axial": Source(of_one_view("axial"), ALONE),
}


#: Sources that learn from other labels than `diffusion`, so that the voices beside their features are their own.
OF_SLICES = ("nine", "nine chosen")


def method_name(source: str, product: Sequence[str]) -> str:
    """Name of a row: the voices, the features by their source."""
    if source in OF_SLICES and "features" not in product:
        return f"{source}, {' x '.join(product)}"
    return " x ".join(source if voice == "features" else voice for voice in product)


def labels_of(
    subject: Subject, source: Path, names: Sequence[dict[str, str]], sides: bool
) -> NDArray[np.int16]:
    """(X, Y, Z) on the prepared grid: background and STRUCTURES, right after left with `sides`."""
    (path,) = sorted((source / subject.subject).rglob("*_dseg.nii*"))
    found = read_label_map(path)
    lookup = np.zeros(int(found.data.max()) + 1, np.int16)
    for row in names:
        for k, structure in enumerate(STRUCTURES, start=1):
            if structure in row["name"] and int(row["index"]) < len(lookup):
                right = sides and row["name"].endswith("_R")
                lookup[int(row["index"])] = k + right * len(STRUCTURES)
    record = json.loads((subject.folder / f"{subject.subject}_prepare.json").read_text("utf-8"))
    grid = read_volume(subject.image_file).grid
    moved = resample(
        found.with_data(lookup[found.data]), grid, np.asarray(record["to_common"]), order=0
    )
    return moved.astype(np.int16)


def truth_of(
    subject: Subject, source: Path, names: Sequence[dict[str, str]], given: argparse.Namespace
) -> NDArray[np.int16]:
    """(X, Y, Z) of what is asked to be named."""
    if given.tissues:
        return subject.classes().astype(np.int16)
    return labels_of(subject, source, names, given.sides)


def nine_slices(brain: LabelledBrain, chosen: bool) -> LabelledBrain:
    """Three slices of each view through the structures stay labelled, and all background outside them.

    They lie at the quartiles of the structures; or are `chosen` one by one, each where the sum over the
    structures of the logarithm of their labelled voxels grows most, as who labels would look for them.
    """
    inside = np.argwhere(brain.labels > 0)
    labels = np.full_like(brain.labels, UNKNOWN)
    if chosen:
        for axis in (0, 1, 2) * 3:
            places = range(inside[:, axis].min(), inside[:, axis].max() + 1)
            met = {n: _met(_with_slice(labels, brain, axis, n)) for n in places}
            best = max(met, key=met.__getitem__)
            labels = _with_slice(labels, brain, axis, best)
    else:
        for axis in range(3):
            for place in np.percentile(inside[:, axis], (25, 50, 75)).astype(int):
                labels = _with_slice(labels, brain, axis, int(place))
    low, high = inside.min(0) - 2, inside.max(0) + 3
    beyond = np.ones(labels.shape, bool)
    beyond[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = False
    labels[beyond] = 0
    return replace(brain, labels=labels)


def _with_slice(
    labels: NDArray[np.int16], brain: LabelledBrain, axis: int, place: int
) -> NDArray[np.int16]:
    """Those labels and the ones of a further slice."""
    index: list[slice | int] = [slice(None)] * 3
    index[axis] = place
    more = labels.copy()
    more[tuple(index)] = brain.labels[tuple(index)]
    return more


def _met(labels: NDArray[np.int16]) -> float:
    """Sum over the structures of the logarithm of their labelled voxels."""
    return float(np.log1p(np.bincount(labels[labels > 0], minlength=1)).sum())


def measure(found: NDArray, truth: NDArray, names: Sequence[str], spacing: float) -> list[Row]:
    """A row per structure."""
    rows: list[Row] = []
    for k, structure in enumerate(names[1:], start=1):
        a, b = found == k, truth == k
        if not b.any():
            continue
        x, y = (torch.from_numpy(np.stack([~m, m]))[None].float() for m in (a, b))
        far = compute_hausdorff_distance(x, y, percentile=95, spacing=spacing) if a.any() else None
        rows.append(
            {
                "structure": structure,
                "dice": round(2 * (a & b).sum() / (a.sum() + b.sum()), 5),
                "hausdorff95": None if far is None else round(float(far), 3),
                "volume_error": round(a.sum() / b.sum() - 1, 5),
            }
        )
    return rows


class Table:
    """Rows of a file, written after each addition."""

    def __init__(self, path: Path, columns: list[str]) -> None:
        self.path, self.columns = path, columns
        self.rows: list[Row] = list(map(dict, read_table(path))) if path.is_file() else []

    def add(self, rows: Sequence[Row]) -> None:
        """Append and write."""
        self.rows += rows
        write_table(self.path, self.rows, self.columns)

    def has(self, **key: str) -> bool:
        """Whether a row with these values is there."""
        return any(all(str(row[k]) == v for k, v in key.items()) for row in self.rows)


class Clock:
    """Writes the CPU seconds since the last lap to the table of costs."""

    def __init__(self, costs: Table, labelled: str, source: str) -> None:
        self.costs, self.labelled, self.source = costs, labelled, source
        self.started = time.process_time()

    def lap(self, what: str) -> None:
        """A row of what was done since."""
        now = time.process_time()
        row: Row = {"labelled": self.labelled, "source": self.source, "what": what}
        self.costs.add([row | {"cpu_seconds": round(now - self.started, 1)}])
        self.started = now


def fitted(
    name: str, nets: dict[str, Networks], brains: Sequence[LabelledBrain], names: list[str],
    folder: Path, settings: FitSettings, costs: Table, mirror: bool, begin: str,
) -> FewShotSegmenter:  # fmt: skip
    """The segmenter of a source for the labelled subjects, made once."""
    source, mine = SOURCES[name], nets.get(name, nets["diffusion"])
    if (folder / "segmenter.json").is_file():
        segmenter = FewShotSegmenter.from_pretrained(folder)
        features = source.features(mine)
        if isinstance(features, Surroundings) or features.views != segmenter.features.views:
            segmenter.features = features
        return segmenter
    heard = {voice for product in source.products for voice in product} | {"features"}
    # The U-Net does not depend on the features: that of `diffusion` serves all that learn from the same labels.
    own = name == "diffusion" or name in OF_SLICES
    voices = tuple(v for v in VOICES if v in heard and (v != "unet" or own))
    clock = Clock(costs, TOGETHER.join(brain.source for brain in brains), name)
    labelled = [source.labelled(brain) for brain in brains]
    segmenter = FewShotSegmenter(source.features(mine), names)
    grid = model_grid(segmenter.features.spacing)
    start = (
        load_start(begin, all(b.whole for b in labelled), grid).net if "unet" in voices else None
    )
    segmenter.fit(labelled, voices, settings, source.copies, mirror=mirror, start=start)
    clock.lap("fit")
    write_whole(folder, segmenter.save_pretrained)
    return segmenter


def main() -> None:
    """Measure what is asked, then print the means."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("prepared")
    parser.add_argument("source", type=Path)
    parser.add_argument("--slices", required=True, help="a name or a folder")
    parser.add_argument("--mae", help="needed for the source mae")
    parser.add_argument(
        "--per-view",
        nargs=3,
        metavar="NETWORK",
        help="needed for the source per view: one of each view",
    )
    parser.add_argument("--names", type=Path)
    parser.add_argument(
        "--labelled", nargs="+", required=True, help="each alone; A+B+C: the three together"
    )
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=["diffusion"])
    parser.add_argument(
        "--sides", action="store_true", help="left and right are classes of their own"
    )
    parser.add_argument(
        "--tissues", action="store_true", help="the eight tissue classes in place of the structures"
    )
    parser.add_argument(
        "--no-unet", action="store_true", help="without the U-Net, whose fit costs most"
    )
    parser.add_argument(
        "--no-mirror",
        action="store_true",
        help="scans as they are, not the mean with their mirror image",
    )
    parser.add_argument(
        "--start", default=AUTO, help="what the U-Net begins with: auto, random, or a segmenter"
    )
    parser.add_argument("--split", default="test")
    parser.add_argument(
        "--elsewhere", nargs=3, type=Path, metavar=("PREPARED", "SOURCE", "NAMES"),
        help="of another study, instead of the split",
    )  # fmt: skip
    parser.add_argument("--subjects", type=int, default=0, help="the first few alone; 0: all")
    parser.add_argument("--steps", type=int, default=FitSettings.steps)
    parser.add_argument("--out", type=Path, default=Path("runs/segmentation"))
    given = parser.parse_args()
    for name, networks in {"mae": given.mae, "per view": given.per_view}.items():
        if name in given.sources and not networks:
            parser.error(f"the source {name} needs --{name.replace(' ', '-')}")
    if given.no_unet:
        for name, source in SOURCES.items():
            heard = tuple(p for p in source.products if "unet" not in p)
            SOURCES[name] = replace(source, products=heard)
    table = read_table(given.names or next(given.source.glob("*_dseg.tsv")))
    names = ["background", *STRUCTURES]
    if given.sides:
        names = ["background", *(f"{s} {side}" for side in ("left", "right") for s in STRUCTURES)]
    if given.tissues:
        names = list(CLASS_NAMES)
    sources = list(given.sources)
    if not set(sources) <= set(OF_SLICES):
        # The voices that do not depend on the features are those of `diffusion`.
        sources = ["diffusion", *(s for s in sources if s != "diffusion")]
    everyone = {s.subject: s for s in load_prepared(given.prepared)}
    chosen = [s for s in everyone.values() if s.split == given.split]
    source, tested = given.source, table
    if given.elsewhere:
        prepared, source, labels = given.elsewhere
        chosen, tested = load_prepared(prepared), read_table(labels)
    chosen = chosen[: given.subjects or None]
    nets: dict[str, Networks] = {"diffusion": load_denoisers(network_folder(given.slices))}
    if given.mae:
        nets["mae"] = load_denoisers(network_folder(given.mae))
    if given.per_view:
        nets["per view"] = [load_denoisers(folder)[0] for folder in given.per_view]
    given.out.mkdir(parents=True, exist_ok=True)
    results = Table(given.out / "segmentation.tsv", COLUMNS)
    costs = Table(given.out / "costs.tsv", ["labelled", "source", "what", "cpu_seconds"])
    for labelled in given.labelled:
        brains = [
            LabelledBrain(
                everyone[one].image(), truth_of(everyone[one], given.source, table, given), one
            )
            for one in labelled.split(TOGETHER)
        ]
        segmenters = {
            name: fitted(
                name, nets, brains, names, given.out / "fitted" / labelled / name,
                FitSettings(steps=given.steps), costs, not given.no_mirror, given.start,
            )
            for name in sources
        }  # fmt: skip
        for subject in chosen:
            if subject.subject not in labelled.split(TOGETHER):
                truth = truth_of(subject, source, tested, given)
                key = {"labelled": labelled, "subject": subject.subject}
                segment_with(segmenters, subject.image(), truth, key, results, costs)
    print_tables(results.rows)


def segment_with(
    segmenters: dict[str, FewShotSegmenter], image: NDArray[np.float32], truth: NDArray,
    key: dict[str, str], results: Table, costs: Table,
) -> None:  # fmt: skip
    """Rows of one subject that are not there yet; the atlas and the U-Net are asked once for all sources."""
    image = next(iter(segmenters.values())).alike(image).image
    mask = image > 0
    atlases: dict[str, NDArray[np.float32]] = {}
    unets: dict[str, NDArray[np.float32]] = {}
    for name, segmenter in segmenters.items():
        products = {
            method_name(name, p): p
            for p in SOURCES[name].products
            if not results.has(method=method_name(name, p), **key)
        }
        if not products:
            continue
        wanted = {voice for product in products.values() for voice in product}
        clock = Clock(costs, key["labelled"], name)
        members = segmenter.ask_perceptrons(image, mask)
        clock.lap("scan, features")
        own = name if name in OF_SLICES else "diffusion"
        if "atlas" in wanted and own not in atlases:
            atlases[own] = segmenter.ask_atlas(image, mask)
            clock.lap("scan, atlas")
        if "unet" in wanted and own not in unets:
            unets[own] = segmenters[own].ask_unet(image, mask)
            clock.lap("scan, unet")
        heard = Heard(mask, members, atlases.get(own), unets.get(own))
        rows = []
        for method, product in products.items():
            found = segmenter.combined(heard, product).labels
            made = measure(found, truth, segmenter.names, segmenter.features.spacing)
            rows += [{**key, "method": method} | row for row in made]
        results.add(rows)


if __name__ == "__main__":
    main()
