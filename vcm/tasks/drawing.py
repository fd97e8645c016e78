"""Draw one volume from a pipeline, on a device that is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vcm.errors import VCMError
from vcm.pipeline import VCMPipeline


@torch.inference_mode()
def draw_volume(
    pipeline: VCMPipeline,
    features: Tensor | None,
    inputs: Tensor,
    seed: int,
    steps: int,
    on_step: Callable[[], None],
    **options: Any,
) -> NDArray[np.float32]:
    """One volume (X, Y, Z) on the model's grid, 0..1; the noise depends on the seed alone.

    `options` as a call of the pipeline has them.
    """

    def step(*_: Any) -> dict[str, Any]:
        on_step()
        return {}

    result = pipeline(
        features=features,
        covariates=inputs,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(seed),
        callback_on_step_end=step,
        output_type="np",
        **options,
    )
    return np.asarray(result.volumes[0, 0], dtype=np.float32)


def choose_device(name: str) -> torch.device:
    """auto: a GPU where there is one. Raises VCMError for a device that is not there."""
    torch.set_flush_denormal(True)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise VCMError(
            f"The device '{name}' cannot be used ({str(error).splitlines()[0]}): choose cpu or auto."
        ) from error
    return torch.device(name)
