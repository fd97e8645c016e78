"""The batches that the objectives of latent networks take: what each tensor is, and its axes.

B samples, C channels of a latent of x, y, z positions, K numbers that the denoiser is told. A
DataLoader that yields them can train, see vcm.learning.run.TrainingRun.fit.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class LatentBatch(NamedTuple):
    """What the diffusion model learns from.

    Attributes:
        z: Latents as the autoencoder encodes them, standardised (B, C, x, y, z).
        noise: Unit normal, of the same shape.
        time: Of the noising, 0 (none) to 1 (noise alone) (B,).
        inputs: What the denoiser is told, as vcm.inputs.scan_inputs makes it (B, K).
    """

    z: Tensor
    noise: Tensor
    time: Tensor
    inputs: Tensor


class ModuleBatch(NamedTuple):
    """What a control method learns from: B conditions, each with R draws of latent, noise and time.

    Attributes:
        conditions: One behind the other along the channels, in the order of the module's encoders,
            on the model's grid (B, sum of channels, X, Y, Z); channels by condition are in
            vcm.imaging.conditions.CONDITION_CHANNELS.
        z: Latents, as in LatentBatch (B, R, C, x, y, z).
        noise: Unit normal, of the same shape.
        time: 0..1 (B, R).
        inputs: (B, K).
        keep: Whether the module sees each condition of each sample; at least one (B, conditions),
            bool.
    """

    conditions: Tensor
    z: Tensor
    noise: Tensor
    time: Tensor
    inputs: Tensor
    keep: Tensor
