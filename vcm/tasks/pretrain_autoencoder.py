"""Pretrain the latent autoencoder on prepared scans; stops and resumes.

loss = mean |x - x'| + mse_weight * mean (x - x')^2 + kl_weight * KL(N(mu, sigma) || N(0, 1))
"""

from __future__ import annotations

import csv
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.training_utils import EMAModel
from omegaconf import OmegaConf
from rich.progress import track
from torch import Tensor

from vcm.errors import VCMError
from vcm.imaging.dataset import Subject, load_prepared
from vcm.nets.autoencoder import LatentAutoencoder


@dataclass
class AutoencoderTraining:
    """Configuration of `vcm pretrain autoencoder`. Sizes in voxels, times in minutes."""

    data: list[str] = field(default_factory=list)
    out: str = "runs/autoencoder"
    channels: list[int] = field(default_factory=lambda: [48, 96, 128])
    latent_channels: int = 32
    res_blocks: int = 1
    groups: int = 8
    patch: int = 2
    crop: int = 48
    batch_size: int = 2
    steps: int = 20000
    max_minutes: float = math.inf
    learning_rate: float = 5e-4
    final_learning_rate: float = 2e-5
    warmup_steps: int = 100
    mse_weight: float = 5.0
    kl_weight: float = 1e-6
    ema_decay: float = 0.998
    mixed_precision: str = "bf16"
    checkpoint_every: int = 200
    seed: int = 0


def pretrain_autoencoder(config: AutoencoderTraining) -> dict[str, float]:
    """Train, then measure on the split `test`. Returns the measures, also in measures.json."""
    if not config.data:
        raise VCMError("No data is given: add data=[FOLDER] with a folder written by vcm prepare.")
    torch.set_flush_denormal(True)
    set_seed(config.seed)
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(asdict(config), out / "config.yaml")
    subjects = load_prepared(*config.data, split="train")
    images = _load(subjects)
    net = LatentAutoencoder(
        tuple(config.channels),
        config.latent_channels,
        config.res_blocks,
        config.groups,
        config.patch,
        _latent_shape(images.shape[-3:], config),
    )
    net.net.to(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(net.parameters(), config.learning_rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: _cosine(s, config))
    ema = EMAModel(net.parameters(), decay=config.ema_decay, use_ema_warmup=True, power=0.75)
    first = _resume(out, net, optimizer, schedule, ema)
    trained, optimizer = accelerator.prepare(net, optimizer)
    started = time.monotonic()
    for step in track(range(first, config.steps), "Training", completed=first, total=config.steps):
        crops = _crops(images, config, step)
        with accelerator.autocast():
            found, mu, sigma = trained.reconstruct(crops)
        difference = found.float() - crops
        kl = 0.5 * (mu.float() ** 2 + sigma.float() ** 2 - 2 * sigma.float().log() - 1)
        squared = difference.square().mean()
        loss = difference.abs().mean() + config.mse_weight * squared + config.kl_weight * kl.mean()
        if not torch.isfinite(loss):
            raise VCMError(
                f"The loss is {loss.item()} at step {step}: lower learning_rate and start again "
                f"from the last checkpoint in {out}."
            )
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        ema.step(net.parameters())
        minutes = (time.monotonic() - started) / 60
        last = step + 1 == config.steps or minutes > config.max_minutes
        if (step + 1) % config.checkpoint_every == 0 or last:
            _log(out, step + 1, loss.item(), -10 * math.log10(squared.item()), minutes)
            _checkpoint(out, step + 1, net, optimizer, schedule, ema)
        if last:
            break
    ema.copy_to(net.parameters())
    net.eval()
    _store_latent_statistics(net, images)
    net.save_pretrained(out / "autoencoder")
    return measure_autoencoder(net, load_prepared(*config.data, split="test"), out)


def measure_autoencoder(
    net: LatentAutoencoder, subjects: list[Subject], out: Path
) -> dict[str, float]:
    """PSNR [dB] and SSIM inside the brain mask, from the mean latent, one row per subject."""
    from monai.metrics.regression import compute_ssim_and_cs

    rows = []
    with torch.inference_mode():
        for subject in subjects:
            image = _load([subject])
            found = net.decode(net.encode(image)[0])
            mask = image > 0
            mse = (found - image)[mask].square().mean().item()
            whole = (found - image).square().mean().item()
            window = (11, 11, 11)
            ssim, _ = compute_ssim_and_cs(
                found, image, 3, window, (1.5, 1.5, 1.5), data_range=torch.tensor(1.0)
            )
            core = mask[..., 5:-5, 5:-5, 5:-5]
            rows.append(
                {
                    "subject": subject.subject,
                    "psnr_brain": -10 * math.log10(mse),
                    "psnr_whole": -10 * math.log10(whole),
                    "ssim_brain": ssim[core].mean().item(),
                }
            )
    with (out / "test.csv").open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    columns = [name for name in rows[0] if name != "subject"]
    return {name: float(np.mean([row[name] for row in rows])) for name in columns}


def _load(subjects: list[Subject]) -> Tensor:
    return torch.from_numpy(np.stack([s.image() for s in subjects])[:, None])


def _latent_shape(shape: torch.Size, config: AutoencoderTraining) -> tuple[int, int, int]:
    factor = config.patch * 2 ** (len(config.channels) - 1)
    x, y, z = (s // factor for s in shape)
    return x, y, z


def _cosine(step: int, config: AutoencoderTraining) -> float:
    warm = min(1.0, (step + 1) / config.warmup_steps)
    low = config.final_learning_rate / config.learning_rate
    return warm * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / config.steps))))


def _crops(images: Tensor, config: AutoencoderTraining, step: int) -> Tensor:
    """Random crops, flipped left-right half of the time; drawn from (seed, step) alone."""
    random = np.random.default_rng((config.seed, step))
    crops = []
    for _ in range(config.batch_size):
        image = images[random.integers(len(images))]
        corner = [int(random.integers(s - config.crop + 1)) for s in image.shape[1:]]
        x, y, z = (slice(c, c + config.crop) for c in corner)
        crop = image[:, x, y, z]
        crops.append(crop.flip(1) if random.random() < 0.5 else crop)
    return torch.stack(crops)


def _store_latent_statistics(net: LatentAutoencoder, images: Tensor) -> None:
    """Mean latent per voxel and one standard deviation per channel, over scans and their mirrors."""
    with torch.inference_mode():
        mu = torch.cat([net.posterior(x[None])[0] for i in images for x in (i, i.flip(1))])
    net.latent_mean.copy_(mu.mean(0))
    net.latent_std.copy_((mu - mu.mean(0)).square().mean((0, 2, 3, 4)).sqrt())


def _log(out: Path, step: int, loss: float, psnr: float, minutes: float) -> None:
    path = out / "log.csv"
    if not path.is_file():
        path.write_text("step,loss,psnr_crops,minutes\n", encoding="utf-8")
    with path.open("a", encoding="utf-8") as lines:
        lines.write(f"{step},{loss:.6f},{psnr:.3f},{minutes:.2f}\n")


def _checkpoint(out: Path, step: int, net, optimizer, schedule, ema) -> None:  # type: ignore[no-untyped-def]
    state = {
        "step": step,
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "ema": ema.state_dict(),
        "random": torch.get_rng_state(),
    }
    torch.save(state, out / ".part-checkpoint.pt")
    (out / ".part-checkpoint.pt").replace(out / "checkpoint.pt")


def _resume(out: Path, net, optimizer, schedule, ema) -> int:  # type: ignore[no-untyped-def]
    path = out / "checkpoint.pt"
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    net.load_state_dict(state["net"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    ema.load_state_dict(state["ema"])
    torch.set_rng_state(state["random"])
    return int(state["step"])
