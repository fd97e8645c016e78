"""Pretrain the latent diffusion model that later stays frozen; stops and resumes.

loss = mean_c w_c (v_theta(z_t, t, covariates) - v)^2        v = alpha_t eps - sigma_t z_0

with w_c in proportion to how strongly latent channel c shows in the image, so that the first
components, which carry the anatomy, are learned before the last ones, which carry the texture.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from vcm.diffusion.sampling import make_scheduler, sample
from vcm.errors import VCMError
from vcm.imaging.covariates import COVARIATES, describe_population, trained_ranges
from vcm.imaging.prepared_set import Subject, check_one_grid, load_prepared
from vcm.imaging.scan_checksums import check_apart, scan_checksums
from vcm.imaging.volume import Grid, read_volume
from vcm.inputs import InputRule
from vcm.learning.batches import Draw, moved
from vcm.learning.origin import Origin
from vcm.learning.processes import Processes
from vcm.learning.run import TrainingRun
from vcm.learning.start import check_network, load_start
from vcm.nets.autoencoder import LatentAutoencoder
from vcm.nets.denoiser import LatentDenoiser
from vcm.pipeline import VCMPipeline
from vcm.report.picture import mosaic
from vcm.report.training import write_training_report
from vcm.training.batches import LatentBatch
from vcm.training.configuration import DiffusionTraining, check_samples
from vcm.training.latents import LatentFiles, LatentSet, checksum_of
from vcm.training.subjects import complete_scans, test_subjects


class DiffusionObjective(nn.Module):
    """Losses of the network's own prediction v.

    Args:
        net: The denoiser to train.
        channel_weight: Of each latent channel in the loss, mean 1 (C,).
    """

    def __init__(self, net: LatentDenoiser, channel_weight: Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("weight", channel_weight[:, None, None, None], persistent=False)

    def forward(self, batch: LatentBatch) -> dict[str, Tensor]:
        """loss, weighted by channel, which is minimised, and v_mse, the plain error."""
        t = self.net.at(batch.time)
        z_t = self.net.add_noise(batch.z, batch.noise, t)
        found = self.net(z_t, t, batch.inputs).float()
        squared = (found - self.net.target(batch.z, batch.noise, t)).square()
        weight: Tensor = self.get_buffer("weight")
        return {"loss": (weight * squared).mean(), "v_mse": squared.mean()}


def pretrain_diffusion(config: DiffusionTraining) -> dict[str, float]:
    """Train, save the frozen model in out/model, measure the loss on the split `test` at fixed noise.

    Returns:
        The losses; empty without test scans, and in all but the main process.

    Raises:
        VCMError: Where the data or the configuration allow no training.
    """
    autoencoder = _load_autoencoder(config)
    everyone = load_prepared(*config.data, split="train")
    subjects = complete_scans(everyone, COVARIATES, "training")
    ranges, population = trained_ranges(subjects), describe_population(subjects)
    rule = InputRule(COVARIATES, ranges, population)
    held_out = test_subjects(config.data, COVARIATES)
    check_apart(subjects, held_out)
    check_one_grid([*subjects, *held_out])
    grid = read_volume(subjects[0].image_file).grid
    _check_grid(grid, autoencoder)
    set_seed(config.seed)
    net = LatentDenoiser(
        autoencoder.config.latent_channels,
        channels=tuple(config.channels),
        attention=tuple(config.attention),
        head_channels=tuple(config.head_channels),
        res_blocks=config.res_blocks,
        groups=config.groups,
        latent_shape=tuple(autoencoder.config.latent_shape),
    )
    if config.start:
        load_start(net, config.start)
    net.net.to(memory_format=torch.channels_last_3d)
    objective = DiffusionObjective(net, autoencoder.channel_weight())
    origin = Origin({"autoencoder": checksum_of(autoencoder)}, scan_checksums(subjects))
    run = TrainingRun(config, net, objective, origin)
    cache = Path(config.cache or f"{config.out}/latents")

    def latents(chosen: list[Subject], copies: int) -> LatentSet:
        files = LatentFiles(cache, autoencoder, copies, config.seed)
        files.encode(chosen)
        return files.read(chosen, rule, grid)

    def prepare(processes: Processes) -> Draw:
        autoencoder.to(processes.device)
        processes.once_per_machine(lambda: latents(subjects, config.copies))
        train_set = latents(subjects, config.copies)
        net.spread.copy_(train_set.spread())
        return partial(train_set.draw, config.batch_size)

    run.fit(prepare)
    if not run.is_main:
        return {}
    VCMPipeline(
        autoencoder,
        net,
        make_scheduler("ddim"),
        covariate_ranges=ranges,
        population=population,
        grid={"shape": list(grid.shape), "affine": grid.affine.tolist()},
    ).save_pretrained(run.folder / "model")
    autoencoder.to(run.device)
    shown = latents(held_out or subjects[:8], 1)
    _draw_samples(net, autoencoder, shown, run.folder / "samples.png")
    measures = _measure(objective, shown) if held_out else {}
    write_training_report(run.folder, "Training of a latent diffusion model", measures)
    return measures


def _load_autoencoder(config: DiffusionTraining) -> LatentAutoencoder:
    """The autoencoder that a configuration names. Raises VCMError if it, or the start, is not there."""
    if not config.data or not config.autoencoder:
        raise VCMError(
            "No data or no autoencoder is given: add data=[FOLDER] with a folder written by vcm "
            "prepare, and autoencoder=FOLDER with one written by vcm pretrain autoencoder."
        )
    check_samples(config)
    check_network(config.autoencoder, "autoencoder", "vcm pretrain autoencoder")
    if config.start:
        check_network(config.start, "denoiser", "vcm pretrain diffusion")
    net: LatentAutoencoder = LatentAutoencoder.from_pretrained(config.autoencoder)
    return net.eval()


def _check_grid(grid: Grid, autoencoder: LatentAutoencoder) -> None:
    wanted = tuple(n * autoencoder.factor for n in autoencoder.latent_shape[1:])
    if grid.shape != wanted:
        raise VCMError(
            f"The scans were prepared on {grid.shape} voxels, but the autoencoder was trained on "
            f"{wanted}: prepare them with the spacing of its training scans."
        )


@torch.inference_mode()
def _measure(objective: DiffusionObjective, test: LatentSet) -> dict[str, float]:
    random, device = np.random.default_rng(0), objective.net.device
    losses = [objective(moved(test.draw(8, random), device)) for _ in range(16)]
    return {name: float(torch.stack([x[name] for x in losses]).mean()) for name in losses[0]}


@torch.inference_mode()
def _draw_samples(
    net: LatentDenoiser, autoencoder: LatentAutoencoder, latents: LatentSet, path: Path
) -> None:
    """Eight uncontrolled samples with what is told of the first scans; 50 DDIM steps."""
    inputs = latents.inputs[:8].to(net.device)
    shape = (len(inputs), *latents.latent_shape)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(net.device)

    def predict(z_t: Tensor, t: Tensor) -> Tensor:
        t = t.reshape(1)
        return net.to_model_output(net(z_t, t, inputs), z_t, t)

    z = sample(predict, noise, make_scheduler("ddim"), 50)
    images = [autoencoder.decode(one[None])[0, 0].cpu().numpy() for one in z]
    titles = [f"sample {n}" for n in range(len(images))]
    mosaic(images, path, titles, latents.grid.affine)
