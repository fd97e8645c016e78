"""The one training loop: accelerate, cosine decay, EMA, and checkpoints that resume exactly.

A training is an objective (a module whose forward returns named losses, first of them the one that
is minimised; means over the batch) and a draw (step -> batch). Every draw depends on (seed, step)
alone, so a run that was stopped, or killed, goes on exactly as if it had not been; and the same
batch may be shared by several processes or taken in parts.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from vcm.errors import VCMError
from vcm.learning.processes import Processes, random_state, set_random_state, untouched_randomness
from vcm.learning.run_folder import CHECKPOINT, RunFolder
from vcm.learning.schedule import TrainingSchedule, check_schedule, check_validation
from vcm.learning.watch import LossWatch, Tracker
from vcm.precision import resolve_mixed_precision

#: Makes one global batch from a generator that depends on seed and step alone.
Draw = Callable[[np.random.Generator], tuple[Tensor, ...]]
#: Measures the network as it is, lower is better for the first; called in the main process only,
#: so it must not wait for the others.
Validate = Callable[[], dict[str, float]]


def has_checkpoint(config: TrainingSchedule) -> bool:
    """Whether a run in config.out was begun before and will go on."""
    return (Path(config.out) / CHECKPOINT).is_file()


class TrainingRun:
    """One training in one folder, see RunFolder. Raises VCMError where it cannot go on.

    What a step leaves behind is written only after the loss of the next step, taken with those
    weights, has shown them to be good; so a run that diverges has a good checkpoint to go on from.
    """

    def __init__(self, config: TrainingSchedule, trained: nn.Module, objective: nn.Module) -> None:
        torch.set_flush_denormal(True)
        check_schedule(config)
        # Recorded as resolved, so that a run resumed on another machine cannot change in silence.
        device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
        precision = resolve_mixed_precision(config.mixed_precision, device)
        config = replace(config, mixed_precision=precision)
        self.config = config
        self.net: Any = trained
        self.processes = Processes(config)
        self.accelerator = self.processes.accelerator
        self.folder = Path(config.out)
        self.files = RunFolder(self.folder, config.keep_checkpoints)
        state, changes = self.processes.on_main(lambda: self.files.open(config))
        self.objective = self.processes.prepare(objective, trained)
        parameters = [p for p in trained.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, config.learning_rate, betas=(0.9, 0.99))
        self.optimizer = self.accelerator.prepare(optimizer)
        self.ema = EMAModel(parameters, decay=config.ema_decay, use_ema_warmup=True, power=0.75)
        self.parameters = parameters
        self.step, self.minutes, self.kept = 0, 0.0, 0
        self.losses: dict[str, float] = {}
        self.watch = LossWatch(config.explosion)
        self.validate: Validate | None = None
        if state:
            self._go_on(state)
        for change in changes if self.is_main else ():
            print(f"{config.out} goes on from step {self.step} with {change}.", file=sys.stderr)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.processes.is_main

    def fit(self, prepare: Callable[[], Draw], validate: Validate | None = None) -> None:
        """Train to the last step or minute, then leave the averaged weights in the network.

        `prepare` is called only where training is left to do, and gives what draws one global
        batch. `validate` measures the averaged weights, without gradients; what it draws at random
        changes nothing in the training.
        """
        check_validation(self.config, validate is not None)
        self.validate = validate
        if self.progress < 1:
            draw = prepare()
            with Tracker(self.accelerator, self.config, self.step) as self.tracker:
                self._train(draw)
        self.ema.copy_to(self.parameters)
        if self.config.weights == "best":
            best = self.processes.on_main(lambda: self.files.load_best(self.net))
            self.net.load_state_dict(best)
        self.net.eval()
        self.accelerator.wait_for_everyone()

    def _train(self, draw: Draw) -> None:
        before, started = self.minutes, time.monotonic()
        bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(), disable=not self.is_main,
        )  # fmt: skip
        with bar:
            task = bar.add_task("Training", total=1.0, state="")
            while self.progress < 1:
                self._update(draw(np.random.default_rng((self.config.seed, self.step))))
                self.step += 1
                self.minutes = self.processes.agree(before + (time.monotonic() - started) / 60)
                bar.update(task, completed=self.progress, state=f"step {self.step}")
            self._refuse_bad_weights()
            self._keep(random_state())

    @property
    def progress(self) -> float:
        """0 at the start, 1 when the steps or the minutes are used up."""
        return max(self.step / self.config.steps, self.minutes / self.config.max_minutes)

    def _update(self, batch: tuple[Tensor, ...]) -> None:
        """One step of the optimiser; before it, what the last one left behind is written."""
        c = self.config
        due = self.step > self.kept and any(
            map(self._is_due, (c.checkpoint_every, c.save_every, c.validate_every))
        )
        random = random_state() if due else {}
        losses = self._differentiate(batch)
        norm = self.accelerator.clip_grad_norm_(self.parameters, c.gradient_clip)
        minimised = next(iter(losses.values()))
        complaint = self.watch.complaint(minimised)
        # With fp16 a gradient that overflows is no fault: the scaler skips that step.
        if complaint is None and self.accelerator.scaler is None and not torch.isfinite(norm):
            complaint = f"The gradient is {norm.item()}"
        if complaint is not None:
            raise self._diverged(complaint)
        if due:
            self._keep(random)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.parameters)
        self.losses = losses
        self.watch.remember(minimised)

    def _differentiate(self, batch: tuple[Tensor, ...]) -> dict[str, float]:
        """Gradients of the mean over the global batch; the losses, the same in all processes."""
        losses, parts = [], self.config.accumulate
        for number, part in enumerate(self.processes.share(batch, parts), start=1):
            alone = nullcontext() if number == parts else self.accelerator.no_sync(self.objective)
            with alone:
                found = self.objective(*part)
                self.accelerator.backward(next(iter(found.values())))
            losses.append({name: loss.detach() for name, loss in found.items()})
        return self.processes.mean(losses)

    def _learning_rate(self) -> float:
        c = self.config
        warm = min(1.0, (self.step + 1) / max(1, c.warmup_steps))
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, self.progress)))
        return warm * (c.final_learning_rate + (c.learning_rate - c.final_learning_rate) * cosine)

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _keep(self, random: dict[str, Tensor]) -> None:
        """Write what is due after this step: the checkpoint last, so that it outruns nothing.

        `random` is the state that the next step begins with.
        """
        c, ended = self.config, self.progress >= 1
        if self._is_due(c.checkpoint_every) or ended:
            self._log(self.losses, "log.csv", "")
        if self._is_due(c.save_every) and self.is_main:
            with self._averaged():
                self.files.save_snapshot(self.net, self.step)
        if self.validate and c.validate_every and (self._is_due(c.validate_every) or ended):
            with self._averaged():
                values = self.processes.on_main(self._measure)
            self._log(values, "validation.csv", "validation/")
        self._checkpoint(self.processes.gather(random))
        self.kept = self.step

    def _measure(self) -> dict[str, float]:
        assert self.validate is not None
        with torch.inference_mode(), untouched_randomness():
            values = {name: float(value) for name, value in self.validate().items()}
        self.files.offer_best(self.net, self.step, values)
        return values

    def _log(self, values: dict[str, float], table: str, prefix: str) -> None:
        if not self.is_main:
            return
        row: dict[str, object] = {"step": self.step, "minutes": f"{self.minutes:.2f}"}
        self.files.append(table, row | {k: f"{v:.6g}" for k, v in values.items()})
        self.tracker.add({f"{prefix}{name}": value for name, value in values.items()}, self.step)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The averaged weights in the network, which does not train; then as it was."""
        modes = [(module, module.training) for module in self.net.modules()]
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        self.net.eval()
        try:
            yield
        finally:
            self.ema.restore(self.parameters)
            for module, mode in modes:
                module.training = mode

    def _checkpoint(self, random: list[dict[str, Tensor]]) -> None:
        if not self.is_main:
            return
        scaler = self.accelerator.scaler
        self.files.save_state(
            {
                "step": self.step,
                "minutes": self.minutes,
                "net": self.net.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "ema": self.ema.state_dict(),
                "losses": list(self.watch.seen),
                "scaler": scaler.state_dict() if scaler else None,
                "random": random,
            }
        )

    def _go_on(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint, also of a run begun before all of this was kept.

        A process that the checkpoint does not know, because there were fewer, keeps its own seed.
        """
        self.step, self.minutes = state["step"], state["minutes"]
        self.kept = self.step
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        self.ema.to(self.accelerator.device)
        self.watch = LossWatch(self.config.explosion, state.get("losses", ()))
        if self.accelerator.scaler and state.get("scaler"):
            self.accelerator.scaler.load_state_dict(state["scaler"])
        random = state["random"]
        known = random if isinstance(random, list) else [{"cpu": random}]
        if self.processes.index < len(known):
            set_random_state(known[self.processes.index])

    def _refuse_bad_weights(self) -> None:
        """No further loss will try the last step's weights, so look at them."""
        if not all(bool(torch.isfinite(p).all()) for p in self.parameters):
            raise self._diverged("A weight is no number")

    def _diverged(self, complaint: str) -> VCMError:
        return VCMError(
            f"{complaint} at step {self.step}: lower learning_rate (or raise explosion where such "
            f"a loss is no accident) and run the same command again, which goes on from step "
            f"{self.kept} in {self.folder}."
        )
