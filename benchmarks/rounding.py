"""What it changes to store a model in 8 bits per weight: two copies of one model, asked for the same.

    python benchmarks/rounding.py DS002748 HALF EIGHT          models of vcm upsample, such as brain1mm
    python benchmarks/rounding.py PREPARED HALF EIGHT          models that read eight-class maps, such as brain2mm

HALF and EIGHT are names or folders of models, EIGHT as `vcm weights pack HALF --out EIGHT --bits 8` writes it. Of the
split `test`: each scan cut into axial slices of 4 mm and upsampled with one sample of 5 steps, PSNR in the brain
over the range of its percentiles 0.5 to 99.5; or one volume per map of the first `--limit` subjects, seed 3, how
far the two copies' are apart inside the map, and the Dice to the map that segmenter2mm finds in each.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vcm.errors import VCMWarning
from vcm.imaging.conditions import as_condition
from vcm.imaging.prepared_set import load_prepared
from vcm.imaging.source import find_scans
from vcm.imaging.volume import read_volume
from vcm.metrics import dice, psnr
from vcm.pipeline import VCMPipeline
from vcm.upsampling.simulate import simulate_slices
from vcm.upsampling.upsample import upsample
from vcm.weights.load import load_pipeline
from vcm.weights.segmenter import load_segmenter

Pair = tuple[VCMPipeline, VCMPipeline]


def of_scans(data: Path, pair: Pair) -> Iterator[dict[str, float]]:
    """Change of result and of sample [dB]."""
    for scan in (s for s in find_scans(str(data)) if s.split == "test"):
        whole = read_volume(scan.image)
        brain = whole.data > 0
        low, high = np.percentile(whole.data[brain], [0.5, 99.5])

        def scaled(values: NDArray, low: float = low, high: float = high) -> torch.Tensor:
            unit = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
            return torch.from_numpy(unit)[None, None]

        thick, _ = simulate_slices(whole, "axial", 4.0)
        made = [upsample(thick, p, samples=1, steps=5, like=whole) for p in pair]
        truth, mask = scaled(whole.data), torch.from_numpy(brain)[None, None]
        result = [psnr(scaled(m.volume.data), truth, mask) for m in made]
        sample = [psnr(scaled(m.sample(0).data), truth, mask) for m in made]
        yield {"result": result[1] - result[0], "sample": sample[1] - sample[0]}


def of_maps(data: Path, pair: Pair, limit: int) -> Iterator[dict[str, float]]:
    """How far volumes of the two are apart [dB], under a map and uncontrolled; change of the Dice."""
    segmenter = load_segmenter("segmenter2mm")
    for subject in [s for s in load_prepared(data) if s.split == "test"][:limit]:
        classes = torch.from_numpy(subject.classes())
        condition = torch.from_numpy(as_condition("classes", subject.classes()))[None]
        under, free = (
            [p(given, seed=3, age=40, sex="F").volumes for p in pair]
            for given in ([condition], None)
        )
        inside = (classes > 0)[None, None]
        found = [dice(segmenter.classes(v)[0], classes, 8).nanmean() for v in under]
        yield {
            "apart under the map": psnr(under[0], under[1], inside),
            "apart uncontrolled": psnr(free[0], free[1], inside),
            "dice": float(found[1] - found[0]),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("half")
    parser.add_argument("eight")
    parser.add_argument("--limit", type=int, default=4)
    given = parser.parse_args()
    warnings.simplefilter("ignore", VCMWarning)
    pair = load_pipeline(given.half), load_pipeline(given.eight)
    for pipeline in pair:
        pipeline.use_scheduler("auto")
    reads_slices = list(pair[0].config.conditions) == ["thick"]
    measured = (
        of_scans(given.data, pair) if reads_slices else of_maps(given.data, pair, given.limit)
    )
    rows = []
    for row in measured:
        rows.append(row)
        print(*(f"{name} {value:+.4f}" for name, value in row.items()), flush=True)
    for name in rows[0]:
        values = [row[name] for row in rows]
        print(f"{name}: mean {np.mean(values):+.4f}, {min(values):+.4f} to {max(values):+.4f}")


if __name__ == "__main__":
    main()
