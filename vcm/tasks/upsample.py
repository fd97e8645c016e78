"""Upsample: thick slices become an isotropic volume in the scan's own space, with its uncertainty.

Read how the scan was cut, align its brain, steer the frozen model by the thick slices, sample a few
brains, bring each back to the scan's space, and project it onto what the slices measured: degraded
again, the result gives the scan. Outside the brain the scan is interpolated. Several scans of one
head are explained together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from scipy.ndimage import gaussian_filter

from vcm.errors import VCMError
from vcm.imaging.acquisition import ProfileKind
from vcm.imaging.degradation import Degradation, project_all
from vcm.imaging.geometry import from_model_grid, resample
from vcm.pipeline import VCMPipeline, check_precision
from vcm.tasks.drawing import choose_device, draw_volume
from vcm.tasks.model_inputs import as_tensor, settle
from vcm.tasks.placing import nowhere
from vcm.tasks.thick_scan import ThickScan, read_thick
from vcm.tasks.upsample_files import write_result
from vcm.weights import load_pipeline

Image = NDArray[np.float32]


@dataclass
class Upsampling:
    """Configuration of `vcm upsample`. Lengths in mm; None: see vcm.imaging.acquisition.

    scans          one or more of one head and contrast; the first gives the frame of the result
    masks          brain masks of the scans, for scans with their skull on; empty: brain-extracted
    output         mean of the samples, which errs least, or the first `sample`, which is sharper
    consistency    project each sample onto the measured slices
    noise          error of a slice over that of a sample, see Degradation.project
    """

    scans: list[Path] = field(default_factory=list)
    out: Path = Path("upsampled")
    model: str = "brain1mm"
    spacing: float = 1.0
    slice_axis: str | None = None
    slice_thickness: float | None = None
    profile: str = "gaussian"
    masks: list[Path] = field(default_factory=list)
    samples: int = 4
    steps: int = 10
    seed: int = 0
    output: str = "mean"
    consistency: bool = True
    noise: float = 0.1
    any_contrast: bool = False
    age: float | None = None
    sex: str | None = None
    device: str = "auto"
    precision: str = "bfloat16"
    ventricular_volume: float | None = None
    brain_volume: float | None = None
    contrast: str | None = None
    allow_extrapolation: bool = True


@dataclass(frozen=True)
class Upsampled:
    """What comes out, on the fine grid of the first scan, in 0..1 of its brain.

    samples, before    (K, X, Y, Z) with and without the projection; cubic: the interpolation
    generated          share of each voxel that the model made, 0..1; elsewhere it is interpolated
    residual           root mean square of measured minus degraded result inside the brain: of the
                       cubic interpolation, and of the mean before and after the projection
    """

    scan: ThickScan
    samples: Image
    before: Image
    cubic: Image
    generated: Image
    residual: dict[str, float]

    @property
    def mean(self) -> Image:
        """Mean of the samples: the estimate of least squared error."""
        return self.samples.mean(0)

    @property
    def std(self) -> Image:
        """Standard deviation of the samples; 0 where everything is interpolated."""
        count = len(self.samples)
        return self.samples.std(0, ddof=1 if count > 1 else 0).astype(np.float32)


def upsample(config: Upsampling, command: list[str], console: Console) -> list[Path]:
    """Write the result, its uncertainty, sidecar and picture; returns their paths. Raises VCMError."""
    check(config)
    pipeline = load_upsampler(config)
    scans = read_scans(config, pipeline)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("Upsampling", total=config.samples * config.steps)
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
    for name in ("samples", "steps"):
        if getattr(config, name) < 1:
            raise VCMError(f"--{name} is {getattr(config, name)}: choose a whole number from 1.")
    if config.output not in ("mean", "sample"):
        raise VCMError(f"--output is {config.output}: choose mean or sample.")
    if config.profile not in ("gaussian", "boxcar"):
        raise VCMError(f"--profile is {config.profile}: choose gaussian or boxcar.")
    if not config.noise > 0:
        raise VCMError(f"--noise is {config.noise}: choose a number above 0, such as 0.1.")
    check_precision(config.precision)


def load_upsampler(config: Upsampling) -> VCMPipeline:
    """The model, whose module must read thick slices. Raises VCMError."""
    pipeline = load_pipeline(config.model)
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
    """The whole computation, on scans that are read. No files."""
    scan, *others = scans
    inputs = as_tensor(settle(config, pipeline, nowhere(pipeline.volume_grid)), pipeline)
    features = pipeline.encode([torch.from_numpy(scan.condition())[None]])
    cubic, share = scan.interpolated(), _share_of_brain(scan)
    explain = _explanation(scan, others, config.noise)
    before, after = [], []
    for number in range(config.samples):
        seed = config.seed + number
        brain = draw_volume(
            pipeline, features, inputs, seed, config.steps, on_step, precision=config.precision
        )
        placed = from_model_grid(brain, scan.model, scan.fine, scan.to_common, order=3)
        gain, offset = _match(placed, scan)
        blended = share * (gain * placed + offset) + (1 - share) * cubic
        before.append(blended.astype(np.float32))
        after.append(explain(before[-1]) if config.consistency else before[-1])
    ours, plain = np.stack(after), np.stack(before)
    residual = {
        "cubic": _residual(scan, cubic),
        "before": _residual(scan, plain.mean(0)),
        "after": _residual(scan, ours.mean(0)),
    }
    return Upsampled(scan, ours, plain, cubic, share, residual)


def _share_of_brain(scan: ThickScan, width: float = 1.0) -> Image:
    """1 inside the brain, 0 outside it and beyond the model's view, smooth over about 2 mm."""
    inside = resample(scan.volume.with_data(scan.brain.astype(np.float32)), scan.fine, order=1)
    seen = from_model_grid(
        np.ones(scan.model.shape, np.float32), scan.model, scan.fine, scan.to_common, order=0
    )
    share = np.where((inside > 0.5) & (seen > 0.5), 1.0, 0.0).astype(np.float32)
    sigma = [width / s for s in scan.fine.spacing]
    return np.asarray(gaussian_filter(share, sigma), dtype=np.float32)


def _match(placed: NDArray, scan: ThickScan) -> tuple[float, float]:
    """(gain, offset) that bring the degraded sample to the measured slices, inside the brain.

    Percentiles of thick slices are not those of the brain they show, so the scale that they set is
    off by a few percent.
    """
    degraded = scan.degradation.degrade(placed)[scan.brain]
    measured = scan.volume.data[scan.brain]
    slope, offset = np.polyfit(degraded, measured, 1)
    return float(np.clip(slope, 0.5, 2.0)), float(offset)


def _explanation(
    scan: ThickScan, others: list[ThickScan], noise: float
) -> Callable[[Image], Image]:
    """Image -> the nearest one that explains every scan."""
    if not others:
        degradation = scan.degradation
        return lambda image: degradation.project(image, scan.volume.data, noise)
    terms = [(scan.degradation, scan.volume.data, noise)]
    for other in others:
        onto = Degradation.between(scan.fine, other.volume.grid, other.acquisition)
        terms.append((onto, _in_scale_of(scan, other), noise))
    return lambda image: project_all(image, terms)


def _in_scale_of(scan: ThickScan, other: ThickScan) -> Image:
    """Values of another scan, scaled as the first: medians and spreads of the two brains agree."""
    one, two = scan.volume.data[scan.brain], other.volume.data[other.brain]
    (low, middle, high), own = (np.percentile(v, [25, 50, 75]) for v in (one, two))
    gain = (high - low) / max(own[2] - own[0], 1e-6)
    return (middle + gain * (other.volume.data - own[1])).astype(np.float32)


def _residual(scan: ThickScan, image: NDArray) -> float:
    return scan.degradation.residual(image, scan.volume.data, scan.brain)
