"""Pretrain an encoder on unlabelled scans; stops and resumes.

    mae      loss = mean (restored - scan)^2 over all voxels, from a recoloured view with hidden blocks
    hybrid   the same + contrast_weight * NT-Xent, which tells views of one scan from views of others

Masked reconstruction as in AMAES (Munk et al. 2024, arXiv 2408.00640), the contrastive loss of SimCLR (Chen
et al. 2020, arXiv 2002.05709) as MONAI has it. Only scans of the split `train` are read, and each is
recorded in seen.tsv, so that a study can refuse to test on it.
"""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from monai.losses.contrastive import ContrastiveLoss
from torch import Tensor, nn

from vcm.checksums import record_checksums
from vcm.errors import VCMError, VCMWarning
from vcm.fewshot.configuration import EncoderTraining
from vcm.fewshot.methods.parents import SEEN, SeenScan, load_parent
from vcm.fewshot.pretraining.unlabelled import (
    DrawnScans,
    UnlabelledScan,
    Views,
    ViewSampler,
    find_scans,
    report_complaints,
)  # fmt: skip
from vcm.files import write_table
from vcm.imaging.scan_checksums import by_name
from vcm.learning.measures import ScanMeasures, write_measures
from vcm.learning.origin import Origin
from vcm.learning.run import TrainingRun
from vcm.nets.encoder import ScanEncoder
from vcm.report.training import write_training_report

OBJECTIVES = ("mae", "hybrid")
#: A contrastive loss above this share of that of chance has learned nothing.
NEAR_CHANCE = 0.97


class EncoderObjective(nn.Module):
    """Losses of an encoder on the views of DrawnScans.

    Args:
        net: The encoder.
        sampler: Makes the views.
        contrast_weight: Of the contrastive loss; it needs two views and a projection head.
        temperature: Of the contrastive loss.
    """

    def __init__(
        self, net: ScanEncoder, sampler: ViewSampler, contrast_weight: float, temperature: float
    ) -> None:
        super().__init__()
        self.net, self.sampler, self.contrast_weight = net, sampler, contrast_weight
        self.contrast = ContrastiveLoss(temperature)

    def forward(self, batch: DrawnScans) -> dict[str, Tensor]:
        """Losses of the views that were drawn."""
        return self.losses(self.sampler.make(batch))

    def losses(self, batch: Views) -> dict[str, Tensor]:
        """loss, which is minimised, and its parts: error of all voxels, of the hidden ones, contrast."""
        restored, projected = self.net(batch.masked.flatten(0, 1)[:, None])
        squared = (restored[:, 0].float() - batch.targets.flatten(0, 1)).square()
        hidden = batch.hidden.flatten(0, 1)
        error = squared.mean()
        losses = {
            "loss": error,
            "error": error.detach(),
            "hidden": (squared * hidden).sum().detach() / hidden.sum().clamp(min=1),
        }
        if projected is not None:
            first, second = projected.float().unflatten(0, batch.masked.shape[:2]).unbind(1)
            contrast = self.contrast(first, second)
            losses["contrast"] = contrast.detach()
            losses["loss"] = error + self.contrast_weight * contrast
        return losses


def pretrain_encoder(config: EncoderTraining) -> dict[str, float]:
    """Train, save out/encoder, then measure how well hidden blocks of the split `test` are restored.

    Returns:
        Mean measures of the test scans; test.tsv has them all. Empty without test scans, and in all
        but the main process.

    Raises:
        VCMError: Where the data or the configuration allow no training.
    """
    check_encoder(config)
    hybrid, local = config.objective == "hybrid", config.local_brightness
    set_seed(config.seed)
    projection = config.projection if hybrid else 0
    net = ScanEncoder(tuple(config.channels), config.groups, projection, config.patch, local)
    before = go_on_from(config.start, net) if config.start else ()
    cache = Path(config.cache or f"{config.out}/scans")
    scans, complaints = find_scans(config.data, "train", config.mask, cache)
    tests = _test_scans(config, cache)
    refuse_tested(scans, tests)
    # The layout in which convolutions are fastest, on CPUs and GPUs.
    net.unet.to(memory_format=torch.channels_last_3d)
    weight = config.contrast_weight if hybrid else 0.0
    sampler = ViewSampler(
        scans, config.batch_size, 2 if hybrid else 1, config.crop, config.hidden, config.block,
        config.augmentation, local, config.motion,
    )  # fmt: skip
    objective = EncoderObjective(net, sampler, weight, config.temperature)
    origin = Origin(scans=by_name((f"{s.case} {s.sequence}", s.known.file) for s in scans))
    run = TrainingRun(config, net, objective, origin)
    run.fit(lambda _: sampler.draw)
    if not run.is_main:
        return {}
    report_complaints(complaints)
    if hybrid:
        warn_of_chance(run.folder / "log.csv", config.batch_size)
    folder = run.folder / "encoder"
    net.save_pretrained(folder)
    record_seen(scans, folder, before)
    record_checksums(folder)
    measures = write_measures([_measured(net, config, s) for s in tests], run.folder / "test.tsv")
    write_training_report(run.folder, "Training of an encoder of scans", measures)
    return measures


def check_encoder(config: EncoderTraining) -> None:
    """Refuse with VCMError what no encoder can be trained with."""
    if not config.data:
        raise VCMError("No data is given: add data=[FOLDER] with folders of unlabelled scans.")
    if config.objective not in OBJECTIVES:
        raise VCMError(
            f"The objective '{config.objective}' is unknown: choose {' or '.join(OBJECTIVES)}."
        )
    if config.objective == "hybrid" and config.batch_size < 2:
        raise VCMError(
            f"batch_size is {config.batch_size}, but hybrid tells scans apart: set it to 2 or more."
        )
    if config.patch < 1:
        raise VCMError(f"patch is {config.patch}: choose 1 voxel or more.")
    factor = config.patch * 2 ** (len(config.channels) - 1)
    if config.crop < 0 or config.crop % factor:
        raise VCMError(
            f"crop is {config.crop}: choose a multiple of {factor}, or 0 for whole scans."
        )
    if not 0 < config.hidden < 1:
        raise VCMError(f"hidden is {config.hidden}: choose a share between 0 and 1, such as 0.6.")
    if config.block < 1:
        raise VCMError(f"block is {config.block}: choose 1 voxel or more.")
    for name in ("augmentation", "motion"):
        if not 0 <= getattr(config, name) <= 1:
            raise VCMError(f"{name} is {getattr(config, name)}: choose 0 to 1.")


def go_on_from(folder: str, net: ScanEncoder) -> tuple[SeenScan, ...]:
    """Give a network the weights of an encoder; returns the scans that it saw.

    Raises:
        VCMError: The folder holds none, or one of another shape or of another reading of scans.
    """
    parent = load_parent(folder)
    own, settings = net.config, parent.network.settings
    here = {"channels": list(own.channels), "groups": own.groups, "patch": own.patch}
    here |= {"local_brightness": own.local_brightness, "outputs": 1}
    there = settings | {"local_brightness": settings["local"]}
    other = [name for name, value in here.items() if there[name] != value]
    if other:
        told = ", ".join(f"{name} is {there[name]}, here {here[name]}" for name in other)
        raise VCMError(
            f"The network in {folder} is another one ({told}): choose the same settings, or another start."
        )
    net.unet.load_state_dict(parent.network.state_dict())
    return parent.seen


def warn_of_chance(log: Path, batch_size: int) -> None:
    """Warn where the contrastive loss ended at that of views that cannot be told apart, ln(2 B - 1)."""
    with log.open(encoding="utf-8", newline="") as lines:
        last = float(list(csv.DictReader(lines))[-1]["contrast"])
    chance = math.log(2 * batch_size - 1)
    if last > NEAR_CHANCE * chance:
        warnings.warn(
            f"The contrastive loss ended at {last:.3f}, and {chance:.3f} is chance: the encoder does not tell the views of "
            "a scan from those of others, so it learned no more than one of mae. Go on from an encoder of mae with start=, "
            "train for longer, or with a larger batch_size.",
            VCMWarning,
            stacklevel=2,
        )


def record_seen(scans: list[UnlabelledScan], folder: Path, before: Iterable[SeenScan]) -> None:
    """Write which scans an encoder saw, by case and by the checksums of their files and of what these hold.

    Args:
        scans: Of this training.
        folder: Of the encoder.
        before: Those that its start saw.
    """
    seen = [SeenScan(s.case, s.sequence, *s.known) for s in scans]
    own = {s.sha256 for s in seen}
    rows = [asdict(s) for s in (*seen, *(s for s in before if s.sha256 not in own))]
    write_table(folder / SEEN, rows, list(rows[0]))


def refuse_tested(scans: Iterable[UnlabelledScan], tests: Iterable[UnlabelledScan]) -> None:
    """Raise VCMError where a scan to be trained on is one of the split test, as in another folder."""
    trained = {scan.known.content: scan for scan in scans}
    for test in tests:
        same = trained.get(test.known.content)
        if same is not None:
            raise VCMError(
                f"{test.case} in {test.folder} is of the split test, but {same.case} in {same.folder} holds the same scan "
                "and would be trained on: take one of them out, or give both one split."
            )


def _test_scans(config: EncoderTraining, cache: Path) -> list[UnlabelledScan]:
    """Scans of the split test; none where no folder has such a split."""
    found = []
    for folder in config.data:
        with suppress(VCMError):
            found += find_scans([folder], "test", config.mask, cache)[0]
    return found


@torch.inference_mode()
def _measured(net: ScanEncoder, config: EncoderTraining, scan: UnlabelledScan) -> ScanMeasures:
    """Error of the hidden and of all voxels of a scan as it is, with fixed blocks."""
    sampler = ViewSampler(
        [scan], 1, 1, 0, config.hidden, config.block, 0.0, config.local_brightness
    )
    batch = sampler.make(sampler.draw(np.random.default_rng(0)))
    masked = batch.targets * (1 - batch.hidden)
    restored = net(masked.to(net.device))[0].cpu()
    squared = (restored - batch.targets).square()
    hidden = float((squared * batch.hidden).sum() / batch.hidden.sum())
    return ScanMeasures(
        f"{scan.case}_{scan.sequence}", {"error": float(squared.mean()), "hidden": hidden}
    )
