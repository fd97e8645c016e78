"""What a training run will take, from two real steps on two scans; nothing of it is kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn

from vcm.cost import peak_memory
from vcm.device import choose_device
from vcm.imaging.prepared_set import Subject
from vcm.learning.batches import moved
from vcm.pipeline import VCMPipeline
from vcm.precision import resolve_mixed_precision
from vcm.training.configuration import ModuleTraining
from vcm.training.latents import LatentFiles, LatentSet
from vcm.training.module import ModuleObjective, load_frozen, make_objective, subjects_for
from vcm.training.validation import Validation
from vcm.weights.segmenter import load_segmenter


def describe(config: ModuleTraining) -> dict[str, str]:
    """The plan in words. Raises VCMError as `train` does."""
    pipeline = load_frozen(config)
    subjects = subjects_for(config, pipeline)
    objective = make_objective(config, pipeline)
    pipeline.register_modules(module=objective.module)
    device = choose_device("auto")
    pipeline.to(device)
    objective.to(device)
    train, validation, test = (subjects[n] for n in ("train", "validation", "test"))
    with TemporaryDirectory() as folder:
        few, encode = _encoded(config, pipeline, train[:2], Path(folder))
        step = _step_seconds(
            objective, few, config.batch_size, config.draws, config.mixed_precision
        )
        each_validation = 0.0
        if config.validate_every:
            net = load_segmenter(config.segmenter) if config.segmenter else None
            each_validation = len(validation) * _seconds_to_validate(
                Validation(pipeline, objective, train[:1], few, net, Path(folder) / "picture.png")
            )
    validations = ceil(config.steps / config.validate_every) if config.validate_every else 0
    training = min(step * config.steps + each_validation * validations, 60 * config.max_minutes)
    encoded = len(train) * config.copies + len(validation) + len(test)
    words = {
        "train": _names(train),
        "validation": _names(validation),
        "test": _names(test),
        "conditions": ", ".join(config.conditions),
        "control": f"{config.control}, {_count(objective.module) / 1e6:.2f} M parameters to train",
        "frozen": f"{_count(pipeline.denoiser) / 1e6:.2f} M in the denoiser, "
        f"{_count(pipeline.autoencoder) / 1e6:.2f} M in the autoencoder",
        "a step": f"{config.batch_size} conditions, {config.draws} draws each, {step:.2f} s on "
        f"{device}",
        "steps": f"{config.steps}, at most {config.max_minutes:g} minutes",
        "encoding": f"{encode:.1f} s per scan and copy, {config.copies} copies; kept in {config.cache}",
    }
    if validations:
        words["validations"] = f"{validations}, {each_validation:.0f} s each"
    return words | {
        "expected time": f"{(encoded * encode + training) / 60:.0f} minutes",
        "expected memory": f"{peak_memory(device) / 1e9:.1f} GB, and up to "
        f"{encoded * few.nbytes / len(few) / 1e9:.1f} GB for encoded scans",
    }


def _encoded(
    config: ModuleTraining, pipeline: VCMPipeline, subjects: Sequence[Subject], folder: Path
) -> tuple[LatentSet, float]:
    """Those scans without moved copies, and the seconds that each took."""
    started = time.monotonic()
    files = LatentFiles(folder, pipeline.autoencoder, 1, config.seed, config.conditions)
    files.encode(subjects)
    seconds = (time.monotonic() - started) / len(subjects)
    return files.read(subjects, pipeline.input_rule, pipeline.volume_grid), seconds


def _step_seconds(
    objective: ModuleObjective, latents: LatentSet, batch_size: int, draws: int, precision: str
) -> float:
    """Of the second of two steps, which change nothing."""
    device = next(objective.parameters()).device
    optimizer = torch.optim.AdamW(objective.module.parameters(), lr=0.0)
    half = resolve_mixed_precision(precision, device) == "bf16"
    random, seconds = np.random.default_rng(0), 0.0
    for _ in range(2):
        started = time.monotonic()
        batch = moved(latents.draw_conditioned(batch_size, draws, 0.0, random), device)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            losses = objective(batch)
        losses["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        float(losses["loss"].detach())  # waits for the device
        seconds = time.monotonic() - started
    return seconds


@torch.inference_mode()
def _seconds_to_validate(validation: Validation) -> float:
    """Of one subject."""
    started = time.monotonic()
    validation.measure(0)
    return time.monotonic() - started


def _names(subjects: Sequence[Subject]) -> str:
    shown = ", ".join(s.subject for s in subjects[:4])
    more = ", ..." if len(subjects) > 4 else ""
    return f"{len(subjects)} scans" + (f": {shown}{more}" if subjects else "")


def _count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())
