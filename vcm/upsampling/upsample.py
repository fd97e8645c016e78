"""Upsample: thick slices become an isotropic volume in the scan's own space, with its uncertainty.

Read how the scan was cut, align its brain, steer the frozen model by the thick slices, ask which brain
it expects and sample a few, bring each back to the scan's space, and project it onto what the slices
measured: degraded again, the result gives the scan. A small network adds the detail that the latents
lack and says how far off it expects to be. Outside the brain the scan is interpolated. Several scans
of one head are explained together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from vcm.errors import VCMError
from vcm.imaging.acquisition import ProfileKind
from vcm.inputs import InputRequest, network_inputs, resolve_inputs
from vcm.nets.detail import DetailNet
from vcm.pipeline import VCMPipeline, choose_device, draw_volume
from vcm.precision import check_precision, computes_bfloat16, resolve_precision
from vcm.upsampling.configuration import Upsampling
from vcm.upsampling.example import example_scan
from vcm.upsampling.explanation import Explanation, Image
from vcm.upsampling.result import OF_DETAIL, OF_NOTHING, OF_SAMPLES, Upsampled, write_result
from vcm.upsampling.thick_scan import ThickScan, read_thick
from vcm.weights.load import load_pipeline

#: Stands for a scan of our own.
EXAMPLE = Path("example")
#: Least share of the model in a voxel that has an uncertainty.
RIM = 0.01


def upsample(config: Upsampling, command: list[str], console: Console) -> list[Path]:
    """Write the result, its uncertainty, sidecar and picture; returns their paths. Raises VCMError."""
    check(config)
    pipeline = load_upsampler(config)
    config = replace(config, precision=resolve_precision(config.precision, pipeline.device))
    if config.scans == [EXAMPLE] and not EXAMPLE.exists():
        config = replace(config, scans=[example_scan(config.out)])
    scans = read_scans(config, pipeline)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("Upsampling", total=config.samples * config.steps or None)
        result = upsample_scans(scans, pipeline, config, lambda: bar.advance(task))
    return write_result(result, config, command)


def check(config: Upsampling) -> None:
    """Refuse with VCMError what makes no sense, before anything is loaded."""
    if not config.scans:
        raise VCMError("No scan is given: add the path of a scan of thick slices.")
    if config.masks and len(config.masks) != len(config.scans):
        raise VCMError(
            f"{len(config.masks)} masks are given for {len(config.scans)} scans: give one for each, "
            "in the same order, or none for brain-extracted scans."
        )
    for name, least in (("samples", 0), ("steps", 1)):
        value = getattr(config, name)
        if value < least:
            raise VCMError(f"--{name} is {value}: choose a whole number from {least}.")
    if config.output not in ("mean", "sample"):
        raise VCMError(f"--output is {config.output}: choose mean or sample.")
    if config.output == "sample" and not config.samples:
        raise VCMError("--output is sample and --samples is 0: draw at least 1.")
    if config.profile not in ("gaussian", "boxcar"):
        raise VCMError(f"--profile is {config.profile}: choose gaussian or boxcar.")
    for name in ("noise", "detail_noise"):
        if not getattr(config, name) > 0:
            raise VCMError(
                f"--{name.replace('_', '-')} is {getattr(config, name)}: choose a number above 0, "
                f"such as {getattr(Upsampling(), name)}."
            )
    check_precision(config.precision)


def load_upsampler(config: Upsampling) -> VCMPipeline:
    """The model, ready to upsample. Raises VCMError."""
    return as_upsampler(load_pipeline(config.model), config)


def as_upsampler(pipeline: VCMPipeline, config: Upsampling) -> VCMPipeline:
    """The same pipeline with scheduler and device set. Its module must read thick slices, else VCMError."""
    if list(pipeline.config.conditions) != ["thick"] or pipeline.module is None:
        raise VCMError(
            f"The module of {config.model} reads {', '.join(pipeline.config.conditions) or 'nothing'}, "
            "not thick slices: give a model trained with conditions=[thick], such as brain1mm."
        )
    pipeline.use_scheduler("dpm++" if pipeline.denoiser.steps_with == "epsilon" else "flow")
    pipeline.to(choose_device(config.device))
    return pipeline


def read_scans(config: Upsampling, pipeline: VCMPipeline) -> list[ThickScan]:
    """Every scan, ready. Raises VCMError."""
    profile: ProfileKind = "boxcar" if config.profile == "boxcar" else "gaussian"
    masks: list[Path | None] = [*config.masks] if config.masks else [None] * len(config.scans)
    return [
        read_thick(
            path, pipeline.volume_grid, config.spacing, config.slice_axis,
            config.slice_thickness, profile, mask, config.any_contrast,
        )
        for path, mask in zip(config.scans, masks, strict=True)
    ]  # fmt: skip


def upsample_scans(
    scans: list[ThickScan],
    pipeline: VCMPipeline,
    config: Upsampling,
    on_step: Callable[[], None] = lambda: None,
) -> Upsampled:
    """The whole computation, on scans that are read. No files.

    The doubt is what the detail network expects of its own error, where the model has such a
    network, one scan is given, and the result has the model's spacing, as in its training; else the
    spread of the samples, which tells how they differ and not how far off they all are.
    """
    scan, *others = scans
    rule = pipeline.input_rule
    request = InputRequest(age=config.age, sex=config.sex)
    inputs = network_inputs(rule, resolve_inputs(rule, request))
    features = pipeline.encode([torch.from_numpy(scan.condition())[None]])
    own = Explanation(scan, tuple(others), config.noise)
    explain = own.explain if config.consistency else lambda image: image
    before = np.empty((config.samples, *scan.fine.shape), np.float32)
    after = np.empty_like(before)
    for number in range(config.samples):
        drawn = draw_volume(
            pipeline, features, inputs, config.seed + number, config.steps, on_step,
            precision=config.precision,
        )  # fmt: skip
        before[number] = own.placed(drawn)
        after[number] = explain(before[number])
    placed = own.placed(expected_brain(pipeline, features, inputs, config.precision))
    estimate = expected = explain(placed)
    std, doubt = (after.std(0, ddof=1), OF_SAMPLES) if config.samples > 1 else (None, OF_NOTHING)
    if config.consistency and not others and _has_detail(pipeline, scan):
        estimate, std = with_detail(own, estimate, pipeline.detail, config)
        doubt = OF_DETAIL
    residual = {
        "cubic": own.residual(own.cubic),
        "before": own.residual(placed),
        "after": own.residual(estimate),
    }
    return Upsampled(
        scan, estimate, std, doubt, expected, after, before, own.cubic, own.share_of_brain, residual
    )


def expected_brain(
    pipeline: VCMPipeline, features: torch.Tensor | None, inputs: torch.Tensor, precision: str
) -> Image:
    """What the steered model expects of z_0 where z_t is noise alone, E[z_0 | slices], decoded.

    One step from the middle of the noise, which is 0. It errs less than the mean of a few samples
    and costs a tenth of one.
    """
    return draw_volume(
        pipeline, features, inputs, 0, 1, lambda: None, temperature=0.0, precision=precision
    )


def _has_detail(pipeline: VCMPipeline, scan: ThickScan) -> bool:
    alike = np.allclose(scan.fine.spacing, scan.model.spacing, rtol=0.1)
    return pipeline.detail is not None and bool(alike)


@torch.inference_mode()
def with_detail(
    own: Explanation, expected: Image, net: DetailNet, config: Upsampling
) -> tuple[Image, Image]:
    """The expected brain with the network's detail, projected, and the standard deviation of its error."""
    read = torch.from_numpy(np.ascontiguousarray(own.read(expected)))[None]
    half = computes_bfloat16(net.device)
    with torch.autocast(net.device.type, torch.bfloat16, enabled=half):
        found = (net.over_mirrors if config.mirrors else net)(read.to(net.device))
    image, std = (np.moveaxis(v[0, 0].cpu().numpy(), -1, own.across) for v in found)
    # At the rim, where the result fades into the interpolation, it errs no less.
    std = np.where(own.share_of_brain > RIM, std, 0).astype(np.float32)
    return replace(own, noise=config.detail_noise).explain(own.in_brain(image)), std
