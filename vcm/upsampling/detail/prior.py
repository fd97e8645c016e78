"""What the frozen model, steered by thick slices, says of the brain: its expectation, and samples.

Tensors and arrays on the model's grid. Knows nothing of the scan's own space, or of files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vcm.errors import VCMError
from vcm.pipeline import VCMPipeline, draw_volume


def refuse_unfit(pipeline: VCMPipeline, name: str = "this model") -> None:
    """Raise VCMError for a model whose module does not read thick slices."""
    if list(pipeline.config.conditions) != ["thick"] or pipeline.module is None:
        raise VCMError(
            f"The module of {name} expects {', '.join(pipeline.config.conditions) or 'nothing'}, "
            "not thick slices: give a model trained with conditions=[thick], such as brain1mm."
        )


def expected_brain(
    pipeline: VCMPipeline, features: Tensor | None, inputs: Tensor, precision: str
) -> NDArray[np.float32]:
    """What the steered model expects of z_0 where z_t is noise alone, E[z_0 | slices], decoded.

    One step from the middle of the noise, which is 0. It errs less than the mean of a few samples
    and costs a tenth of one.

    Args:
        pipeline: A model whose module reads thick slices.
        features: Of the slices, as `pipeline.encode` gives them.
        inputs: (1, K) as vcm.inputs.network_inputs gives them.
        precision: float32 or bfloat16 of the denoising.

    Returns:
        (X, Y, Z) on the model's grid, 0..1.
    """
    with _fast_scheduler(pipeline):
        return draw_volume(
            pipeline, features, inputs, 0, 1, lambda: None, temperature=0.0, precision=precision
        )


def sample_brain(
    pipeline: VCMPipeline,
    features: Tensor | None,
    inputs: Tensor,
    precision: str,
    seed: int,
    steps: int,
    on_step: Callable[[int], None],
) -> NDArray[np.float32]:
    """One sample (X, Y, Z) on the model's grid, 0..1.

    Args:
        pipeline: As `expected_brain` has it, as the next three.
        features: Of the slices.
        inputs: (1, K) what the model is told.
        precision: Of the denoising.
        seed: Of the noise.
        steps: Of the denoising.
        on_step: Called with the steps that are done.
    """
    done = count(1)
    with _fast_scheduler(pipeline):
        return draw_volume(
            pipeline, features, inputs, seed, steps, lambda: on_step(next(done)),
            precision=precision,
        )  # fmt: skip


def encode_slices(pipeline: VCMPipeline, condition: NDArray[np.float32]) -> Tensor | None:
    """Features of thick slices (2, X, Y, Z) on the model's grid."""
    return pipeline.encode([torch.from_numpy(condition)[None]])


@contextmanager
def _fast_scheduler(pipeline: VCMPipeline) -> Iterator[None]:
    """Few steps suffice with DPM-Solver++; the pipeline's own scheduler comes back."""
    its_own = pipeline.scheduler
    pipeline.use_scheduler("dpm++" if pipeline.denoiser.steps_with == "epsilon" else "flow")
    try:
        yield
    finally:
        pipeline.scheduler = its_own
