"""Train the network that adds detail between thick slices to a brain that a model expects.

    loss = mean (x' - x)^2 / mean (x_0 - x)^2 + nll_weight * mean (log s + (x' - x)^2 / (2 s^2))

x the scan, x_0 its interpolation, x' the network's image and s the error that it states, inside the brain;
the second term does not pull at x'. Thick slices of the training scans are drawn and what the frozen model and its
module expect under them is computed once, before training, and kept in the folder `pool`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from scipy.stats import spearmanr
from torch import Tensor, nn

from vcm.errors import VCMError
from vcm.files import write_table
from vcm.imaging.source import Scan, find_scans
from vcm.learning.run import TrainingRun
from vcm.metrics import psnr
from vcm.nets.detail import DetailNet
from vcm.precision import computes_bfloat16, resolve_mixed_precision
from vcm.upsampling.configuration import DetailTraining
from vcm.upsampling.detail_pool import DetailPool, pooled, split_channels
from vcm.upsampling.prior import refuse_unfit
from vcm.weights.load import load_pipeline

#: Folded voxels of the input per voxel of BasicUNet's deepest level, along an axis.
DEEPEST = 16


class DetailObjective(nn.Module):
    """What DetailNet reads (B, 3, X, Y, Z), the scan and the brain (B, 1, X, Y, Z) -> losses."""

    def __init__(self, net: DetailNet, nll_weight: float) -> None:
        super().__init__()
        self.net, self.nll_weight = net, nll_weight

    def forward(self, read: Tensor, truth: Tensor, brain: Tensor) -> dict[str, Tensor]:
        found = self.net(read)

        def inside(values: Tensor) -> Tensor:
            total: Tensor = (values * brain).flatten(1).sum(1) / brain.flatten(1).sum(1)
            return total

        squared = (found.image - truth).square()
        relative = inside(squared) / (inside((read[:, :1] - truth).square()) + 1e-4)
        stated = found.std.log() + squared.detach() / (2 * found.std.square())
        nll = inside(stated).mean()
        return {
            "loss": relative.mean() + self.nll_weight * nll,
            "relative": relative.mean().detach(),
            "nll": nll.detach(),
        }


def pretrain_detail(config: DetailTraining) -> dict[str, float]:
    """Train, save the pipeline with its detail in out/model, measure on `test`: means of test.tsv."""
    if not config.data or not config.model:
        raise VCMError(
            "No data or no model is given: add data=[FOLDER] with a BIDS folder of T1w scans, "
            "and model=FOLDER with one that vcm train wrote with conditions=[thick]."
        )
    check_crop(config)
    known, measured = (find_scans(*config.data, split=name) for name in ("train", "test"))
    pipeline = load_pipeline(config.model)
    refuse_unfit(pipeline, config.model)
    set_seed(config.seed)
    net = DetailNet(tuple(config.channels), config.fold, config.expects)
    net.net.to(memory_format=torch.channels_last_3d)
    run = TrainingRun(config, net, DetailObjective(net, config.nll_weight))
    pool = DetailPool(config.pool, config.model, pipeline, config.noise, config.seed)
    run.fit(lambda: pool.draw_from(known, config.draws, config.crop, config.batch_size))
    if not run.is_main:
        return {}
    pipeline.register_modules(detail=net)
    pipeline.save_pretrained(run.folder / "model")
    return _measure(net, pool, measured, run.folder)


def check_crop(config: DetailTraining) -> None:
    """Refuse with VCMError crops that leave the deepest level 2 voxels or fewer in bfloat16.

    There the backward of a convolution reads memory that nobody wrote (oneDNN in torch 2.13, CPU).
    """
    least = 3 * DEEPEST * config.fold
    half = resolve_mixed_precision(config.mixed_precision, "cpu") == "bf16"
    if half and config.crop < least:
        raise VCMError(
            f"crop is {config.crop}: with fold {config.fold} and bfloat16 choose at least {least}, "
            "as gradients of smaller crops cannot be trusted, or mixed_precision=no."
        )


@torch.inference_mode()
def _measure(
    net: DetailNet, pool: DetailPool, scans: Sequence[Scan], out: Path
) -> dict[str, float]:
    """PSNR [dB] inside the brain before and after, rank correlation of stated and real error."""
    rows: list[dict[str, object]] = []
    for path in pool.files(scans, 1):
        read, truth, brain = split_channels(pooled(path)[None])
        brain = brain > 0
        half = computes_bfloat16(net.device)
        with torch.autocast(net.device.type, torch.bfloat16, enabled=half):
            found = net(read)
        error = (found.image - truth).abs()[brain][::23]
        rank = spearmanr(found.std[brain][::23].numpy(), error.numpy()).statistic
        rows.append(
            {
                "drawn": path.stem.split("_", 1)[1],
                "psnr_interpolated": psnr(read[:, :1], truth, brain),
                "psnr_expected": psnr(read[:, 2:3], truth, brain),
                "psnr_detailed": psnr(found.image, truth, brain),
                "rank_correlation": float(rank),
            }
        )
    columns = list(rows[0])
    write_table(out / "test.tsv", rows, columns)
    return {name: float(np.mean([float(str(r[name])) for r in rows])) for name in columns[1:]}
