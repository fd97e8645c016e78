"""The denoising loop. Knows t, z_t and diffusers schedulers; nothing of NIfTI or of layers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from vcm.errors import VCMError

#: Schedule of BrainLDM; leading or trailing spacing is each scheduler's own affair.
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0015,
    "beta_end": 0.0205,
    "beta_schedule": "scaled_linear",
}
SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}),
    "ddpm": (DDPMScheduler, {"clip_sample": False}),
    "dpm++": (DPMSolverMultistepScheduler, {}),
    "unipc": (UniPCMultistepScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
}


def make_scheduler(name: str) -> Any:
    """A diffusers scheduler over the model's schedule, predicting epsilon. Raises VCMError."""
    if name not in SCHEDULERS:
        raise VCMError(f"The scheduler '{name}' is unknown: choose {', '.join(SCHEDULERS)}.")
    kind, options = SCHEDULERS[name]
    return kind(**SCHEDULE, timestep_spacing="trailing", **options)


def sample(
    predict: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    scheduler: Any,
    steps: int,
    generator: torch.Generator | list[torch.Generator] | None = None,
    on_step: Callable[[int, Tensor, Tensor], Tensor | None] | None = None,
) -> Tensor:
    """Unit noise (B, C, x, y, z) -> latents, by `steps` of the scheduler on predict(z_t, t).

    `generator` feeds stochastic schedulers, as diffusers has it. `on_step(i, t, z)` may replace z.
    """
    scheduler.set_timesteps(steps, device=noise.device)
    z = noise * scheduler.init_noise_sigma
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    options = {"generator": generator} if takes_generator and generator else {}
    for i, t in enumerate(scheduler.timesteps):
        epsilon = predict(scheduler.scale_model_input(z, t), t)
        z = scheduler.step(epsilon, t, z, **options, return_dict=False)[0]
        if on_step is not None:
            replaced = on_step(i, t, z)
            z = z if replaced is None else replaced
    return z
