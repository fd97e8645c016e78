"""Pretrain the diffusion model of a band-limited latent on brains drawn anew at every step; resumes exactly.

loss = mean_c w_c (v_theta(z_t, t, covariates) - v)^2        v = alpha_t eps - sigma_t z_0

as in vcm.training.diffusion. Each scan of a batch is deformed, changed in contrast, measured and encoded
while training, so that a hundred brains become many; several noises and times share that work.
"""

from __future__ import annotations

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.nn import functional as F

from vcm.diffusion.sampling import make_scheduler
from vcm.errors import VCMError
from vcm.imaging.outline import end_with_maps
from vcm.imaging.scan_pool import ScanPool, load_pool
from vcm.learning.batches import Draw
from vcm.learning.origin import Origin
from vcm.learning.processes import Processes
from vcm.learning.run import TrainingRun
from vcm.learning.start import check_network, load_start
from vcm.nets.band_autoencoder import BandAutoencoder
from vcm.nets.fine_denoiser import FineDenoiser
from vcm.nets.memory_format import channels_last
from vcm.pipeline import VCMPipeline
from vcm.report.training import Measured, write_training_report
from vcm.training.fine_batches import BrainBatch, draws_of, measure_held_out, noised
from vcm.training.fine_configuration import FineDiffusionTraining, check_draws
from vcm.training.latents import checksum_of

#: Time that parts the losses `early` and `late`.
EARLY = 0.3
#: Latents on each side over which the spread is averaged, and the least spread.
AROUND, LEAST_SPREAD = 2, 0.02


class FineDiffusionObjective(nn.Module):
    """Losses of the network's own prediction v.

    Args:
        net: The denoiser to train.
        autoencoder: Encodes the brains; its gradients are switched off.
        pool: Makes them.
    """

    def __init__(self, net: FineDenoiser, autoencoder: BandAutoencoder, pool: ScanPool) -> None:
        super().__init__()
        self.net, self.autoencoder, self.pool = net, autoencoder.requires_grad_(False), pool
        weight = autoencoder.channel_weight()[:, None, None, None]
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, batch: BrainBatch) -> dict[str, Tensor]:
        """loss, which is minimised, and its means over the times before and after EARLY."""
        return self.losses(batch, self.pool)

    def losses(self, batch: BrainBatch, pool: ScanPool) -> dict[str, Tensor]:
        """See BrainObjective."""
        brains = pool.make(batch.scans)
        draws = batch.time.shape[1]
        z, noise = noised(self.autoencoder, brains.images, batch.seeds, draws)
        inputs, time = brains.covariates.repeat_interleave(draws, 0), batch.time.flatten()
        t = self.net.at(time)
        found = self.net(self.net.add_noise(z, noise, t), t, inputs).float()
        squared = (found - self.net.target(z, noise, t)).square()
        weight: Tensor = self.get_buffer("weight")
        each = (weight * squared).mean((1, 2, 3, 4))
        early = (time < EARLY).float()
        return {
            "loss": each.mean(),
            "early": (each * early).sum() / early.sum().clamp(min=1),
            "late": (each * (1 - early)).sum() / (1 - early).sum().clamp(min=1),
        }


def pretrain_fine_diffusion(config: FineDiffusionTraining) -> dict[str, float]:
    """Train and save the frozen model in out/model.

    Returns:
        The losses of the last step, or of the split `validation` where validate_every asks for it;
        empty in all but the main process.

    Raises:
        VCMError: Where the data or the configuration allow no training.
    """
    check_draws(config)
    autoencoder = load_band_autoencoder(config)
    pool = load_pool(config.data, "train")
    check_fits(pool, autoencoder)
    held_out = load_pool(config.data, "validation") if config.validate_every else None
    set_seed(config.seed)
    net = FineDenoiser(
        autoencoder.latent_shape[0],
        channels=tuple(config.channels),
        attention=tuple(config.attention),
        head_channels=tuple(config.head_channels),
        res_blocks=config.res_blocks,
        groups=config.groups,
        wing=config.wing,
        latent_shape=autoencoder.latent_shape[1:],
    )
    if config.start:
        load_start(net, config.start)
    objective = FineDiffusionObjective(net, autoencoder, pool)
    origin = Origin({"autoencoder": checksum_of(autoencoder)}, pool.checksums())
    run = TrainingRun(config, net, objective, origin)

    def prepare(processes: Processes) -> Draw:
        if not run.resumes and not config.start:
            autoencoder.to(processes.device)
            net.spread.copy_(measure_spread(autoencoder, pool))
        channels_last(net, autoencoder)
        return draws_of(config, pool)

    def validate() -> dict[str, float]:
        assert held_out is not None
        return measure_held_out(objective, held_out, run.device)

    run.fit(prepare, validate if held_out is not None else None)
    if not run.is_main:
        return {}
    measures = validate() if held_out is not None else run.losses
    measured: Measured = "validation" if held_out is not None else "training"
    frozen_pipeline(autoencoder, net, pool).save_pretrained(run.folder / "model")
    write_training_report(
        run.folder, "Training of a diffusion model of a band-limited latent", measures, measured
    )
    return measures


def load_band_autoencoder(config: FineDiffusionTraining) -> BandAutoencoder:
    """The autoencoder that a configuration names. Raises VCMError if it, or the start, is not there."""
    if not config.data or not config.autoencoder:
        raise VCMError(
            "No data or no autoencoder is given: add data=[FOLDER] with a folder written by vcm "
            "prepare, and autoencoder=FOLDER with one written by vcm pretrain band-decoder."
        )
    check_network(config.autoencoder, "autoencoder", "vcm pretrain band-decoder")
    if config.start:
        check_network(config.start, "denoiser", "vcm pretrain fine-diffusion")
    net: BandAutoencoder = BandAutoencoder.from_pretrained(config.autoencoder)
    return net.float().eval()


def check_fits(pool: ScanPool, autoencoder: BandAutoencoder) -> None:
    """Raise VCMError where the scans do not lie on the voxels of an autoencoder."""
    wanted = tuple(n * autoencoder.factor for n in autoencoder.latent_shape[1:])
    if pool.grid.shape != wanted:
        raise VCMError(
            f"The scans were prepared on {pool.grid.shape} voxels, but the autoencoder was made for "
            f"{wanted}: prepare them with the spacing of its training scans."
        )


@torch.no_grad()
def measure_spread(autoencoder: BandAutoencoder, pool: ScanPool) -> Tensor:
    """Root of the mean square of z_0 over scans, their mirrors and the latents around each place.

    Scans are few and are deformed when they are drawn, so neighbours of a position tell of it too.

    Args:
        autoencoder: On the device to compute on.
        pool: Of the training scans.

    Returns:
        (C, x, y, z), at least LEAST_SPREAD.
    """
    square = torch.zeros(autoencoder.latent_shape, device=autoencoder.latent_mean.device)
    for scan in pool.scans():
        image = scan[None].to(square.device)
        for x in (image, image.flip(2)):
            mu, sigma = autoencoder.encode(x)
            square += (mu[0].square() + sigma[0].square()) / (2 * len(pool))
    padded = F.pad(square[None], (AROUND,) * 6, mode="replicate")
    smooth = F.avg_pool3d(padded, 2 * AROUND + 1, stride=1)[0]
    return smooth.sqrt().clamp(min=LEAST_SPREAD)


def frozen_pipeline(autoencoder: BandAutoencoder, net: FineDenoiser, pool: ScanPool) -> VCMPipeline:
    """The frozen model with what it is told of brains and where its voxels lie, on the CPU."""
    return VCMPipeline(
        autoencoder.cpu(),
        net.cpu(),
        make_scheduler("ddim"),
        covariate_ranges=dict(pool.ranges),
        population=pool.population(),
        grid={"shape": list(pool.grid.shape), "affine": pool.grid.affine.tolist()},
        clear_background=end_with_maps(zip(pool.images, pool.classes, strict=True)),
    )
