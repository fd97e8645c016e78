"""Train the network that adds detail between thick slices to a brain that a model expects.

    loss = mean (x' - x)^2 / mean (x_0 - x)^2 + nll_weight * mean (log s + (x' - x)^2 / (2 s^2))

x the scan, x_0 its interpolation, x' the network's image and s the error that it states, inside the brain;
the second term does not pull at x'. Thick slices of the training scans are drawn and what the frozen model and its
module expect under them is computed once, before training, and kept in the folder `pool`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import set_seed
from scipy.stats import spearmanr
from torch import Tensor, nn

from vcm.errors import VCMError
from vcm.imaging.scan_checksums import source_checksums
from vcm.imaging.source import find_scans, of_split
from vcm.imaging.vocabulary import load_vocabulary
from vcm.learning.batches import Draw
from vcm.learning.measures import ScanMeasures, write_measures
from vcm.learning.origin import Origin
from vcm.learning.processes import Processes
from vcm.learning.run import TrainingRun
from vcm.metrics import psnr
from vcm.nets.detail import DEEPEST, DetailNet
from vcm.precision import computes_bfloat16, resolve_mixed_precision
from vcm.report.training import write_training_report
from vcm.upsampling.configuration import DetailTraining
from vcm.upsampling.detail.prior import refuse_unfit
from vcm.upsampling.pretraining.detail_pool import (
    DetailBatch,
    DetailPool,
    draw_crops,
    pooled,
    split_channels,
)
from vcm.upsampling.pretraining.stated_error import mean_inside, unlikelihood
from vcm.weights.load import load_pipeline

#: Mean squared error that counts as none, in decibels: of a crop that shows nothing but smooth tissue.
FLOOR = 3e-4


class DetailObjective(nn.Module):
    """Losses of the image and of the error that the network states.

    Args:
        net: The network to train.
        nll_weight: Of the likelihood of the stated error.
        in_decibels: Minimise the mean logarithm of the error's share, which is a PSNR, in place of the
            mean share: a sample whose share is large for a moment pulls no harder than others.
        beta: Each voxel of the likelihood is weighted by s^(2 beta) over its mean, as a constant: with 1 a
            voxel where the network was far too sure pulls no harder than its error. The best s is the
            same (Seitzer et al., ICLR 2022).
    """

    def __init__(
        self, net: DetailNet, nll_weight: float, in_decibels: bool = False, beta: float = 0.0
    ) -> None:
        super().__init__()
        self.net, self.nll_weight = net, nll_weight
        self.in_decibels, self.beta = in_decibels, beta

    def forward(self, batch: DetailBatch) -> dict[str, Tensor]:
        """loss, which is minimised, and its two terms."""
        read, truth, brain = batch
        found = self.net(read)
        inside = partial(mean_inside, mask=brain)
        squared = (found.image - truth).square()
        after, before = inside(squared), inside((read[:, :1] - truth).square())
        relative = after / (before + 1e-4)
        share = ((after + FLOOR) / (before + FLOOR)).log() if self.in_decibels else relative
        stated = unlikelihood(squared, found.std)
        nll = inside(stated)
        if self.beta:
            weight = found.std.detach().pow(2 * self.beta)
            nll = inside(weight * stated) / inside(weight)
        return {
            "loss": share.mean() + self.nll_weight * nll.mean(),
            "relative": relative.mean().detach(),
            "nll": inside(stated).mean().detach(),
        }


def pretrain_detail(config: DetailTraining) -> dict[str, float]:
    """Train, save the pipeline with its detail in out/model, measure on the split `test`.

    Returns:
        The means of test.tsv; empty without test scans, and in all but the main process.

    Raises:
        VCMError: Where the data or the configuration allow no training.
    """
    if not config.data or not config.model:
        raise VCMError(
            "No data or no model is given: add data=[FOLDER] with a BIDS folder of T1w scans, "
            "and model=FOLDER with one that vcm train wrote with conditions=[thick]."
        )
    check_crop(config.crop, config.fold, config.mixed_precision)
    if config.labels != "auto":
        load_vocabulary(config.labels)
    scans = find_scans(*config.data)
    train_scans = of_split("train", scans, config.data)
    test_scans = [scan for scan in scans if scan.split == "test"]
    if not test_scans:
        print(
            f"No scan of split 'test' in {', '.join(config.data)}, so nothing is measured at the end: "
            "name test scans in the column split of participants.tsv.",
            file=sys.stderr,
        )
    pipeline = load_pipeline(config.model)
    refuse_unfit(pipeline, config.model)
    set_seed(config.seed)
    net = DetailNet(tuple(config.channels), config.fold, config.expects)
    net.net.to(memory_format=torch.channels_last_3d)
    pool = DetailPool(config.pool, config.model, pipeline, config.noise, config.seed, config.labels)
    origin = Origin({"model": pool.model_checksum}, source_checksums(train_scans))
    run = TrainingRun(config, net, DetailObjective(net, config.nll_weight), origin)

    def prepare(processes: Processes) -> Draw:
        pipeline.to(processes.device)
        processes.once_per_machine(lambda: pool.files(train_scans, config.draws))
        files = pool.files(train_scans, config.draws)
        return partial(draw_crops, files, config.crop, config.batch_size)

    run.fit(prepare)
    if not run.is_main:
        return {}
    pipeline.register_modules(detail=net)
    pipeline.save_pretrained(run.folder / "model")
    pipeline.to(run.device)
    rows = _measure(net, pool.files(test_scans, 1) if test_scans else [])
    measures = write_measures(rows, run.folder / "test.tsv", first="drawn")
    write_training_report(run.folder, "Training of a detail network", measures)
    return measures


def check_crop(crop: int, fold: int, mixed_precision: str) -> None:
    """Refuse with VCMError crops that leave the deepest level 2 voxels or fewer in bfloat16 on a CPU.

    There the backward of a convolution reads memory that nobody wrote (oneDNN in torch 2.13).
    """
    if torch.accelerator.current_accelerator(check_available=True) is not None:
        return
    least = 3 * DEEPEST * fold
    if resolve_mixed_precision(mixed_precision, "cpu") == "bf16" and crop < least:
        raise VCMError(
            f"crop is {crop}: with fold {fold} and bfloat16 choose at least {least}, "
            "as gradients of smaller crops cannot be trusted, or mixed_precision=no."
        )


@torch.inference_mode()
def _measure(net: DetailNet, files: Sequence[Path]) -> list[ScanMeasures]:
    """PSNR [dB] inside the brain before and after, rank correlation of stated and real error."""
    rows = []
    for path in files:
        read, truth, brain = split_channels(pooled(path)[None])
        brain = brain > 0
        half = computes_bfloat16(net.device)
        with torch.autocast(net.device.type, torch.bfloat16, enabled=half):
            image, std = (x.cpu() for x in net(read.to(net.device)))
        error = (image - truth).abs()[brain][::23]
        rank = spearmanr(std[brain][::23].numpy(), error.numpy()).statistic
        values = {
            "psnr_interpolated": psnr(read[:, :1], truth, brain),
            "psnr_expected": psnr(read[:, 2:3], truth, brain),
            "psnr_detailed": psnr(image, truth, brain),
            "rank_correlation": float(rank),
        }
        rows.append(ScanMeasures(path.stem.split("_", 1)[1], values))
    return rows
