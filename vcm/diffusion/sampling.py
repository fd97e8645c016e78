"""The denoising loop. Knows t, z_t and diffusers schedulers; nothing of NIfTI or of layers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor

from vcm.errors import VCMError

if TYPE_CHECKING:
    from jaxtyping import Float, Num

#: Schedule of BrainLDM; leading or trailing spacing is each scheduler's own affair.
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0015,
    "beta_end": 0.0205,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "trailing",
}
#: Share of the way that steps may drift from their times.
MOST_DRIFT = 0.02
#: What a scheduler steps with -> name -> (class, options). "flow" is the velocity noise - z.
SCHEDULERS: dict[str, dict[str, tuple[Any, dict[str, Any]]]] = {
    "epsilon": {
        "ddim": (DDIMScheduler, {**SCHEDULE, "clip_sample": False, "set_alpha_to_one": False}),
        "ddpm": (DDPMScheduler, {**SCHEDULE, "clip_sample": False}),
        "dpm++": (DPMSolverMultistepScheduler, SCHEDULE),
        # More of the steps at little noise, where fine detail is made (Karras et al. 2022, equation 5).
        "dpm++-karras": (DPMSolverMultistepScheduler, {**SCHEDULE, "use_karras_sigmas": True}),
        "unipc": (UniPCMultistepScheduler, SCHEDULE),
        "euler": (EulerDiscreteScheduler, SCHEDULE),
    },
    "flow": {
        "flow": (FlowMatchEulerDiscreteScheduler, {"num_train_timesteps": 1000}),
    },
}


def make_scheduler(name: str, **options: Any) -> Any:
    """A diffusers scheduler over the model's schedule; options as its class has them.

    A flow takes `shift`, see `flow_shift`. Raises VCMError for an unknown name.
    """
    known = {n: made for family in SCHEDULERS.values() for n, made in family.items()}
    if name not in known:
        raise VCMError(f"The scheduler '{name}' is unknown: choose {', '.join(known)}.")
    kind, defaults = known[name]
    return kind(**{**defaults, **options})


def check_scheduler(name: str, steps_with: str) -> None:
    """Refuse a scheduler, by its name, that steps with something else than the model predicts.

    Args:
        name: Of SCHEDULERS.
        steps_with: "epsilon" or "flow", as every frozen denoiser states.

    Raises:
        VCMError: They do not fit.
    """
    valid = SCHEDULERS[steps_with]
    if name not in valid:
        raise VCMError(
            f"The scheduler '{name}' does not fit a model whose schedulers step with {steps_with}: "
            f"choose {', '.join(valid)}."
        )


def check_schedule(scheduler: Any, denoiser: Any) -> None:
    """Refuse a scheduler, of whatever origin, that would step wrongly and say nothing.

    Args:
        scheduler: Of diffusers.
        denoiser: The frozen model; `steps_with` and, for epsilon, `alphas_cumprod` are compared.

    Raises:
        VCMError: It steps with something else, over another noise schedule, or clips latents.
    """
    config, name = scheduler.config, type(scheduler).__name__
    betas = getattr(scheduler, "alphas_cumprod", None)
    kind = str(config.get("prediction_type", "epsilon"))
    if betas is None or config.get("use_flow_sigmas") or kind == "flow_prediction":
        kind = "flow"
    remedy = "make it from the model's own, SCHEDULER.from_config(pipeline.scheduler.config)"
    if kind != denoiser.steps_with:
        raise VCMError(
            f"{name} steps with {kind}, but this model's schedulers with {denoiser.steps_with}: "
            f"{remedy}."
        )
    own = getattr(denoiser, "alphas_cumprod", None)
    if own is not None and betas is not None:
        betas = betas.to(own.device, own.dtype)
        if betas.shape != own.shape or not torch.allclose(betas, own, atol=1e-4):
            raise VCMError(
                f"{name} has another noise schedule than the model was trained with: {remedy}."
            )
    if config.get("clip_sample") or config.get("thresholding"):
        raise VCMError(f"{name} clips what it predicts, but latents have no bounds: {remedy}.")


def flow_shift(latent_shape: Sequence[int]) -> float:
    """The `shift` of a flow over latents of that shape (..., x, y, z), s = (x y z / 32^3)^(1/3).

    Larger volumes need more of the noisy steps (Esser et al. 2024, arXiv 2403.03206, section 5.3.2):
    t' = s t / (1 + (s - 1) t), t in 0..1. This s is that of MAISI, by MONAI's RFlowScheduler.
    """
    return (math.prod(latent_shape[-3:]) / 32**3) ** (1 / 3)


def sample(
    predict: Callable[[Float[Tensor, "B C x y z"], Num[Tensor, ""]], Float[Tensor, "B C x y z"]],
    noise: Float[Tensor, "B C x y z"],
    scheduler: Any,
    steps: int,
    generator: torch.Generator | list[torch.Generator] | None = None,
    on_step: Callable[
        [int, Num[Tensor, ""], Float[Tensor, "B C x y z"]], Float[Tensor, "B C x y z"] | None
    ]
    | None = None,
) -> Float[Tensor, "B C x y z"]:
    """Noise becomes latents.

    Args:
        predict: (z_t, t) -> what the scheduler steps with, (B, C, x, y, z).
        noise: (B, C, x, y, z), of unit variance.
        scheduler: Of diffusers, see `check_schedule`.
        steps: Denoising steps; a scheduler of second order predicts twice in all but the last.
        generator: Feeds stochastic schedulers, as diffusers has it.
        on_step: (i, t, z) after prediction i -> z to go on with, or None to leave it.

    Returns:
        (B, C, x, y, z).

    Raises:
        VCMError: ddim would drift from its times in that many steps.
    """
    _set_timesteps(scheduler, steps, noise.device)
    z = noise * getattr(scheduler, "init_noise_sigma", 1.0)
    scaled = getattr(scheduler, "scale_model_input", lambda z, t: z)
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    options = {"generator": generator} if takes_generator and generator else {}
    for i, t in enumerate(scheduler.timesteps):
        output = predict(scaled(z, t), t)
        z = scheduler.step(output, t, z, **options, return_dict=False)[0]
        if on_step is not None:
            replaced = on_step(i, t, z)
            z = z if replaced is None else replaced
    return z


def _set_timesteps(scheduler: Any, steps: int, device: torch.device) -> None:
    """Steps of a flow begin at 1 - i / N, as MONAI has them, before the shift.

    Left to itself, diffusers shifts its last step twice, to next to nothing, and spends one of N
    there. MONAI in turn rounds times to half precision and steps on to the whole part of the next:
    1 % too far in 30 steps. Here they are exact.

    DDIM steps back by the whole part of 1000 / N, whatever its next timestep is; where that is not
    a whole number, trailing steps drift from their times: by 1000 mod N, for N = 300 a tenth of
    the way.
    """
    trailing = getattr(scheduler.config, "timestep_spacing", None) == "trailing"
    times = getattr(scheduler.config, "num_train_timesteps", 1000)
    if not 1 <= steps <= times:
        raise VCMError(f"{steps} steps: the model has {times}, choose 1 to {times}.")
    if isinstance(scheduler, DDIMScheduler) and trailing and times % steps > MOST_DRIFT * times:
        near = [n for n in range(1, times + 1) if times % n == 0]
        low, high = max(n for n in near if n < steps), min(n for n in near if n > steps)
        raise VCMError(
            f"ddim cannot take {steps} steps, which drift from the {times} of training: choose {low} or "
            f"{high}, or another scheduler such as dpm++."
        )
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        scheduler.set_timesteps(sigmas=[1 - i / steps for i in range(steps)], device=device)
    else:
        scheduler.set_timesteps(steps, device=device)
