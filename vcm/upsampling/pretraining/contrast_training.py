"""Train a detail network for scans of any contrast: it sees no model, and images of random contrast alone.

The loss is that of vcm.upsampling.pretraining.detail_training in decibels, over heads and the air beside them, as
random images differ in how well their slices tell them. Batches are drawn of scans and label maps in
memory by seed and step, so that a run resumes exactly.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import nn

from vcm.errors import VCMError
from vcm.imaging.bids import ENDINGS
from vcm.imaging.scan_checksums import by_name, file_checksum, source_checksums
from vcm.imaging.scan_files import files_below
from vcm.imaging.source import find_scans
from vcm.learning.batches import Draw
from vcm.learning.measures import ScanMeasures, write_measures
from vcm.learning.origin import Origin
from vcm.learning.processes import Processes
from vcm.learning.run import TrainingRun
from vcm.learning.start import check_network, load_start
from vcm.metrics import psnr
from vcm.nets.detail import DetailNet
from vcm.report.training import write_training_report
from vcm.upsampling.configuration import ContrastTraining
from vcm.upsampling.pretraining.contrast_pool import Sources, draw_pairs
from vcm.upsampling.pretraining.detail_training import DetailObjective, check_crop

#: Of the likelihood, see DetailObjective.
BETA = 1.0
#: Of the leaky ReLU of BasicUNet.
SLOPE = 0.1
#: Seed of the images that the network is measured with.
MEASURED_SEED = 1


def pretrain_contrasts(config: ContrastTraining) -> dict[str, float]:
    """Train, save the network in out/model, measure it on random images of the scans of split `test`.

    Returns:
        The means of test.tsv; empty without test scans, and in all but the main process.

    Raises:
        VCMError: Where the data or the configuration allow no training.
    """
    if not config.data:
        raise VCMError("No data are given: add data=[FOLDER] with a BIDS folder of T1w scans.")
    if config.start:
        check_network(config.start, "model", "vcm pretrain contrasts")
    check_crop(config.crop, config.fold, config.mixed_precision)
    scans = [s for s in find_scans(*config.data) if s.split in ("train", "test")]
    train, test = ([s for s in scans if s.split == split] for split in ("train", "test"))
    maps = _maps(config.labelmaps)
    if not train:
        raise VCMError(f"No scan of split 'train' is in {', '.join(config.data)}.")
    set_seed(config.seed)
    net = DetailNet(tuple(config.channels), config.fold, expects=False)
    if config.start:
        load_start(net, config.start)
    else:
        _begin(net.net)
    net.net.to(memory_format=torch.channels_last_3d)
    objective = DetailObjective(net, config.nll_weight, True, BETA)
    of_maps = by_name((path.name, file_checksum(path)) for path in maps)
    origin = Origin(scans=source_checksums(train, maps=False) | of_maps)
    run = TrainingRun(config, net, objective, origin)

    def prepare(processes: Processes) -> Draw:
        sources = Sources.read([s.image for s in train], maps)
        return partial(draw_pairs, sources, config.crop, config.batch_size, config.noise)

    run.fit(prepare)
    if not run.is_main:
        return {}
    net.save_pretrained(run.folder / "model", safe_serialization=True)
    net.to(run.device).eval()
    rows = (
        _measure(net, Sources.read([s.image for s in test], ()), config)
        if test and config.measured
        else []
    )
    measures = write_measures(rows, run.folder / "test.tsv", first="drawn")
    write_training_report(run.folder, "Training of a detail network for any contrast", measures)
    return measures


def _begin(net: nn.Module) -> None:
    """Weights with which features keep their variance from layer to layer; torch's fade in a network without norms."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d):
            # A voxel that a transposed convolution writes has one tap per input channel.
            taps = math.prod(layer.kernel_size) if isinstance(layer, nn.Conv3d) else 1
            fan = layer.in_channels * taps
            nn.init.normal_(layer.weight, std=math.sqrt(2 / (1 + SLOPE**2) / fan))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _maps(folders: list[str]) -> list[Path]:
    """Label maps of the folders. Raises VCMError for a folder without one."""
    found: list[Path] = []
    for folder in folders:
        inside = [p for p in files_below(Path(folder)) if p.name.endswith(ENDINGS)]
        if not inside:
            raise VCMError(
                f"No label map lies in {folder}: give a folder of .nii or .nii.gz files."
            )
        found += inside
    return found


@torch.inference_mode()
def _measure(net: DetailNet, sources: Sources, config: ContrastTraining) -> list[ScanMeasures]:
    """PSNR [dB] of random images before and after the network."""
    rows = []
    for number in range(config.measured):
        random = np.random.default_rng((MEASURED_SEED, number))
        read, truth, shown = draw_pairs(sources, config.crop, 1, config.noise, random)
        image = net(read.to(net.device)).image.cpu()
        inside = shown > 0
        values = {
            "psnr_interpolated": psnr(read[:, :1], truth, inside),
            "psnr_detailed": psnr(image, truth, inside),
        }
        rows.append(ScanMeasures(f"{number}", values))
    return rows
