"""Whether a tissue segmenter can learn from synthetic scans, instead of real ones or beside ten of them.

    python benchmarks/synthetic_use.py PREPARED --out runs/synthetic_use
    python benchmarks/synthetic_use.py PREPARED --out docs/study/synthetic_use --report

PREPARED is what `vcm prepare` made of a set with label maps and the splits train and test. Four segmenters are
trained for each seed, alike but for what they learn from, and measured on the scans of the test split:

real            every training scan with its label map
synthetic       no scan: one volume of --model, sampled as it recommends, under a deformed label map of every training subject
real-ten        ten training scans, others with every seed
both-ten        the same ten, and in half of the steps volumes under deformed label maps of these ten

All see every scan deformed, mirrored, and changed in brightness, blur and noise at every step. The volumes are
kept in OUT/volumes; OUT/synthetic_use.tsv has a row per segmenter, seed, test subject and class: Dice. Rows that
are there are not made again, so several commands with other --arms or --seeds can share OUT.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
from numpy.typing import NDArray

from vcm.files import read_table, write_table, write_whole
from vcm.imaging.conditions import CLASS_NAMES
from vcm.imaging.deformation import DeformationSizes
from vcm.imaging.draws import draw_condition
from vcm.imaging.prepared_set import load_prepared, with_classes
from vcm.imaging.scan_pool import ScanPool, load_pool
from vcm.learning.run import TrainingRun
from vcm.metrics import bootstrap_interval
from vcm.nets.segmenter import TissueSegmenter
from vcm.pipeline import VCMPipeline
from vcm.progress import track
from vcm.training.configuration import SegmenterTraining
from vcm.training.segmenter import (
    LabelledScans,
    SegmenterObjective,
    draw_appearance,
    measure_segmenter,
)
from vcm.weights.load import load_pipeline

ARMS = ("real", "synthetic", "real-ten", "both-ten")
COLUMNS = ["arm", "seed", "subject", "class", "dice"]
#: Volumes of each of the ten subjects, and steps of a training.
COPIES, STEPS = 8, 1500
#: Channels per level of the segmenters, and the edge of the blocks that they fold voxels to: a step takes a quarter of
#: the time that segmenter2mm takes.
CHANNELS, PATCH = (16, 32, 64, 128), 2
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Study:
    """What all arms share."""

    prepared: str
    model: str
    out: Path
    scans: int
    steps: int


def chosen(count: int, scans: int, seed: int) -> list[int]:
    """The subjects of one seed."""
    return sorted(np.random.default_rng((seed, 7)).permutation(count)[:scans].tolist())


@torch.inference_mode()
def volumes_of(study: Study, pool: ScanPool, wanted: Sequence[tuple[int, int]]) -> ScanPool:
    """Volumes of the model under deformed label maps, and the maps themselves in place of those of scans.

    Args:
        study: Names the model and the folder.
        pool: Of the real scans, whose maps, sex and age are read.
        wanted: Subject and number of the copy. A volume depends on them alone.
    """
    folder = study.out / "volumes"
    pipeline: VCMPipeline | None = None
    images, maps = [], []
    for subject, copy in track(wanted, "Synthesizing"):
        path = folder / f"{pool.names[subject]}_copy-{copy}.npz"
        if not path.is_file():
            if pipeline is None:
                pipeline = load_pipeline(study.model)
                pipeline.use_scheduler("auto")
            image, classes = synthesize(pipeline, pool, subject, copy)
            write_whole(path, partial(_save, image=image, classes=classes))
        with np.load(path, allow_pickle=False) as held:
            images.append(torch.from_numpy(held["image"]))
            maps.append(torch.from_numpy(held["classes"]))
    numbers = [subject for subject, _ in wanted]
    return replace(subset(pool, numbers), images=torch.stack(images), classes=torch.stack(maps))


def synthesize(
    pipeline: VCMPipeline, pool: ScanPool, subject: int, copy: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One volume (X, Y, Z), 255 for 1, and the deformed label map that it was made under."""
    random = np.random.default_rng((subject, copy))
    drawn = pool.draw(1, DeformationSizes(), random)._replace(numbers=torch.tensor([subject]))
    told = replace(pool, ranges=pipeline.input_rule.ranges, _refined={})
    classes = pool.make(drawn).classes
    covariates = told.covariates(drawn.numbers, classes).clamp(0, 1)
    condition = draw_condition("classes", classes[0, 0].numpy(), None, pool.grid, random)
    made = pipeline(
        [torch.from_numpy(condition)[None]], covariates, precision="bfloat16",
        generator=torch.Generator().manual_seed(1000 * subject + copy), output_type="np",
    )  # fmt: skip
    image = (np.clip(made.volumes[0, 0], 0, 1) * 255).round().astype(np.uint8)
    return image, classes[0, 0].numpy()


def _save(part: Path, image: NDArray, classes: NDArray) -> None:
    with part.open("wb") as file:
        np.savez_compressed(file, image=image, classes=classes)


def draw(pools: Sequence[ScanPool], random: np.random.Generator) -> LabelledScans:
    """A batch of one scan: each pool is as likely as the others."""
    pool = pools[int(random.integers(len(pools)))]
    brains = pool.make(pool.draw(1, DeformationSizes(), random))
    noise = torch.from_numpy(random.standard_normal(brains.images[0].shape, dtype=np.float32))
    image = draw_appearance(random).apply(brains.images[0], noise)
    return LabelledScans(image[None], brains.classes, torch.empty(0))


def train(study: Study, arm: str, seed: int, pools: Sequence[ScanPool]) -> TissueSegmenter:
    """A small segmenter."""
    out = study.out / "trainings" / f"{arm}_{seed}"
    config = SegmenterTraining(
        data=[study.prepared], out=str(out), steps=study.steps, seed=seed, batch_size=1,
        learning_rate=4e-3, final_learning_rate=1e-5, checkpoint_every=250,
    )  # fmt: skip
    set_seed(seed)
    net = TissueSegmenter(CHANNELS, config.groups, patch=PATCH)
    run = TrainingRun(config, net, SegmenterObjective(net))
    run.fit(lambda processes: partial(draw, pools))
    return net.eval()


def rows_of(study: Study, arm: str, seed: int) -> Rows:
    """Train one segmenter and measure it on the test subjects."""
    pool = load_pool([study.prepared], "train")
    ten = chosen(len(pool), study.scans, seed)
    pools: list[ScanPool]
    if arm == "real":
        pools = [pool]
    elif arm == "synthetic":
        pools = [volumes_of(study, pool, [(n, 0) for n in range(len(pool))])]
    else:
        pools = [subset(pool, ten)]
    if arm == "both-ten":
        pools.append(volumes_of(study, pool, [(n, k) for n in ten for k in range(COPIES)]))
    net = train(study, arm, seed, pools)
    held_out = with_classes(load_prepared(study.prepared, split="test"))
    return [
        {"arm": arm, "seed": seed, "subject": scan.scan, "class": name, "dice": round(value, 4)}
        for scan in measure_segmenter(net, held_out)
        for name, value in scan.values.items()
    ]


def subset(pool: ScanPool, numbers: Sequence[int]) -> ScanPool:
    """Some of the scans."""
    index = list(numbers)
    return ScanPool(
        pool.images[index], pool.classes[index], pool.sex[index], pool.age[index],
        [pool.names[n] for n in index], pool.ranges, pool.grid,
    )  # fmt: skip


def summarise(rows: Rows) -> None:
    """Means over classes and seeds; intervals over test subjects, with the seeds of each averaged."""
    found = {arm: _by_subject(rows, arm) for arm in ARMS}
    found = {arm: values for arm, values in found.items() if values}
    print("| segmenter | Dice | of that of `real` [%] | worst class |\n|---|---|---|---|")
    for arm, values in found.items():
        mean = np.array([v for _, v in sorted(values.items())])
        own = {c: np.mean([float(r["dice"]) for r in rows if r["arm"] == arm and r["class"] == c])
               for c in CLASS_NAMES[1:]}  # fmt: skip
        worst = min(own, key=lambda c: own[c])
        low, high = bootstrap_interval(np.mean, mean)
        share = ""
        if "real" in found:
            real = np.array([v for _, v in sorted(found["real"].items())])
            a, b = bootstrap_interval(_share, mean, real)
            share = f"{_share(mean, real):.1f} [{a:.1f}, {b:.1f}]"
        print(
            f"| {arm} | {mean.mean():.3f} [{low:.3f}, {high:.3f}] | {share} | {worst} {own[worst]:.3f} |"
        )
    if {"real-ten", "both-ten"} <= set(found):
        seeds = sorted({str(r["seed"]) for r in rows if r["arm"] == "both-ten"})
        gains = [_gain([r for r in rows if str(r["seed"]) == seed]) for seed in seeds]
        gain = np.mean(gains, axis=0)
        low, high = bootstrap_interval(np.mean, gain)
        each = ", ".join(f"{g.mean():+.4f}" for g in gains)
        print(
            f"\nboth-ten minus real-ten: {gain.mean():+.4f} [{low:+.4f}, {high:+.4f}] over subjects; seeds {each}"
        )


def _gain(rows: Rows) -> NDArray:
    """What the volumes add to the ten scans, per test subject."""
    both, real = (_by_subject(rows, arm) for arm in ("both-ten", "real-ten"))
    return np.array([both[name] - real[name] for name in sorted(real)])


def _by_subject(rows: Rows, arm: str) -> dict[str, float]:
    """Mean Dice per test subject."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["arm"] == arm and np.isfinite(float(row["dice"])):
            values.setdefault(str(row["subject"]), []).append(float(row["dice"]))
    return {name: float(np.mean(v)) for name, v in values.items()}


def _share(found: NDArray, real: NDArray) -> float:
    return float(100 * found.mean() / real.mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prepared", metavar="PREPARED")
    parser.add_argument("--model", default="brain2mm", help="name or folder of the model")
    parser.add_argument("--out", type=Path, default=Path("runs/synthetic_use"))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--scans", type=int, default=10, help="of the arms of few scans")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each training")
    parser.add_argument("--report", action="store_true", help="print the tables alone")
    given = parser.parse_args()
    study = Study(given.prepared, given.model, given.out, given.scans, given.steps)
    table = given.out / "synthetic_use.tsv"
    if not given.report:
        for seed in given.seeds:
            for arm in given.arms:
                rows = read_table(table) if table.is_file() else []
                if any(r["arm"] == arm and r["seed"] == str(seed) for r in rows):
                    continue
                made = rows_of(study, arm, seed)
                # Another command may have added rows meanwhile.
                rows = read_table(table) if table.is_file() else []
                write_table(table, [*rows, *made], COLUMNS)
    summarise(read_table(table))


if __name__ == "__main__":
    main()
