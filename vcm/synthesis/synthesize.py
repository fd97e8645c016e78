"""Synthesize: a condition becomes volumes that obey it, on the condition's own voxels.

Read and align the condition, resolve the model's inputs, encode the condition once, denoise one latent
per seed, decode, bring each volume back, and write it with all that repeats it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from vcm.cost import peak_memory
from vcm.errors import VCMError
from vcm.files import sha256, synthetic_mark
from vcm.imaging.placing import PlacedCondition, place_label_map, place_partial, unconditioned
from vcm.inputs import InputRequest, ModelInput, Outside, in_words, network_inputs, resolve_inputs
from vcm.pipeline import VCMPipeline, choose_device, draw_volume, sampling_record
from vcm.precision import check_precision
from vcm.report.picture import outlined
from vcm.report.synthetic import stem_of, write_synthetic
from vcm.synthesis.configuration import Synthesis
from vcm.synthesis.forecast import forecast
from vcm.weights.load import load_pipeline


@dataclass(frozen=True)
class Plan:
    """Everything decided before the first step."""

    config: Synthesis
    pipeline: VCMPipeline
    place: PlacedCondition
    inputs: dict[str, ModelInput]
    device: torch.device

    @property
    def steered(self) -> bool:
        """Whether the module acts."""
        return not self.config.uncontrolled and bool(self.config.condition or self.config.partial)

    @property
    def temperature(self) -> float:
        """Scale of the noise to begin with."""
        own = self.config.temperature
        return float(self.pipeline.config.temperature if own is None else own)

    @property
    def steps(self) -> int:
        """Denoising steps: those asked for, else the model's own."""
        return self.config.steps or self.pipeline.recommended_steps

    @cached_property
    def features(self) -> Tensor | None:
        """The conditions, encoded once for all seeds; None where the module does not act."""
        return self.pipeline.encode(self.conditions())

    def conditions(self) -> list[Tensor | None] | None:
        """Volumes (1, C, X, Y, Z) that the module reads, in its order; None: absent, or not steered."""
        if not self.steered:
            return None
        given = self.place.conditions(self.pipeline.config.conditions)
        return [None if c is None else torch.from_numpy(c)[None] for c in given]

    @property
    def stem(self) -> str:
        """First part of every file name."""
        return stem_of(self.config.condition or self.config.partial)


def synthesize(config: Synthesis, command: list[str], console: Console) -> list[Path]:
    """Write one volume per seed; returns their paths. Raises VCMError before anything is written."""
    plan = resolve(config)
    record = _record(plan, command)
    written, shown = [], []
    started = time.monotonic()
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("Synthesizing", total=plan.steps * len(config.seeds))
        for seed in config.seeds:
            image = sample_volume(plan, seed, lambda: bar.advance(task))
            shown.append(image)
            written.append(_write(plan, seed, image, record))
    titles = [f"synthetic, seed {seed}" for seed in config.seeds]
    outlined(
        shown, plan.place.classes, config.out / f"{plan.stem}_desc-synthetic_mosaic.png", titles
    )
    seconds, peak = time.monotonic() - started, peak_memory(plan.device) / 1e9
    console.print(f"{len(written)} volume(s) in {seconds:.0f} s, at most {peak:.1f} GB of memory.")
    return written


def resolve(config: Synthesis) -> Plan:
    """Load the model and the condition, check every value. Raises VCMError."""
    _check(config)
    pipeline = load_pipeline(config.model)
    _check_reads(config, pipeline)
    recommended = pipeline.config.sampling.get("scheduler", "saved")
    scheduler = recommended if config.scheduler == "auto" else config.scheduler
    if scheduler != "saved":
        pipeline.use_scheduler(scheduler)
    device = choose_device(config.device)
    pipeline.to(device)
    grid = pipeline.volume_grid
    condition = config.condition
    place = place_label_map(condition, config.labels, grid) if condition else unconditioned(grid)
    if config.partial and config.known:
        place = place_partial(config.partial, config.known, place)
    request = InputRequest(
        config.age, config.sex, config.ventricular_volume, config.brain_volume, config.contrast
    )
    outside: Outside = "keep" if config.allow_extrapolation else "refuse"
    inputs = resolve_inputs(pipeline.input_rule, request, place.volumes, outside)
    return Plan(config, pipeline, place, inputs, device)


def sample_volume(plan: Plan, seed: int, on_step: Callable[[], None]) -> NDArray[np.float32]:
    """One volume (X, Y, Z) on the model's grid, 0..1; the noise depends on the seed alone."""
    config = plan.config
    return draw_volume(
        plan.pipeline,
        plan.features,
        network_inputs(plan.pipeline.input_rule, plan.inputs),
        seed,
        plan.steps,
        on_step,
        precision=config.precision,
        temperature=config.temperature,
        conditioning_scale=config.conditioning_scale,
        control_guidance_start=config.control_guidance_start,
        control_guidance_end=config.control_guidance_end,
    )


def describe(plan: Plan) -> dict[str, str]:
    """The plan in words, with time and memory forecast from a fraction of the work."""
    config, placement = plan.config, plan.place.placement
    inputs = network_inputs(plan.pipeline.input_rule, plan.inputs)
    cost = forecast(plan.pipeline, plan.conditions(), inputs, config.precision)
    seconds = cost.seconds(plan.steps, len(config.seeds))
    act = f"{config.control_guidance_start:g} to {config.control_guidance_end:g} of the steps"
    steered = f"scale {config.conditioning_scale:g}, {act}" if plan.steered else "not steered"
    labels = f", labels {plan.place.vocabulary}" if plan.place.vocabulary else ""
    sizes = " x ".join(f"{s:.3g}" for s in placement.target.spacing)
    return {
        "model": f"{config.model}, {' x '.join(map(str, placement.model.shape))} on {plan.device}",
        "condition": f"{config.condition or config.partial or 'none'}{labels}; {steered}",
        "result": f"{placement.target.shape} of {sizes} mm, {placement.target.orientation}",
        **in_words(plan.inputs),
        "seeds": ", ".join(map(str, config.seeds)),
        "sampling": f"{type(plan.pipeline.scheduler).__name__}, {plan.steps} steps, temperature "
        f"{plan.temperature:g}, {config.precision}",
        "expected time": f"{seconds:.0f} s for {len(config.seeds)} volume(s): {cost.encode.seconds:.1f} s "
        f"to encode, {cost.step.seconds:.2f} s per step, {cost.decode.seconds:.1f} s to decode",
        "expected memory": f"{cost.memory / 1e9:.1f} GB",
    }


def _check_reads(config: Synthesis, pipeline: VCMPipeline) -> None:
    """Refuse with VCMError a condition that the module does not read."""
    given = config.condition or config.partial
    if given is None or config.uncontrolled:
        return
    if pipeline.module is None:
        raise VCMError(
            f"The model {config.model} has no module, so it cannot obey {given.name}: train one with "
            "vcm train, or add --uncontrolled."
        )
    reads = set(pipeline.config.conditions)
    wrong = (config.partial if "partial" not in reads else None) or (
        config.condition if reads.isdisjoint({"classes", "ventricles"}) else None
    )
    if wrong is not None:
        raise VCMError(
            f"The module of {config.model} reads {', '.join(sorted(reads))}, which {wrong.name} is not "
            "given for: give what it reads, or another model."
        )


def _check(config: Synthesis) -> None:
    start, end = config.control_guidance_start, config.control_guidance_end
    if not (config.condition or config.partial or config.uncontrolled):
        raise VCMError("No condition is given: add the path of a label map, or --uncontrolled.")
    if (config.partial is None) != (config.known is None):
        raise VCMError(
            "--partial and --known go together: the image, and a mask that is 1 where it is known."
        )
    check_precision(config.precision)
    if config.steps is not None and not 1 <= config.steps <= 1000:
        raise VCMError(f"--steps is {config.steps}: the model has 1000, choose 1 to 1000.")
    if not 0 <= start <= end <= 1:
        raise VCMError(
            f"The module is to act from {start:g} to {end:g} of the steps: choose fractions with "
            "0 <= start <= end <= 1."
        )
    if config.temperature is not None and not 0 <= config.temperature <= 2:
        raise VCMError(f"--temperature is {config.temperature}: choose 0 to 2; 1 is plain noise.")
    if not np.isfinite(config.conditioning_scale):
        raise VCMError(f"--conditioning-scale is {config.conditioning_scale}: choose a number.")


def _write(plan: Plan, seed: int, image: NDArray[np.float32], record: dict[str, Any]) -> Path:
    config, placement = plan.config, plan.place.placement
    record = record | {"Seed": seed}
    mark = f"seed-{seed}"
    return write_synthetic(image, placement, config.out, plan.stem, mark, record, config.model_grid)


def _record(plan: Plan, command: list[str]) -> dict[str, Any]:
    config = plan.config
    return {
        **synthetic_mark(),
        "Command": command,
        "Condition": config.condition.name if config.condition else None,
        "ConditionSHA256": sha256(config.condition) if config.condition else None,
        "Partial": config.partial.name if config.partial else None,
        "PartialSHA256": sha256(config.partial) if config.partial else None,
        "KnownSHA256": sha256(config.known) if config.known else None,
        **sampling_record(
            plan.pipeline,
            plan.place,
            plan.inputs,
            plan.steered,
            plan.steps,
            config.precision,
            plan.temperature,
            config.conditioning_scale,
            (config.control_guidance_start, config.control_guidance_end),
        ),
    }
