"""The one training loop: accelerate, cosine decay, EMA, a small log, and checkpoints that resume.

A training is an objective (a module whose forward returns named losses, first of them the one that
is minimised) and a draw (step -> batch). Every draw depends on (seed, step) alone, so a run that
was stopped goes on exactly as if it had not been.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.training_utils import EMAModel
from omegaconf import OmegaConf
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from vcm.errors import VCMError

CHECKPOINT = "checkpoint.pt"
#: Makes one global batch from a generator that depends on seed and step alone.
Draw = Callable[[np.random.Generator], tuple[Tensor, ...]]


@dataclass
class TrainingSchedule:
    """What every training has in common. Steps are optimiser steps; max_minutes bounds this run.

    The learning rate warms up linearly and falls as a cosine of whichever is further, the steps or
    the minutes; with max_minutes left at infinity the result depends on the configuration alone.
    """

    out: str = "runs/new"
    steps: int = 20000
    max_minutes: float = math.inf
    batch_size: int = 2
    learning_rate: float = 5e-4
    final_learning_rate: float = 1e-5
    warmup_steps: int = 100
    ema_decay: float = 0.998
    gradient_clip: float = 1.0
    mixed_precision: str = "bf16"
    checkpoint_every: int = 200
    seed: int = 0


def has_checkpoint(config: TrainingSchedule) -> bool:
    """Whether a run in config.out was begun before and will go on."""
    return (Path(config.out) / CHECKPOINT).is_file()


class TrainingRun:
    """One folder: config.yaml, log.csv, checkpoint.pt. Raises VCMError where a loss is not finite."""

    def __init__(self, config: TrainingSchedule, trained: nn.Module, objective: nn.Module) -> None:
        torch.set_flush_denormal(True)
        set_seed(config.seed)
        self.config = config
        self.net = trained
        self.accelerator = Accelerator(mixed_precision=config.mixed_precision)
        self.folder = Path(config.out)
        self.folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(OmegaConf.create(asdict(config)), self.folder / "config.yaml")
        parameters = [p for p in trained.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, config.learning_rate, betas=(0.9, 0.99))
        self.ema = EMAModel(parameters, decay=config.ema_decay, use_ema_warmup=True, power=0.75)
        self.parameters = parameters
        self.step, self.minutes = 0, 0.0
        self._resume()
        self.objective, self.optimizer = self.accelerator.prepare(objective, self.optimizer)

    def fit(self, prepare: Callable[[], Draw]) -> None:
        """Train to the last step or minute, then leave the averaged weights in the network.

        `prepare` is called only where training is left to do, and gives what draws one global
        batch; each process trains on its share of the first axis.
        """
        if self.progress < 1:
            self._train(prepare())
        self.ema.copy_to(self.parameters)
        self.net.eval()

    def _train(self, draw: Draw) -> None:
        before, started = self.minutes, time.monotonic()
        bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(), disable=not self.accelerator.is_main_process,
        )  # fmt: skip
        with bar:
            task = bar.add_task("Training", total=1.0, state="")
            while self.progress < 1:
                losses = self._update(draw(np.random.default_rng((self.config.seed, self.step))))
                self.step += 1
                self.minutes = before + (time.monotonic() - started) / 60
                bar.update(task, completed=self.progress, state=f"step {self.step}")
                if self.step % self.config.checkpoint_every == 0 or self.progress >= 1:
                    self._log(losses)
                    self._checkpoint()

    @property
    def progress(self) -> float:
        """0 at the start, 1 when the steps or the minutes are used up."""
        return max(self.step / self.config.steps, self.minutes / self.config.max_minutes)

    def _update(self, batch: tuple[Tensor, ...]) -> Mapping[str, Tensor]:
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        count, index = self.accelerator.num_processes, self.accelerator.process_index
        device = self.accelerator.device
        losses = self.objective(*(x[index::count].to(device) for x in batch))
        minimised = next(iter(losses.values()))
        if not torch.isfinite(minimised):
            raise VCMError(
                f"The loss is {minimised.item()} at step {self.step}: lower learning_rate and go "
                f"on from the last checkpoint in {self.folder}."
            )
        self.accelerator.backward(minimised)
        self.accelerator.clip_grad_norm_(self.parameters, self.config.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.parameters)
        return dict(losses)

    def _learning_rate(self) -> float:
        c = self.config
        warm = min(1.0, (self.step + 1) / c.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, self.progress)))
        return warm * (c.final_learning_rate + (c.learning_rate - c.final_learning_rate) * cosine)

    def _log(self, losses: Mapping[str, Tensor]) -> None:
        if not self.accelerator.is_main_process:
            return
        row = {"step": self.step, "minutes": f"{self.minutes:.2f}"}
        row |= {name: f"{loss.item():.6g}" for name, loss in losses.items()}
        path = self.folder / "log.csv"
        new = not path.is_file()
        with path.open("a", newline="", encoding="utf-8") as lines:
            writer = csv.DictWriter(lines, list(row), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)

    def _checkpoint(self) -> None:
        if not self.accelerator.is_main_process:
            return
        state = {
            "step": self.step,
            "minutes": self.minutes,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "random": torch.get_rng_state(),
        }
        part = self.folder / ".part-checkpoint.pt"
        torch.save(state, part)
        part.replace(self.folder / CHECKPOINT)

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.is_file():
            return
        state: dict[str, Any] = torch.load(path, weights_only=True)
        self.step, self.minutes = state["step"], state["minutes"]
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        torch.set_rng_state(state["random"])
