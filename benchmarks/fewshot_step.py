"""CPU seconds of one training step of a label map's networks in `vcm fewshot`, and of a plain U-Net of MONAI, in turn.

    OMP_NUM_THREADS=1 python benchmarks/fewshot_step.py --inputs 4 --classes 3

`scratch` computes at full resolution first; `untrained`, as an encoder of `vcm pretrain encoder`, folds blocks of 2 x 2 x 2 voxels.
Two patches of 64 voxels of noise, as many sequences as --inputs: drawing them, forward and backward, without the optimiser. The networks
take turns, so that a busy machine slows all of them alike. Prints the median of each and its ratio to `scratch`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
from fewshot_plain import PlainUNet
from torch import nn

from vcm.fewshot.cases.tasks import SEQUENCES
from vcm.fewshot.configuration import NetworkTraining
from vcm.fewshot.methods.network import FewShotUNet
from vcm.fewshot.methods.parents import untrained_encoder
from vcm.fewshot.methods.segmentation import SegmentationObjective, start_network
from vcm.fewshot.methods.shot_patches import Example, PatchSampler
from vcm.nets.memory_format import channels_last

SHAPE = (144, 176, 144)


def brain(inputs: int, classes: int) -> Example:
    """Noise, with a cube of each class."""
    labels = np.zeros(SHAPE, np.uint8)
    for k in range(1, classes + 1):
        labels[60 + 8 * k : 66 + 8 * k, 60:80, 60:80] = k
    image = torch.rand(inputs, *SHAPE, generator=torch.manual_seed(0))
    return Example(image, torch.from_numpy(labels)[None], np.argwhere(labels > 0))


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    """Time the networks in turn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=1)
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=True)
    given = parser.parse_args()
    outputs = given.classes + 1
    slots = SEQUENCES[: given.inputs]
    nets: dict[str, nn.Module] = {
        "scratch": FewShotUNet(given.inputs, outputs),
        "untrained": start_network(untrained_encoder(), slots, outputs),
    }
    for net in nets.values():
        channels_last(net)
    nets["plain"] = PlainUNet(given.inputs, outputs)
    sampler = PatchSampler([brain(given.inputs, given.classes)], NetworkTraining())

    def step(net: nn.Module, seed: int) -> None:
        batch = sampler.draw(np.random.default_rng(seed))
        with torch.autocast("cpu", torch.bfloat16) if given.bfloat16 else nullcontext():
            loss = SegmentationObjective(net)(batch)["loss"]
        loss.backward()

    times: dict[str, list[float]] = {name: [] for name in nets}
    for turn in range(given.rounds + 1):
        for name, net in nets.items():
            spent = seconds(partial(step, net, turn))
            if turn:  # the first is slower
                times[name].append(spent)
    middle = {name: float(np.median(values)) for name, values in times.items()}
    for name, value in middle.items():
        print(f"{name:14s} {value:.3f} s, {value / middle['scratch']:.2f} of scratch")


if __name__ == "__main__":
    main()
