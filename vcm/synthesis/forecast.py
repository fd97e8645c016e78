"""Forecast: what a synthesis will take, from two denoising steps and a fraction of the decoding.

Decoding is linear in the planes of the latent, in time and in memory, whole or in slabs. Two thin
pieces tell the line; the whole volume is never decoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vcm.cost import Cost, measure, measuring
from vcm.pipeline import VCMPipeline

#: Fractions of the latent's planes that are decoded to find the line.
_PIECES = (0.1, 0.25)


@dataclass(frozen=True)
class Forecast:
    """Of one volume. encode: the conditions; first, step: denoising steps; decode: the latent."""

    encode: Cost
    first: Cost
    step: Cost
    decode: Cost

    def seconds(self, steps: int, volumes: int) -> float:
        """Of the whole run [s]; conditions are encoded once, and only the first step is cold."""
        each = steps * self.step.seconds + self.decode.seconds
        cold = self.encode.seconds + self.first.seconds - self.step.seconds
        return max(cold, 0.0) + volumes * each

    @property
    def memory(self) -> float:
        """Peak of the whole run [bytes]."""
        return max(part.memory for part in (self.encode, self.first, self.step, self.decode))


@torch.inference_mode()
def forecast(
    pipeline: VCMPipeline, conditions: list[Tensor | None] | None, inputs: Tensor, precision: str
) -> Forecast:
    """Run the pieces and measure them. Arguments as VCMPipeline has them."""
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
    return Forecast(encode, costs[0], costs[1], _decoding(pipeline.autoencoder, z))


def _decoding(autoencoder: Any, z: Tensor) -> Cost:
    """Straight line through two pieces, at all planes."""
    planes = z.shape[2]
    thin, thick = (max(round(part * planes), 1 + n) for n, part in enumerate(_PIECES))
    # The first decoding of a process is slower: libraries choose and prepare their kernels.
    autoencoder.run_decoder(autoencoder.net, z[:, :, :1])

    def decode(count: int) -> Cost:
        return measure(z.device, lambda: autoencoder.run_decoder(autoencoder.net, z[:, :, :count]))

    few, more = decode(thin), decode(thick)
    share = (planes - thick) / (thick - thin)
    memory = more.memory + share * max(more.memory - few.memory, 0.0)
    return Cost(more.seconds * planes / thick, memory)
