"""Synthesize: a condition becomes volumes that obey it, on the condition's own voxels.

Read and align the condition, resolve the model's inputs, encode the condition once, denoise one latent
per seed, decode, bring each volume back, and write it with all that repeats it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vcm.device import choose_device
from vcm.diffusion.steering import acts
from vcm.errors import VCMError, VCMWarning
from vcm.files import check_output, refuse_to_replace, sha256, synthetic_mark
from vcm.imaging.nifti import refuse_missing
from vcm.imaging.placing import PlacedCondition, place_label_map, place_partial, unconditioned
from vcm.imaging.volume import read_volume, write_volume
from vcm.inputs import InputRequest, ModelInput, Outside, in_words, network_inputs, resolve_inputs
from vcm.pipeline import VCMPipeline, draw_volume
from vcm.precision import check_precision
from vcm.report.folder import write_report
from vcm.report.picture import on_voxels_of, outlined
from vcm.report.sampled import sampling_record
from vcm.report.synthetic import file_names, stem_of, write_synthetic
from vcm.synthesis.configuration import Synthesis
from vcm.synthesis.forecast import forecast
from vcm.synthesis.page import synthesis_page
from vcm.weights.load import load_pipeline

#: Called with the denoising steps that are done, and how many there are.
OnStep = Callable[[int, int], None]
#: Volumes in the picture; of more seeds the first. A row takes a second to draw.
SHOWN = 8
#: Seeds are whole numbers below this.
MOST_SEED = 2**63
#: Bytes per voxel of a compressed volume, at most; for the check that the disk has room.
BYTES = 4


@dataclass(frozen=True)
class Plan:
    """Everything decided before the first step; the values are those of a call of the pipeline.

    Attributes:
        pipeline: On its device, with the scheduler to sample with.
        placed: The condition on the model's grid, and the way back.
        inputs: What the model is told, and where each value comes from.
        steered: Whether the module is given conditions.
        steps: Of the denoising.
        precision: Of the denoising.
        temperature: Scale of the initial noise.
        conditioning_scale: Strength of the module.
        window: Fractions of the steps between which the module acts.
        finer: Whether the volumes are given half the voxel size.
    """

    pipeline: VCMPipeline
    placed: PlacedCondition
    inputs: dict[str, ModelInput]
    steered: bool
    steps: int
    precision: str
    temperature: float
    conditioning_scale: float
    window: tuple[float, float]
    finer: bool

    @property
    def is_steered(self) -> bool:
        """Whether the module acts in any step."""
        return self.steered and acts(self.conditioning_scale, self.window, self.steps)

    @cached_property
    def features(self) -> Tensor | None:
        """The conditions, encoded once for all seeds; None where the module does not act."""
        return self.pipeline.encode(self.conditions())

    @cached_property
    def inside(self) -> Tensor | None:
        """Where the label map has brain, see VCMPipeline.outline."""
        return self.pipeline.outline(self.conditions())

    def conditions(self) -> list[Tensor | None] | None:
        """Volumes (1, C, X, Y, Z) that the module reads, in its order; None: absent, or not steered."""
        if not self.steered:
            return None
        given = self.placed.conditions(self.pipeline.config.conditions)
        return [None if c is None else torch.from_numpy(c)[None] for c in given]

    def sample(self, seed: int, on_step: Callable[[int], None]) -> NDArray[np.float32]:
        """One volume (X, Y, Z) on the model's grid, 0..1; the noise depends on the seed alone."""
        done = count(1)
        return draw_volume(
            self.pipeline,
            self.features,
            network_inputs(self.pipeline.input_rule, self.inputs),
            seed,
            self.steps,
            lambda: on_step(next(done)),
            precision=self.precision,
            temperature=self.temperature,
            conditioning_scale=self.conditioning_scale,
            control_guidance_start=self.window[0],
            control_guidance_end=self.window[1],
            inside=self.inside,
        )

    def halved(self, image: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """A sample at half the voxel size, where it is to be written so; or None."""
        return self.pipeline.halve_voxels(image) if self.finer else None

    def record(self) -> dict[str, Any]:
        """How volumes are sampled, as their sidecars say it."""
        return sampling_record(
            self.pipeline,
            self.placed,
            self.inputs,
            self.is_steered,
            self.steps,
            self.precision,
            self.temperature,
            self.conditioning_scale,
            self.window,
            self.finer,
        )


def synthesize_files(
    config: Synthesis, command: Sequence[str] = (), on_step: OnStep = lambda done, total: None
) -> list[Path]:
    """Write one volume per seed, each as soon as it is made, a picture of the first, and a page.

    Args:
        config: What the user chose.
        command: What the sidecars give as the command that made them.
        on_step: Called with the denoising steps that are done, and how many there are.

    Returns:
        Paths of the volumes, in the order of the seeds.

    Raises:
        VCMError: Something cannot be used; before anything is written.
    """
    # Check all that can be checked before the first step of work.
    check_settings(config)
    out, stem = config.out, stem_of(config.condition or config.partial)
    check_output(out)
    read = [path for path in (config.condition, config.partial, config.known) if path]
    sources = _sources(config.condition, config.partial, config.known)
    picture = out / f"{stem}_desc-synthetic_mosaic.png"
    brain_file = out / f"{stem_of(config.partial)}_desc-brain_mask.nii.gz"

    def refuse_replacing(seeds: Sequence[int]) -> None:
        for seed in seeds:
            names = file_names(stem, f"seed-{seed}", config.model_grid)
            outputs = [out / name for name in names]
            refuse_to_replace(outputs, read, out / names[-1], sources, config.overwrite)
        refuse_beside(picture)

    def refuse_beside(path: Path) -> None:
        """Refuse a file beside the volumes that no run of these inputs has written."""
        if path.exists():
            earlier = sorted(out.glob(f"{stem}_desc-synthetic_seed-*_T1w.json"))
            for sidecar in earlier or (None,):
                refuse_to_replace([path], read, sidecar, sources, config.overwrite)

    refuse_replacing(config.seeds)

    # Load and prepare.
    plan = resolve(config)
    brain = plan.placed.brain if config.partial else None
    masked = brain is not None and brain.is_found_here
    if masked:
        refuse_beside(brain_file)
    check_output(out, BYTES * int(np.prod(plan.placed.placement.target.shape)) * len(config.seeds))
    record = {**synthetic_mark(), "Command": list(command), **sources, **plan.record()}

    # Compute and write; the memory does not grow with the number of seeds.
    written: list[Path] = []
    shown: list[NDArray[np.float32]] = []
    for k, seed in enumerate(config.seeds):
        image = plan.sample(seed, _after(k, plan.steps, len(config.seeds), on_step))
        refuse_replacing([seed])  # another run may have written there meanwhile
        about = record | {"Seed": seed}
        placement, mark = plan.placed.placement, f"seed-{seed}"
        fine = plan.halved(image)
        written.append(
            write_synthetic(image, placement, out, stem, mark, about, config.model_grid, fine)
        )
        if k < SHOWN:
            shown.append(image if fine is None else fine)
    if brain is not None and masked and config.partial:
        mask = brain.as_volume(read_volume(config.partial))
        write_volume(mask, brain_file, "brain mask, vcm synthesize")
    affine = plan.placed.placement.model.affine
    titles = [f"synthetic, seed {seed}" for seed in config.seeds[:SHOWN]]
    outlined(shown, on_voxels_of(shown[0], plan.placed.classes), picture, affine, titles)
    told = in_words(plan.inputs)
    write_report(out, lambda: synthesis_page(config, stem, written, picture, record, told))
    return written


def resolve(config: Synthesis) -> Plan:
    """Load the model and the condition, check every value.

    Raises:
        VCMError: Something cannot be used.
    """
    check_settings(config)
    pipeline = load_pipeline(config.model)
    if not config.uncontrolled:
        _refuse_unread(config.condition, config.partial, pipeline, config.model)
    pipeline.use_scheduler(config.scheduler)
    pipeline.to(choose_device(config.device))
    grid, condition = pipeline.volume_grid, config.condition
    placed = place_label_map(condition, config.labels, grid) if condition else unconditioned(grid)
    if config.partial and config.known:
        placed = place_partial(config.partial, config.known, placed)
    request = InputRequest(
        config.age, config.sex, config.ventricular_volume, config.brain_volume, config.contrast
    )
    outside: Outside = "keep" if config.allow_extrapolation else "refuse"
    inputs = resolve_inputs(pipeline.input_rule, request, placed.volumes, outside)
    steered = not config.uncontrolled and bool(condition or config.partial)
    scale, heat = config.conditioning_scale, config.temperature
    scale = pipeline.recommended_scale if scale is None else scale
    finer = config.super_resolution and pipeline.makes_finer(placed)
    steps = config.steps or pipeline.recommended_steps
    window = (config.control_guidance_start, config.control_guidance_end)
    act = acts(scale, window, steps)
    if steered and scale != 0 and window[0] < window[1] and not act:
        warnings.warn(
            f"None of the {steps} steps begins between {window[0]:g} and {window[1]:g} of them, so the module does not act: "
            "widen control_guidance_start to control_guidance_end, or take more steps.",
            VCMWarning,
            stacklevel=2,
        )
    if heat is None:
        heat = pipeline.recommended_temperature(steered and act, finer)
    return Plan(
        pipeline,
        placed,
        inputs,
        steered=steered,
        steps=steps,
        precision=config.precision,
        temperature=float(heat),
        conditioning_scale=scale,
        window=window,
        finer=finer,
    )


def describe(config: Synthesis) -> dict[str, str]:
    """The plan in words, with time and memory forecast from a fraction of the work."""
    plan = resolve(config)
    pipeline, placement, seeds = plan.pipeline, plan.placed.placement, config.seeds
    inputs = network_inputs(pipeline.input_rule, plan.inputs)
    cost = forecast(pipeline, plan.conditions(), inputs, plan.precision, plan.finer)
    seconds = cost.seconds(plan.steps, len(seeds))
    act = f"{plan.window[0]:g} to {plan.window[1]:g} of the steps"
    steered = f"scale {plan.conditioning_scale:g}, {act}" if plan.is_steered else "not steered"
    labels = f", labels {plan.placed.vocabulary}" if plan.placed.vocabulary else ""
    sizes = " x ".join(f"{s:.3g}" for s in placement.target.spacing)
    halve = f", {cost.halve.seconds:.1f} s to halve the voxels" if plan.finer else ""
    return {
        "model": f"{config.model}, {' x '.join(map(str, placement.model.shape))} on {pipeline.device}",
        "condition": f"{config.condition or config.partial or 'none'}{labels}; {steered}",
        "result": f"{placement.target.shape} of {sizes} mm, {placement.target.orientation}",
        **in_words(plan.inputs),
        "seeds": _in_short(seeds),
        "sampling": f"{type(pipeline.scheduler).__name__}, {plan.steps} steps, temperature "
        f"{plan.temperature:g}, {plan.precision}",
        "expected time": f"{seconds:.0f} s for {len(seeds)} volume(s): {cost.encode.seconds:.1f} s "
        f"to encode, {cost.step.seconds:.2f} s per step, {cost.decode.seconds:.1f} s to decode{halve}",
        "expected memory": f"{cost.memory / 1e9:.1f} GB",
    }


def check_settings(config: Synthesis) -> None:
    """Refuse with VCMError what makes no sense for any model or condition."""
    start, end = config.control_guidance_start, config.control_guidance_end
    if not (config.condition or config.partial or config.uncontrolled):
        raise VCMError("No condition is given: add the path of a label map, or uncontrolled.")
    if (config.partial is None) != (config.known is None):
        raise VCMError(
            "partial and known go together: the image, and a mask that is 1 where it is to be kept."
        )
    wrong = [seed for seed in config.seeds if not 0 <= seed < MOST_SEED]
    if wrong or not config.seeds:
        raise VCMError(
            f"seeds is {wrong[0] if wrong else 'empty'}: choose whole numbers from 0, below 2^63."
        )
    if len(set(config.seeds)) < len(config.seeds):
        raise VCMError("seeds holds a number twice: each seed makes one volume.")
    check_precision(config.precision)
    _refuse_module_settings(config)
    if config.steps is not None and not 1 <= config.steps <= 1000:
        raise VCMError(f"steps is {config.steps}: the model has 1000, choose 1 to 1000.")
    if not 0 <= start <= end <= 1:
        raise VCMError(
            f"The module is to act from {start:g} to {end:g} of the steps: choose fractions with "
            "0 <= start <= end <= 1."
        )
    if config.temperature is not None and not 0 <= config.temperature <= 2:
        raise VCMError(f"temperature is {config.temperature}: choose 0 to 2; 1 is plain noise.")
    if config.conditioning_scale is not None and not np.isfinite(config.conditioning_scale):
        raise VCMError(f"conditioning_scale is {config.conditioning_scale}: choose a number.")


def _refuse_module_settings(config: Synthesis) -> None:
    """Raise VCMError for settings of the module where none acts."""
    usual = Synthesis()
    names = ("conditioning_scale", "control_guidance_start", "control_guidance_end")
    for name in names if config.uncontrolled else ():
        value = getattr(config, name)
        if value != getattr(usual, name):
            raise VCMError(
                f"{name} is {value:g}, but uncontrolled samples the frozen model without its module: leave one of the two "
                "out.",
                argument=name,
            )


def _refuse_unread(
    condition: Path | None, partial: Path | None, pipeline: VCMPipeline, model: str
) -> None:
    """Raise VCMError for a condition that the module does not read."""
    given = condition or partial
    if given is None:
        return
    if pipeline.module is None:
        raise VCMError(
            f"The model {model} has no module, so it cannot obey {given.name}: train one with "
            "vcm train, or sample it uncontrolled."
        )
    reads = set(pipeline.config.conditions)
    wrong, is_a = None, ""
    if partial is not None and "partial" not in reads:
        wrong, is_a = partial, "part of an image"
    elif condition is not None and reads.isdisjoint({"classes", "ventricles"}):
        wrong, is_a = condition, "a label map"
    if wrong is not None:
        raise VCMError(
            f"The module of {model} expects {', '.join(sorted(reads))}, but {wrong.name} is {is_a}: "
            "choose another model."
        )


def _sources(
    condition: Path | None, partial: Path | None, known: Path | None
) -> Mapping[str, str | None]:
    """What the sidecars say of the files that are read. Raises VCMError for one that is not there."""
    found: dict[str, str | None] = {}
    for name, path in (("Condition", condition), ("Partial", partial), ("Known", known)):
        if path is not None:
            refuse_missing(path)
        if name != "Known":
            found[name] = path.name if path else None
        found[f"{name}SHA256"] = sha256(path) if path else None
    return found


def _after(volumes: int, steps: int, of: int, on_step: OnStep) -> Callable[[int], None]:
    """`on_step` for one volume, told of its own steps, after those of the volumes before it."""
    return lambda step: on_step(volumes * steps + step, of * steps)


def _in_short(seeds: Sequence[int]) -> str:
    shown = ", ".join(map(str, seeds[:SHOWN]))
    return shown if len(seeds) <= SHOWN else f"{shown}, ... {len(seeds)} in all"
