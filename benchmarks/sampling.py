"""What a scheduler, its steps, a temperature and a strength of the module make of a model, on held-out training subjects.

    python benchmarks/sampling.py PREPARED --settings dpm++,20,1 dpm++-karras,20,0.65,1.25 --subjects 5

PREPARED is a folder of `vcm prepare`, or a pack of `train_slice.py`; its subjects held out of the training are the ones
to choose on, never those of the split test. Prints for each setting (scheduler, steps, temperature and, if it is not 1,
the module's strength), under the map and uncontrolled: power by spatial frequency over that of the subject's scan, the mean and the least share of the Dice that
the segmenter reaches on the scan, PSNR in the brain [dB], KID against the training scans, seconds.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from numpy.typing import NDArray

from vcm.evaluation.measures import realism
from vcm.imaging.conditions import one_hot
from vcm.imaging.scan_pool import load_pool
from vcm.imaging.spectrum import band_names, power_ratio
from vcm.imaging.vocabulary import NUMBER_OF_CLASSES
from vcm.metrics import dice, psnr
from vcm.weights.load import load_pipeline
from vcm.weights.segmenter import load_segmenter


def main() -> None:
    """Sample each setting and print a row for each arm."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prepared")
    parser.add_argument("--model", default="brain2mm")
    parser.add_argument("--segmenter", default="segmenter2mm")
    parser.add_argument(
        "--settings", nargs="+", required=True, help="scheduler,steps,temperature[,scale]"
    )
    parser.add_argument("--subjects", type=int, default=5)
    given = parser.parse_args()
    torch.set_flush_denormal(True)
    held_out, train = (load_pool([given.prepared], split) for split in ("validation", "train"))
    pipeline, segmenter = load_pipeline(given.model), load_segmenter(given.segmenter)
    pipeline.set_progress_bar_config(disable=True)

    def features(volume: torch.Tensor) -> NDArray[np.float64]:
        return segmenter.features(volume)[0].double().numpy()

    print(held_out.names[: given.subjects], *band_names(), sep="\t")
    with torch.inference_mode():
        reference = np.stack([features(scan[None]) for scan in train.scans()[::2]])
        for setting in given.settings:
            name, steps, temperature, *scale = setting.split(",")
            pipeline.use_scheduler(name)
            rows: dict[str, list[list[float]]] = {"under the map": [], "uncontrolled": []}
            found: dict[str, list[NDArray]] = {arm: [] for arm in rows}
            began = time.monotonic()
            for k in range(given.subjects):
                real, classes = held_out.scans()[k : k + 1], held_out.classes[k]
                ceiling = dice(segmenter.classes(real)[0], classes, NUMBER_OF_CLASSES)
                told = held_out.covariates(torch.tensor([k]), classes[None, None]).clamp(0, 1)
                condition = torch.from_numpy(one_hot(classes.numpy()))[None]
                for arm, given_map in zip(rows, (condition, None), strict=True):
                    volume = pipeline(
                        given_map, told, num_inference_steps=int(steps),
                        temperature=float(temperature), conditioning_scale=float(*scale or [1]),
                        generator=[torch.Generator().manual_seed(k)],
                    ).volumes  # fmt: skip
                    named = dice(segmenter.classes(volume)[0], classes, NUMBER_OF_CLASSES)
                    share = (named / ceiling).numpy()
                    power = power_ratio(
                        volume[0, 0].numpy(), real[0, 0].numpy(), held_out.grid.spacing
                    )
                    near = float(psnr(volume, real, real > 0))
                    rows[arm].append([*power, share.mean(), share.min(), near])
                    found[arm].append(features(volume))
            seconds = time.monotonic() - began
            kid = realism(reference, {arm: np.stack(f) for arm, f in found.items()}, 0)
            for (arm, values), row in zip(rows.items(), kid, strict=True):
                mean = [f"{v:.3f}" for v in np.mean(values, 0)]
                distance = "n/a" if row["kid"] is None else f"{row['kid']:.2f}"
                print(setting, arm, *mean, f"KID {distance}", f"{seconds:.0f} s", sep="\t")


if __name__ == "__main__":
    main()
