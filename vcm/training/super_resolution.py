"""Train a network that halves the voxel size, by distance and against a discriminator; resumes.

With x a crop of a scan, mirrored half of the time and with a gain and a gamma of its own,

    y = max(0, D G x + noise),    x' = I y + R(y)

G is a Gaussian of random width, D the mean over 2x2x2 voxels, both computed beyond the border of the
crop. x is not deformed: that would blur what is to be learned. The losses are those of
vcm.training.restoration; the discriminator sees x and x' in 0..1 with a little noise, as exact zeros
outside of the brain would tell them apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from accelerate.utils import set_seed
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from vcm.errors import VCMError
from vcm.imaging.scan_pool import ScanPool, load_pool
from vcm.imaging.spectrum import power_ratio
from vcm.learning.batches import Draw
from vcm.learning.origin import Origin
from vcm.learning.processes import Processes
from vcm.learning.run import TrainingRun
from vcm.learning.start import check_network, load_start
from vcm.metrics import psnr
from vcm.nets.memory_format import channels_last
from vcm.nets.patch_discriminator import PatchDiscriminator
from vcm.nets.saved import ModelMixin
from vcm.nets.super_resolution import FACTOR, SuperResolutionNet, interpolated
from vcm.report.training import Measured, write_training_report
from vcm.training.restoration import (
    adversarial_ramp,
    refuse_workers,
    restoration_losses,
)
from vcm.training.super_resolution_configuration import SuperResolutionTraining

#: Edges of the crops are multiples of this: the discriminator halves them three times.
MULTIPLE = 8
#: Voxels that the Gaussian reaches to each side, and its greatest width (FWHM) [voxel].
REACH, WIDEST = 4, 3.0
#: Range of the random gain, and of the random gamma.
CONTRAST = (0.9, 1.1)
#: Width (FWHM) of the Gaussian with which the means over 2x2x2 voxels of 1 mm come closest to what vcm
#: prepare makes of the same scan at 2 mm [voxel].
AS_PREPARED = 1.2
#: Scans that a validation looks at, and the bands of the powers that it measures [1/mm]: of 1 mm
#: voxels, the highest frequency along an axis is 0.5, and 2 mm voxels hold those up to 0.25.
HELD_OUT, FINE_BANDS = 4, (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)


class CoarseCrops(NamedTuple):
    """What the network learns from.

    Attributes:
        coarse: Crops at twice the voxel size y (B, 1, X / 2, Y / 2, Z / 2).
        images: The same crops of the scans x (B, 1, X, Y, Z).
        ramp: How much the adversarial loss counts, 0..1 (B,).
    """

    coarse: Tensor
    images: Tensor
    ramp: Tensor


class SuperResolutionPair(ModelMixin):
    """The network and its discriminator, which train together."""

    @register_to_config
    def __init__(
        self,
        channels: Sequence[int] = (32, 64),
        blocks: Sequence[int] = (2, 3),
        discriminator_channels: Sequence[int] = (32, 64, 96),
        spacing: float | None = None,
    ) -> None:
        super().__init__()
        self.net = SuperResolutionNet(tuple(channels), tuple(blocks), spacing)
        self.discriminator = PatchDiscriminator(discriminator_channels)


class SuperResolutionObjective(nn.Module):
    """Losses of network and discriminator.

    Args:
        pair: To train.
        config: Holds the weights of the losses.
    """

    def __init__(self, pair: SuperResolutionPair, config: SuperResolutionTraining) -> None:
        super().__init__()
        self.pair, self.config = pair, config

    def forward(self, batch: CoarseCrops) -> dict[str, Tensor]:
        """See vcm.training.restoration.restoration_losses."""
        found = self.pair.net(batch.coarse).float()
        judge = self.pair.discriminator
        return restoration_losses(found, batch.images, batch.ramp, judge, self.config)


def pretrain_super_resolution(config: SuperResolutionTraining) -> dict[str, float]:
    """Train on the split `train` and save the network in out/super_resolution.

    Returns:
        Measures on scans of the split `validation`, see `measure_super_resolution`, where
        validate_every asks for it; else the losses of the last step. Empty in all but the main process.

    Raises:
        VCMError: Where the data or the configuration allow no training.
    """
    _check(config)
    pool = load_pool(config.data, "train")
    held_out = load_pool(config.data, "validation") if config.validate_every else None
    for scans in (pool, held_out):
        if scans is not None:
            _check_extents(scans, config.crop)
    set_seed(config.seed)
    pair = SuperResolutionPair(
        config.channels, config.blocks, config.discriminator_channels, pool.grid.spacing[0]
    )
    if config.start:
        load_start(pair.net, config.start)
    objective = SuperResolutionObjective(pair, config)
    run = TrainingRun(config, pair, objective, Origin(scans=pool.checksums()))

    def prepare(processes: Processes) -> Draw:
        channels_last(pair)
        return CoarseDraws(config, pool.images, run, processes.device)

    def validate() -> dict[str, float]:
        assert held_out is not None
        return measure_super_resolution(pair.net.to(run.device), held_out)

    run.fit(prepare, validate if held_out is not None else None, criterion="minus_psnr")
    if not run.is_main:
        return {}
    measures = validate() if held_out is not None else run.losses
    measured: Measured = "validation" if held_out is not None else "training"
    pair.net.cpu().save_pretrained(run.folder / "super_resolution")
    write_training_report(
        run.folder, "Training of a network that halves the voxel size", measures, measured
    )
    return measures


def _check(config: SuperResolutionTraining) -> None:
    if not config.data:
        raise VCMError(
            "No data is given: add data=[FOLDER] with a folder written by vcm prepare, or a pack of it."
        )
    if config.crop < MULTIPLE or config.crop % MULTIPLE:
        raise VCMError(
            f"crop is {config.crop}: it must be a multiple of {MULTIPLE}, at least {MULTIPLE}."
        )
    if len(config.blur) != 2 or not 0 <= config.blur[0] <= config.blur[1] <= WIDEST:
        raise VCMError(
            f"blur is {list(config.blur)}: give the least and the greatest width, in this order, "
            f"from 0 to {WIDEST:g} voxels."
        )
    if config.noise < 0:
        raise VCMError(f"noise is {config.noise:g}, a standard deviation: choose 0 or more.")
    refuse_workers(config.workers)
    if config.start:
        check_network(config.start, "super_resolution", "vcm pretrain super-resolution")


def _check_extents(pool: ScanPool, crop: int) -> None:
    shape = tuple(pool.images.shape[1:])
    if any(n % (2 * FACTOR) for n in shape):
        raise VCMError(
            f"The scans have {shape} voxels, and each extent must be a multiple of {2 * FACTOR}: prepare "
            "them on the grid of a model."
        )
    if min(shape) < crop:
        raise VCMError(f"crop is {crop}, but the scans have {shape} voxels: lower it.")


class CoarseDraws:
    """Draws crops around voxels of brain, and what is left of them at twice the voxel size.

    What is drawn depends on the generator alone; it is computed on the device.

    Args:
        config: Sizes of crops, blur and noise.
        images: (N, X, Y, Z) uint8, 255 for 1.
        run: Knows the step.
        device: Where the scans are kept.
    """

    def __init__(
        self,
        config: SuperResolutionTraining,
        images: Tensor,
        run: TrainingRun,
        device: torch.device,
    ) -> None:
        self.config, self.run, self.device = config, run, device
        self.shape = tuple(images.shape[1:])
        self.inside = [np.argwhere(image.numpy() > 0).astype(np.int16) for image in images]
        # The scans end in background, so beyond their borders is more of it.
        self.padded = F.pad(images, (REACH,) * 6).to(device)

    @torch.no_grad()
    def __call__(self, random: np.random.Generator) -> CoarseCrops:
        """One batch."""
        c = self.config
        wide = torch.stack([self._crop(random) for _ in range(c.batch_size)])
        widths = self._numbers(random.uniform(c.blur[0], c.blur[1], c.batch_size))
        levels = self._numbers(random.uniform(0, c.noise, c.batch_size))
        coarse = halved(wide, widths)
        noise = self._numbers(random.standard_normal(coarse.shape, dtype=np.float32))
        coarse = (coarse + levels.reshape(-1, 1, 1, 1, 1) * noise).clamp(min=0)
        inner = slice(REACH, -REACH)
        ramp = adversarial_ramp(self.run.step, c.adversarial_from)
        return CoarseCrops(
            coarse, wide[:, :, inner, inner, inner], torch.full((c.batch_size,), ramp)
        )

    def _crop(self, random: np.random.Generator) -> Tensor:
        """(1, X, Y, Z) in 0..1, with REACH voxels beyond the crop on each side."""
        edge = self.config.crop
        index = int(random.integers(len(self.inside)))
        centre = self.inside[index][random.integers(len(self.inside[index]))]
        x, y, z = (
            slice(corner, corner + edge + 2 * REACH)
            for corner in (
                int(np.clip(at - edge // 2, 0, n - edge))
                for at, n in zip(centre, self.shape, strict=True)
            )
        )
        gain, gamma = random.uniform(*CONTRAST), random.uniform(*CONTRAST)
        crop = self.padded[index, x, y, z].float() / 255
        crop = (gain * crop**gamma).clamp(max=1)[None]
        return crop.flip(1) if random.random() < 0.5 else crop

    def _numbers(self, drawn: np.ndarray) -> Tensor:
        return torch.from_numpy(drawn.astype(np.float32)).to(self.device)


def halved(x: Tensor, widths: Tensor) -> Tensor:
    """D G x: blurred, and the mean over 2x2x2 voxels; no voxel beyond the border is guessed.

    Args:
        x: (B, 1, X, Y, Z).
        widths: Of the Gaussians, FWHM (B,) [voxel], at most WIDEST.

    Returns:
        (B, 1, X / 2 - REACH, Y / 2 - REACH, Z / 2 - REACH).
    """
    sigma = (widths / math.sqrt(8 * math.log(2))).clamp(min=1e-3)
    offsets = torch.arange(-REACH, REACH + 1, device=x.device)
    kernels = torch.exp(-0.5 * (offsets / sigma[:, None]).square())
    kernels = (kernels / kernels.sum(1, keepdim=True)).reshape(-1, len(offsets), 1, 1, 1, 1)
    for axis in (2, 3, 4):
        left = x.shape[axis] - 2 * REACH
        parts = [kernels[:, k] * x.narrow(axis, k, left) for k in range(len(offsets))]
        x = torch.stack(parts).sum(0)
    return F.avg_pool3d(x, FACTOR)


@torch.no_grad()
def measure_super_resolution(net: SuperResolutionNet, held_out: ScanPool) -> dict[str, float]:
    """Means over the first scans of a pool, made from their means over 2x2x2 voxels, sharp and blurred.

    Args:
        net: The network, on the device to compute on.
        held_out: Not trained on.

    Returns:
        minus_psnr, in the brain [dB], minus_psnr_interpolated, that of interpolation, and band_0.1 and
        so on, the power over the scan's from that spatial frequency [1/mm] to the next; the same with
        blurred_ before it for scans that were blurred by AS_PREPARED before.
    """
    rows = [
        _measured(net, scan[None].to(net.device), held_out.grid.spacing, "", 0.0)
        | _measured(net, scan[None].to(net.device), held_out.grid.spacing, "blurred_", AS_PREPARED)
        for scan in held_out.scans()[:HELD_OUT]
    ]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _measured(
    net: SuperResolutionNet, scan: Tensor, spacing: Sequence[float], prefix: str, width: float
) -> dict[str, float]:
    """Of one scan (1, 1, X, Y, Z) that was blurred by `width`."""
    coarse = halved(F.pad(scan, (REACH,) * 6), torch.tensor([width], device=scan.device))
    found, brain = net(coarse).float().clamp(0, 1), scan > 0
    ratio = power_ratio(found[0, 0].cpu().numpy(), scan[0, 0].cpu().numpy(), spacing, FINE_BANDS)
    measured = {
        "minus_psnr": -psnr(found, scan, brain),
        "minus_psnr_interpolated": -psnr(interpolated(coarse), scan, brain),
        **{f"band_{b:g}": r for b, r in zip(FINE_BANDS[:-1], ratio.tolist(), strict=True)},
    }
    return {prefix + name: value for name, value in measured.items()}
