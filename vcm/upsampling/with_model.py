"""T1w scans: the frozen model steered by their slices, projected onto them, with the detail that its latents lack.

    samples    drawn from the model, brought to the scan's space, projected
    expected   the brain that the model expects under the slices, likewise
    mean       expected + detail of the model's own network; with a skull, + detail of the head's

Knows a pipeline, scans and their degradation; nothing of files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vcm.inputs import ModelInput, network_inputs
from vcm.nets.detail import DetailNet
from vcm.pipeline import VCMPipeline
from vcm.upsampling.detail.brain_detail import RIM, brain_with_detail, can_add_detail
from vcm.upsampling.detail.consistency import DataConsistency, Projection
from vcm.upsampling.detail.head_detail import add_head_detail
from vcm.upsampling.detail.prior import encode_slices, expected_brain, sample_brain
from vcm.upsampling.detail.several import DetailedScan, combine
from vcm.upsampling.detail.widen import widen_at_rim, widen_over_lost
from vcm.upsampling.results.upsampled import OF_DETAIL, OF_NOTHING, OF_SAMPLES, Upsampled
from vcm.upsampling.scans.space import Image, ResultSpace
from vcm.upsampling.scans.thick_scan import ThickScan

#: Called with the denoising steps that are done, and how many there are.
OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Drawing:
    """Which samples are drawn.

    Attributes:
        samples: How many.
        steps: Denoising steps of each.
        seed: Of the first; the others count up from it.
        precision: Of the model: float32 or bfloat16.
    """

    samples: int
    steps: int
    seed: int
    precision: str


def upsample_with_model(
    scan: ThickScan,
    others: Sequence[ThickScan],
    pipeline: VCMPipeline,
    told: dict[str, ModelInput],
    projection: Projection,
    drawing: Drawing,
    head_detail: DetailNet | None,
    on_step: OnStep,
) -> Upsampled:
    """A brain between the slices of a T1w scan.

    Args:
        scan: T1w.
        others: Further scans of the same head and contrast.
        pipeline: A model whose module reads thick slices.
        told: What the model is told of the subject.
        projection: Onto the slices.
        drawing: Of samples beside the expected brain.
        head_detail: Adds the detail outside the brain; None: interpolated there.
        on_step: Told of the steps of all samples.
    """
    inputs = network_inputs(pipeline.input_rule, told)
    features = encode_slices(pipeline, scan.condition())
    brain = expected_brain(pipeline, features, inputs, drawing.precision)
    space = ResultSpace(scan)
    measured = DataConsistency(scan, tuple(others), projection.noise)

    def project(image: Image) -> Image:
        return measured.project(image) if projection.consistency else image

    unprojected = np.empty((drawing.samples, *scan.fine.shape), np.float32)
    projected = np.empty_like(unprojected)
    for k, drawn in enumerate(_drawn(pipeline, features, inputs, drawing, on_step)):
        unprojected[k] = space.to_scan_space(drawn)
        projected[k] = project(unprojected[k])
    placed = space.to_scan_space(brain)
    mean = expected = project(placed)
    std, what = (
        (projected.std(0, ddof=1), OF_SAMPLES) if drawing.samples > 1 else (None, OF_NOTHING)
    )
    generated = space.share_of_brain
    net = pipeline.detail if projection.consistency else None
    if net is not None and all(map(can_add_detail, (scan, *others))):
        alone = measured if not others else DataConsistency(scan, noise=projection.noise)
        end = (net, projection.detail_noise, projection.mirrors)
        begun = alone.project(placed) if others else expected
        detailed = DetailedScan(scan, *brain_with_detail(space, alone, brain, begun, *end))
        if others:
            each = [
                _detailed(pipeline, other, inputs, drawing.precision, net, projection)
                for other in others
            ]
            detailed = combine([detailed, *each], projection.noise)
        mean, std, generated, what = detailed.image, detailed.std, detailed.share, OF_DETAIL
    if head_detail is not None and projection.consistency and not others:
        mean, std, generated = _with_head(scan, space, mean, std, head_detail, projection)
    if what == OF_DETAIL and std is not None and not others:
        std = widen_at_rim(std, scan)
    std = None if std is None else widen_over_lost(std, scan)
    residual = {
        "cubic": measured.residual(space.as_it_came),
        "before": measured.residual(placed),
        "after": measured.residual(mean),
    }
    return Upsampled(
        scan, told, mean, std, what, expected, projected, unprojected, space.as_it_came,
        generated, residual, others=tuple(others),
    )  # fmt: skip


def _drawn(
    pipeline: VCMPipeline,
    features: Tensor | None,
    inputs: Tensor,
    drawing: Drawing,
    on_step: OnStep,
) -> Iterator[NDArray[np.float32]]:
    """Samples on the model's grid, one after the other."""
    steps = drawing.steps
    for k in range(drawing.samples):
        on_its_step = _after(k * steps, drawing.samples * steps, on_step)
        yield sample_brain(
            pipeline, features, inputs, drawing.precision, drawing.seed + k, steps, on_its_step
        )


def _after(begun: int, total: int, on_step: OnStep) -> Callable[[int], None]:
    """`on_step` for one sample, told of its own steps, after `begun` steps of those before it."""
    return lambda step: on_step(begun + step, total)


def _detailed(
    pipeline: VCMPipeline, scan: ThickScan, inputs: Tensor, precision: str, net: DetailNet,
    projection: Projection,
) -> DetailedScan:  # fmt: skip
    """A further scan with its detail, on its own fine grid."""
    features = encode_slices(pipeline, scan.condition())
    brain = expected_brain(pipeline, features, inputs, precision)
    space, measured = ResultSpace(scan), DataConsistency(scan, noise=projection.noise)
    expected = measured.project(space.to_scan_space(brain))
    end = (net, projection.detail_noise, projection.mirrors)
    return DetailedScan(scan, *brain_with_detail(space, measured, brain, expected, *end))


def _with_head(
    scan: ThickScan, space: ResultSpace, mean: Image, std: Image | None, net: DetailNet,
    projection: Projection,
) -> tuple[Image, Image, Image]:  # fmt: skip
    """The image, its error and the share that networks made, with detail outside the brain too."""
    head, head_std, head_share = add_head_detail(
        scan, net, projection.noise, projection.detail_noise, projection.mirrors
    )
    share = space.share_of_brain
    joined = (share * mean + (1 - share) * head).astype(np.float32)
    error = head_std if std is None else np.where(share > RIM, std, head_std)
    return joined, error, np.maximum(share, head_share)
