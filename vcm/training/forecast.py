"""What a training will take, from two real steps on two scans; nothing is written."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import nn

from vcm.cost import peak_memory
from vcm.imaging.prepared_set import Subject
from vcm.precision import resolve_mixed_precision
from vcm.training.latents import encode_subjects
from vcm.training.module import ModuleTraining, draw_batch, set_up


def describe(config: ModuleTraining) -> dict[str, str]:
    """The plan in words. Raises VCMError as `train` does."""
    setup = set_up(config)
    train, validation, test = (setup.subjects[n] for n in ("train", "validation", "test"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    started = time.monotonic()
    few = encode_subjects(
        setup.pipeline.autoencoder, train[:2], setup.pipeline.input_rule, 1, config.seed,
        with_images=setup.with_images,
    )  # fmt: skip
    encode = (time.monotonic() - started) / len(train[:2])
    objective = setup.objective.to(device)
    optimizer = torch.optim.AdamW(setup.module.parameters(), lr=0.0)
    random, seconds = np.random.default_rng(0), 0.0
    for _ in range(2):
        started = time.monotonic()
        batch = [x.to(device) for x in draw_batch(few, config, setup.grid, config.drop, random)]
        half = resolve_mixed_precision(config.mixed_precision, device) == "bf16"
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            next(iter(objective(*batch).values())).backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds = time.monotonic() - started
    tensors = [few.mu, few.sigma, few.classes, few.images]
    each = sum(t.nbytes for t in tensors if t is not None) / len(few.mu)
    kept = each * (len(train) * config.copies + len(validation) + len(test))
    steps = seconds * config.steps
    total = (len(train) * config.copies + len(test)) * encode + min(steps, 60 * config.max_minutes)
    return {
        "train": _names(train),
        "validation": _names(validation),
        "test": _names(test),
        "conditions": ", ".join(config.conditions),
        "control": f"{config.control}, {_count(setup.module) / 1e6:.2f} M parameters to train",
        "frozen": f"{_count(setup.pipeline.denoiser) / 1e6:.2f} M in the denoiser, "
        f"{_count(setup.pipeline.autoencoder) / 1e6:.2f} M in the autoencoder",
        "a step": f"{config.batch_size} conditions, {config.draws} draws each, {seconds:.2f} s on "
        f"{device}",
        "steps": f"{config.steps}, at most {config.max_minutes:g} minutes",
        "encoding": f"{encode:.1f} s per scan and copy, {config.copies} copies; kept in {config.cache}",
        "expected time": f"{total / 60:.0f} minutes",
        "expected memory": f"{(peak_memory(device) + kept) / 1e9:.1f} GB",
    }


def _names(subjects: list[Subject]) -> str:
    shown = ", ".join(s.subject for s in subjects[:4])
    more = ", ..." if len(subjects) > 4 else ""
    return f"{len(subjects)} scans" + (f": {shown}{more}" if subjects else "")


def _count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())
