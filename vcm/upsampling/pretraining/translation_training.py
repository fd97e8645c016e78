"""Train a translator: T1w brains from scans of random contrast and resolution, brains drawn anew at every step.

    loss = mean log (mse + FLOOR) + nll_weight * mean (log s + (x' - x)^2 / (2 s^2))

x the T1w brain, x' the network's image, s the error that it states, inside the brain; the second term does not
pull at x'. The logarithm keeps scans that tell little from outweighing those that tell much.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from vcm.errors import VCMError
from vcm.imaging.deformation import DeformationSizes
from vcm.imaging.scan_pool import ScanPool, load_pool
from vcm.imaging.source import NobodyError
from vcm.learning.batches import Draw, moved
from vcm.learning.measures import ScanMeasures, write_measures
from vcm.learning.origin import Origin
from vcm.learning.processes import Processes
from vcm.learning.run import TrainingRun
from vcm.learning.start import check_network, load_start
from vcm.metrics import psnr
from vcm.nets.translator import Translator
from vcm.report.training import write_training_report
from vcm.upsampling.configuration import TranslatorTraining
from vcm.upsampling.pretraining.stated_error import mean_inside, unlikelihood
from vcm.upsampling.pretraining.translation_pool import TranslationBatch, draw_brains

#: Mean squared error that counts as none, in decibels.
FLOOR = 3e-4
#: Least folded voxels along an axis: two at BasicUNet's deepest level, whose norm needs more than one.
LEAST = 32
#: Seed of the scans that the network is measured with.
MEASURED_SEED = 1


class TranslatorObjective(nn.Module):
    """Losses of the image and of the error that the network states.

    Args:
        net: The network to train.
        nll_weight: Of the likelihood of the stated error.
    """

    def __init__(self, net: Translator, nll_weight: float) -> None:
        super().__init__()
        self.net, self.nll_weight = net, nll_weight

    def forward(self, batch: TranslationBatch) -> dict[str, Tensor]:
        """loss, which is minimised, and its two terms: mse and nll."""
        scan, truth, brain = batch
        found = self.net(scan)
        squared = (found.image - truth).square()
        mse = mean_inside(squared, brain)
        nll = mean_inside(unlikelihood(squared, found.std), brain).mean()
        loss = (mse + FLOOR).log().mean() + self.nll_weight * nll
        return {"loss": loss, "mse": mse.mean().detach(), "nll": nll.detach()}


def pretrain_translator(config: TranslatorTraining) -> dict[str, float]:
    """Train, save the network in out/model, measure it on random scans of the brains of split `validation`.

    Returns:
        The means of validation.tsv; empty without such brains, and in all but the main process.

    Raises:
        VCMError: Where the data or the configuration allow no training.
    """
    if not config.data:
        raise VCMError("No data are given: add data=[FOLDER] with a folder written by vcm prepare.")
    if config.start:
        check_network(config.start, "model", "vcm pretrain translator")
    pool = load_pool(config.data, "train")
    _check_shape(pool, config.fold)
    set_seed(config.seed)
    grid = {"shape": list(pool.grid.shape), "affine": pool.grid.affine.tolist()}
    net = Translator(tuple(config.channels), config.fold, grid)
    if config.start:
        load_start(net, config.start)
    else:
        inside = pool.scans()[pool.classes[:, None] > 0]
        net.knows(pool.scans().mean((0, 1)), float(inside.mean()), float(inside.std()))
    net.net.to(memory_format=torch.channels_last_3d)
    origin = Origin(scans=pool.checksums())
    run = TrainingRun(config, net, TranslatorObjective(net, config.nll_weight), origin)

    def prepare(processes: Processes) -> Draw:
        sizes = DeformationSizes().times(config.deform)
        return partial(draw_brains, pool, sizes, config.batch_size)

    run.fit(prepare)
    if not run.is_main:
        return {}
    net.save_pretrained(run.folder / "model", safe_serialization=True)
    rows = _measure(net.to(run.device).eval(), config) if config.measured else []
    measures = write_measures(rows, run.folder / "validation.tsv", first="drawn")
    write_training_report(run.folder, "Training of a translator to T1w", measures)
    return measures


def _check_shape(pool: ScanPool, fold: int) -> None:
    """Raise VCMError for a grid that the folds do not divide, or that is too small for the network."""
    shape = pool.grid.shape
    if any(n % fold for n in shape) or min(shape) < LEAST * fold:
        raise VCMError(
            f"The scans lie on {' x '.join(map(str, shape))} voxels and fold is {fold}: every extent must be a "
            f"multiple of it, and at least {LEAST * fold}."
        )


@torch.inference_mode()
def _measure(net: Translator, config: TranslatorTraining) -> list[ScanMeasures]:
    """PSNR [dB] of random scans, undeformed, before and after the network."""
    try:
        pool = load_pool(config.data, "validation")
    except NobodyError:
        return []
    rows = []
    for number in range(config.measured):
        random = np.random.default_rng((MEASURED_SEED, number))
        drawn = draw_brains(pool, DeformationSizes().times(0), 1, random)
        batch = moved(drawn, net.device)
        inside = batch.brain > 0
        values = {
            "psnr_scan": psnr(batch.scan, batch.truth, inside),
            "psnr_translated": psnr(net(batch.scan).image, batch.truth, inside),
        }
        rows.append(ScanMeasures(f"{number}", values))
    return rows
