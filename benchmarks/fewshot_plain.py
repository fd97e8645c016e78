"""A plain U-Net of MONAI on a task of `vcm fewshot`: the same shots, patches, loss and training loop.

    VCM_DATA=FOLDER python benchmarks/fewshot_plain.py --task benchmarks/fewshot/masses.yaml --shots 5 --steps 1000 --out OUT

The network has 16, 32, 64 and 128 channels, halves its input at once, and begins with random weights: its steps cost
less than half of those of `scratch`, so give --steps for the budget that is to be the same. A row per draw and
test case in OUT/results.tsv: mean Dice of the classes; CPU seconds of the fits in OUT/costs.tsv. With --lesions it
learns from lesions of one shot in the brain of another too, as `vcm fewshot` does where the task is of lesions.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from monai.networks.nets.unet import UNet
from torch import Tensor, nn
from torch.nn import functional

from vcm.fewshot.cases.preparation import prepare, to_reference
from vcm.fewshot.cases.shots import draw_shots, strata_of
from vcm.fewshot.cases.task_file import read_task
from vcm.fewshot.comparison.metrics import dice
from vcm.fewshot.configuration import NetworkTraining
from vcm.fewshot.methods.model import probabilities
from vcm.fewshot.methods.pool import Pool
from vcm.fewshot.methods.segmentation import examples_of, train_network
from vcm.files import write_table


class PlainUNet(nn.Module):
    """Images (B, C, X, Y, Z) of any size -> logits."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.net = UNet(3, inputs, outputs, (16, 32, 64, 128), (2, 2, 2), num_res_units=2)
        self.settings = {"outputs": outputs}

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    def forward(self, image: Tensor) -> Tensor:
        """Padded to multiples of 8 voxels, and cut again."""
        size = image.shape[2:]
        padded = functional.pad(image, [n for s in size[::-1] for n in (0, -s % 8)])
        return self.net(padded)[..., : size[0], : size[1], : size[2]]


def scores(
    net: PlainUNet, tests: Pool, place: int, spacing: tuple[float, ...], training: NetworkTraining
) -> list[float]:
    """Dice of each class on the voxels of the case."""
    scans, mask = tests.scans(place)
    made = prepare(scans, tests.task.slots, spacing, None, mask)
    with torch.inference_mode():
        image = torch.from_numpy(made.image)[None]
        found = probabilities(
            net,  # type: ignore[arg-type]
            image, training.mirror, training.patch,
        )[0].numpy()  # fmt: skip
    labels = to_reference(found, made)
    truth, _ = tests.true_labels(place)
    return [dice(labels == k, truth == k) for k in range(1, net.settings["outputs"])]


def main() -> None:
    """Fit and measure each draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--task", required=True)
    parser.add_argument("--shots", type=int, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=NetworkTraining.steps)
    parser.add_argument("--patch", type=int, default=NetworkTraining.patch)
    parser.add_argument("--lesions", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    file = read_task(given.task)
    training = NetworkTraining(steps=given.steps, patch=given.patch)
    train = Pool.open(file.train, file.task, file.target, given.out / "cache", {})
    tests = {
        name: Pool.open(source, file.task, file.target, given.out / "cache", {})
        for name, source in file.tests.items()
    }
    labels = list(train.labels)
    rows, costs = [], []
    for seed in range(given.seeds):
        shots = train.subset(
            draw_shots(labels, strata_of(file.task.kind, labels), given.shots, seed)
        )
        started = time.process_time()
        examples, spacing = examples_of(shots)
        set_seed(1000 * seed)
        net = PlainUNet(len(file.task.slots), len(file.task.classes) + 1)
        train_network(
            net, examples, training, given.out / f"seed{seed}", 1000 * seed, given.lesions
        )
        shutil.rmtree(given.out / f"seed{seed}")
        costs.append(
            {
                "seed": seed,
                "steps": given.steps,
                "cpu_seconds": round(time.process_time() - started, 1),
            }
        )
        net.eval()
        for name, pool in tests.items():
            for place, case in enumerate(pool.cases):
                found = np.round(scores(net, pool, place, spacing, training), 5)
                row = {
                    "seed": seed,
                    "test": name,
                    "case": case.name,
                    "dice": round(float(found.mean()), 5),
                }
                rows.append(row | dict(zip(file.task.classes, found, strict=True)))
        write_table(given.out / "results.tsv", rows, list(rows[0]))
        write_table(given.out / "costs.tsv", costs, list(costs[0]))
        mean = np.mean([r["dice"] for r in rows if r["seed"] == seed])
        print(f"draw {seed}: Dice {mean:.3f}, {costs[-1]['cpu_seconds']:.0f} CPU seconds")


if __name__ == "__main__":
    main()
