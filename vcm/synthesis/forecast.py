"""Forecast: what a synthesis will take, from two denoising steps and a fraction of the decoding.

Decoding is linear in the planes of the latent, in time and in memory, whole or in slabs, and so is halving
the voxels in the planes of the volume. Two thin pieces tell the line; the whole volume is never made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vcm.cost import Cost, measure, measuring
from vcm.nets.slabs import SlabDecoding
from vcm.pipeline import VCMPipeline

#: Fractions of the planes that are made to find the line.
_PIECES = (0.1, 0.25)
#: The network that halves voxels reads planes by so many.
_BLOCK = 4
#: What is not done.
NOTHING = Cost(0.0, 0.0)


@dataclass(frozen=True)
class Forecast:
    """Of one volume. encode: the conditions; first, step: denoising steps; decode: the latent; halve: its voxels."""

    encode: Cost
    first: Cost
    step: Cost
    decode: Cost
    halve: Cost

    def seconds(self, steps: int, volumes: int) -> float:
        """Of the whole run [s]; conditions are encoded once, and only the first step is cold."""
        each = steps * self.step.seconds + self.decode.seconds + self.halve.seconds
        cold = self.encode.seconds + self.first.seconds - self.step.seconds
        return max(cold, 0.0) + volumes * each

    @property
    def memory(self) -> float:
        """Peak of the whole run [bytes]."""
        parts = (self.encode, self.first, self.step, self.decode, self.halve)
        return max(part.memory for part in parts)


@torch.inference_mode()
def forecast(
    pipeline: VCMPipeline,
    conditions: list[Tensor | None] | None,
    inputs: Tensor,
    precision: str,
    finer: bool = False,
) -> Forecast:
    """Run the pieces and measure them. Arguments as VCMPipeline has them; finer: voxels are halved."""
    device = pipeline.device
    features: list[Tensor | None] = [None]
    encode = measure(device, lambda: features.append(pipeline.encode(conditions)))
    costs: list[Cost] = []
    with measuring(device) as lap:

        def step(*_: Any) -> dict[str, Any]:
            costs.append(lap())
            return {}

        z = pipeline(
            features=features[-1],
            covariates=inputs,
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(0),
            precision=precision,
            callback_on_step_end=step,
            output_type="latent",
        ).volumes
    halve = _halving(pipeline) if finer else NOTHING
    return Forecast(encode, costs[0], costs[1], _decoding(pipeline.autoencoder, z), halve)


def _decoding(autoencoder: Any, z: Tensor) -> Cost:
    """Of an autoencoder that can decode in slabs, from pieces; others are small, and decode the whole."""
    in_slabs = isinstance(autoencoder, SlabDecoding)
    if not in_slabs:
        return measure(z.device, lambda: autoencoder.decode(z))
    return _along_planes(
        lambda count: autoencoder.run_decoder(autoencoder.net, z[:, :, :count]),
        z.shape[2],
        z.device,
    )


def _halving(pipeline: VCMPipeline) -> Cost:
    shape = pipeline.volume_grid.shape
    return _along_planes(
        lambda count: pipeline.halve_voxels(np.ones((count, *shape[1:]), np.float32)),
        shape[0], pipeline.device, _BLOCK,
    )  # fmt: skip


def _along_planes(
    make: Callable[[int], object], planes: int, device: torch.device, block: int = 1
) -> Cost:
    """Straight line through the making of two pieces, at all planes.

    Args:
        make: Makes so many planes, a multiple of `block`.
        planes: All of them.
        device: That makes them.
        block: Planes that are made together.
    """
    blocks = planes / block
    thin, thick = (block * max(round(part * blocks), 1 + n) for n, part in enumerate(_PIECES))
    # The first piece of a process is slower: libraries choose and prepare their kernels.
    make(block)
    few, more = (measure(device, partial(make, count)) for count in (thin, thick))
    share = (planes - thick) / (thick - thin)
    memory = more.memory + share * max(more.memory - few.memory, 0.0)
    return Cost(more.seconds * planes / thick, memory)
