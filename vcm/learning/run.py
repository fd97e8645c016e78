"""The one training loop: accelerate, cosine decay, EMA, and checkpoints that resume exactly.

A run is an objective (a module that takes one batch and returns named losses, means over the batch,
of which LOSS is minimised) and batches (see vcm.learning.batches). A seeded draw depends on
(seed, step) alone, so a run that was stopped, or killed, resumes exactly as if it had not been; and
the same batch may be shared by several processes or taken in parts. Knows no brain and no model.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from vcm.errors import VCMError
from vcm.learning.batches import Batch, Batches, Prepare, as_batches
from vcm.learning.origin import Origin
from vcm.learning.processes import (
    Processes,
    flushed_denormals,
    random_state,
    set_random_state,
    untouched_randomness,
)
from vcm.learning.run_folder import PROGRESS, RunFolder
from vcm.learning.schedule import (
    TrainingSchedule,
    check_schedule,
    check_shares,
    check_validation,
)
from vcm.learning.watch import LossWatch, Tracker
from vcm.precision import keep_thin_convolutions_exact, resolve_mixed_precision
from vcm.progress import Tell, progress

#: The loss that is minimised, and the measure by which a validation chooses the best weights.
LOSS = "loss"
#: Measures the network as it is; called in the main process only, so it must not wait for others.
Validate = Callable[[], dict[str, float]]


class TrainingRun:
    """One training run in one folder, see RunFolder.

    What a step leaves behind is written only after the loss of the next step, taken with those
    weights, has shown them to be good; so a run that diverges has a good checkpoint to resume from.

    Args:
        schedule: Its configuration; `schedule.out` is the folder.
        trained: The network to train, with `save_pretrained` and `from_pretrained` of diffusers.
        objective: Holds it. `objective(batch)` returns losses by name, LOSS among them; it may draw
            random numbers from torch alone.
        origin: What is learned from, compared where the run resumes; None: it is not looked at.

    Attributes:
        folder: Of the run.
        step: Optimiser steps done.
        resumes: Whether `fit` found a run in the folder; to be read in `prepare` too.
    """

    def __init__(
        self,
        schedule: TrainingSchedule,
        trained: nn.Module,
        objective: nn.Module,
        origin: Origin | None = None,
    ) -> None:
        self.schedule, self.origin = schedule, origin
        self.net: Any = trained
        keep_thin_convolutions_exact(trained)
        self.objective = objective
        self.folder = Path(schedule.out)
        self.files = RunFolder(self.folder, schedule.keep_checkpoints)
        self.step, self.minutes, self.kept = 0, 0.0, 0
        self.resumes = False
        self.losses: dict[str, float] = {}
        self.watch = LossWatch(schedule.explosion)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files; known once `fit` has begun."""
        return self.processes.is_main

    @property
    def device(self) -> torch.device:
        """Where this process trains; known once `fit` has begun."""
        return self.processes.device

    def fit(
        self,
        batches: Prepare | Iterable[Batch],
        validate: Validate | None = None,
        criterion: str = LOSS,
    ) -> None:
        """Train to the last step or minute, then leave the averaged weights in the network.

        Args:
            batches: A DataLoader, or any iterable, of global batches, see LoaderBatches. Or a
                function, called in every process before the network is wrapped and only where
                training is left to do: from the processes to what draws one global batch of a
                random generator. It may load data onto `processes.device`, and initialise the
                network of a run that does not resume.
            validate: Returns measures by name of the network as it is, which has the averaged
                weights then. Called without gradients, in the main process only; what it draws at
                random changes nothing in the training.
            criterion: The measure that is lowest at the weights to keep in best/.

        Raises:
            VCMError: Where the run cannot begin, resume or go on.
        """
        check_schedule(self.schedule)
        # Recorded as resolved, so that a run resumed on another machine cannot change in silence.
        device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
        precision = resolve_mixed_precision(self.schedule.mixed_precision, device)
        self.schedule = c = replace(self.schedule, mixed_precision=precision)
        check_validation(c, validate is not None)
        self.validate, self.criterion = validate, criterion
        self.processes = Processes.start(c.out, c.seed, c.accumulate, c.mixed_precision, c.tracker)
        check_shares(c.batch_size, c.accumulate, self.processes.count)
        self.accelerator = self.processes.accelerator
        with flushed_denormals(), self._opened_folder() as (state, changes):
            self.resumes = state is not None
            if state:
                self.step, self.minutes = state["step"], state["minutes"]
            self.batches: Batches | None = None
            if self.progress < 1:
                self.batches = as_batches(batches, self.processes, c.seed, c.batch_size, c.workers)
            self._wrap()
            if state:
                self._resume(state)
            for change in changes if self.is_main else ():
                print(f"{c.out} resumes from step {self.step} with {change}.", file=sys.stderr)
            if self.batches:
                with (
                    closing(self.batches),
                    Tracker(self.accelerator, asdict(c), self.step) as self.tracker,
                ):
                    self._train(self.batches)
            self._leave_weights()

    @contextmanager
    def _opened_folder(self) -> Iterator[tuple[dict[str, Any] | None, list[str]]]:
        """The folder held by the main process; what it found there, in every process."""
        with ExitStack() as held:
            yield self.processes.on_main(
                lambda: held.enter_context(
                    self.files.opened(self.schedule, self._room(), self.origin)
                )
            )

    def _room(self) -> int:
        """Bytes that a run writes: two states while one replaces the other, snapshots, best, the result.

        A state holds the network, its average, and two moments of each parameter.
        """
        net = sum(t.numel() * t.element_size() for t in self.net.state_dict().values())
        return net * (2 * 4 + self.schedule.keep_checkpoints + 2)

    def _wrap(self) -> None:
        """The objective on its device, with optimiser and averaged weights."""
        c = self.schedule
        self.wrapped = self.processes.prepare(self.objective, self.net)
        self.parameters = [p for p in self.net.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(self.parameters, c.learning_rate, betas=(0.9, 0.99))
        self.optimizer: Any = self.accelerator.prepare(optimizer)
        self.ema = EMAModel(self.parameters, decay=c.ema_decay, use_ema_warmup=True, power=0.75)

    def _train(self, batches: Batches) -> None:
        before, started = self.minutes, time.monotonic()
        with self._telling() as tell:
            while self.progress < 1:
                # Taken before the batch, as the checkpoint is to begin with it.
                place = self._place(batches) if self._anything_is_due() else None
                self._update(batches.take(self.step), place)
                self.step += 1
                self.minutes = self.processes.agree(before + (time.monotonic() - started) / 60)
                state = f"loss {self.losses[LOSS]:.4g}, rate {self._learning_rate():.3g}"
                tell(self.step, self.schedule.steps, state, self.progress)
            self._refuse_bad_weights()
            self._keep(self._place(batches))

    @contextmanager
    def _telling(self) -> Iterator[Tell]:
        """Progress in the main process, and in the folder's file for whoever looks on from elsewhere."""
        if not self.is_main:
            yield lambda *_: None
            return
        with progress("Training", self.step, self.progress, self.folder / PROGRESS) as tell:
            yield tell

    @property
    def progress(self) -> float:
        """0 at the start, 1 when the steps or the minutes are used up."""
        return max(self.step / self.schedule.steps, self.minutes / self.schedule.max_minutes)

    def _update(self, batch: Batch, place: dict[str, Any] | None) -> None:
        """One step of the optimiser; before it, what the last one left behind is written."""
        losses = self._differentiate(batch)
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.schedule.gradient_clip)
        complaint = self.watch.check(losses[LOSS])
        # With fp16 a gradient that overflows is no fault: the scaler skips that step.
        if complaint is None and self.accelerator.scaler is None and not torch.isfinite(norm):
            complaint = f"The gradient is {norm.item()}"
        if complaint is not None:
            raise self._diverged(complaint)
        if place is not None:
            self._keep(place)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.parameters)
        self.losses = losses
        self.watch.remember(losses[LOSS])

    def _differentiate(self, batch: Batch) -> dict[str, float]:
        """Gradients of the mean over the global batch; the losses, the same in all processes."""
        losses, parts = [], self.schedule.accumulate
        for number, part in enumerate(self.processes.share(batch, parts), start=1):
            alone = nullcontext() if number == parts else self.accelerator.no_sync(self.wrapped)
            with alone:
                found = self.wrapped(part)
                self.accelerator.backward(found[LOSS])
            losses.append({name: loss.detach() for name, loss in found.items()})
        return self.processes.mean(losses)

    def _learning_rate(self) -> float:
        c = self.schedule
        warm = min(1.0, (self.step + 1) / max(1, c.warmup_steps))
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, self.progress)))
        return warm * (c.final_learning_rate + (c.learning_rate - c.final_learning_rate) * cosine)

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _anything_is_due(self) -> bool:
        c = self.schedule
        every = (c.checkpoint_every, c.save_every, c.validate_every)
        return self.step > self.kept and any(map(self._is_due, every))

    def _place(self, batches: Batches) -> dict[str, Any]:
        """Where the random generators and the batches are, and what the network counts as it computes.

        The next batch goes through the network before this is written, and again after a resumption.
        """
        counted = {name: buffer.clone() for name, buffer in self.net.named_buffers()}
        return {"random": random_state(), "batches": batches.state(), "counted": counted}

    def _keep(self, place: dict[str, Any]) -> None:
        """Write what is due after this step; the checkpoint is written last.

        `place` is what the next step begins with.
        """
        c, ended = self.schedule, self.progress >= 1
        if self._is_due(c.checkpoint_every) or ended:
            self._log(self.losses, "log.csv", "")
        if self._is_due(c.save_every) and self.is_main:
            with self._averaged():
                self.files.save_snapshot(self.net, self.step)
        if self.validate and c.validate_every and (self._is_due(c.validate_every) or ended):
            with self._averaged():
                values = self.processes.on_main(self._measure)
            self._log(values, "validation.csv", "validation/")
        random = self.processes.gather(place["random"])
        self._checkpoint(random, place["batches"], place["counted"])
        self.kept = self.step

    def _measure(self) -> dict[str, float]:
        assert self.validate is not None
        with torch.inference_mode(), untouched_randomness():
            values = {name: float(value) for name, value in self.validate().items()}
        if self.criterion not in values:
            raise VCMError(
                f"The criterion is {self.criterion}, but the validation measures {', '.join(values)}: "
                "choose one of these."
            )
        self.files.offer_best(self.net, self.step, values, self.criterion)
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

    def _checkpoint(
        self, random: list[dict[str, Tensor]], batches: Any, counted: Mapping[str, Tensor]
    ) -> None:
        if not self.is_main:
            return
        scaler = self.accelerator.scaler
        net = self.net.state_dict()
        net |= {name: buffer for name, buffer in counted.items() if name in net}
        self.files.save_state(
            {
                "step": self.step,
                "minutes": self.minutes,
                "net": net,
                "optimizer": self.optimizer.state_dict(),
                "ema": self.ema.state_dict(),
                "losses": list(self.watch.seen),
                "scaler": scaler.state_dict() if scaler else None,
                "random": random,
                "batches": batches,
            }
        )

    def _resume(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint, also of a run begun before all of this was kept.

        A process that the checkpoint does not know, because there were fewer, keeps its own seed.
        """
        self.kept = self.step
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        self.ema.to(self.device)
        self.watch = LossWatch(self.schedule.explosion, state.get("losses", ()))
        if self.accelerator.scaler and state.get("scaler"):
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if self.batches:
            self.batches.resume(state.get("batches"))
        random = state["random"]
        each = random if isinstance(random, list) else [{"cpu": random}]
        if self.processes.index < len(each):
            set_random_state(each[self.processes.index])

    def _leave_weights(self) -> None:
        """The averaged weights, or the best, in the network."""
        self.ema.copy_to(self.parameters)
        if self.schedule.weights == "best":
            best = self.processes.on_main(lambda: self.files.load_best(self.net))
            self.net.load_state_dict(best)
        self.net.eval()
        self.accelerator.wait_for_everyone()

    def _refuse_bad_weights(self) -> None:
        """No further loss will try the last step's weights, so look at them."""
        if not all(bool(torch.isfinite(p).all()) for p in self.parameters):
            raise self._diverged("A weight is no number")

    def _diverged(self, complaint: str) -> VCMError:
        return VCMError(
            f"{complaint} at step {self.step}: lower learning_rate (or set mixed_precision=no, as small networks "
            f"overflow in half precision; or raise explosion where such a loss is no accident) and run the same command again, which resumes from step "
            f"{self.kept} in {self.folder}."
        )
