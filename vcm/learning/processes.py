"""The processes that train one network together, on one machine or on several.

Knows accelerate and torch.distributed; nothing of steps, files or what is learned. Every process
draws the same global batch and takes its rows, so the mean of the processes' gradients is the
gradient of the whole batch as long as losses are means over equal shares. Only the main process
writes files, reads them or looks at the clock; the others learn from it what it found.
"""

from __future__ import annotations

import atexit
import gc
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    InitProcessGroupKwargs,
    ProjectConfiguration,
    broadcast,
    broadcast_object_list,
    gather_object,
    set_seed,
)
from torch import Tensor, nn

from vcm.errors import VCMError
from vcm.learning.schedule import TrainingSchedule, check_shares
from vcm.learning.watch import find_tracker

Result = TypeVar("Result")
Batch = tuple[Tensor, ...]
#: How long a process waits for another, that of the main one being the time of a validation.
PATIENCE = timedelta(hours=2)


class Processes:
    """All processes of one training; alone, everything here is the identity.

    Seeds torch, numpy and random with seed + the process's number, so what an objective draws for
    itself (a latent, a dropout) differs from process to process; it also depends on how many there
    are and on `accumulate`, which is why batches are drawn outside.
    """

    def __init__(self, config: TrainingSchedule) -> None:
        tracker = find_tracker(config.tracker)
        has_gpu = torch.accelerator.current_accelerator(check_available=True) is not None
        if config.mixed_precision == "fp16" and not has_gpu:
            raise VCMError("mixed_precision is fp16, which needs a GPU: set bf16 or no.")
        # One process may train several times, each time with a precision of its own.
        AcceleratorState._reset_state()
        self.accelerator = Accelerator(
            cpu=not has_gpu,  # without it, accelerate takes processes on CPUs for single ones
            mixed_precision=config.mixed_precision,
            log_with=tracker,
            project_config=ProjectConfiguration(config.out, str(Path(config.out) / config.tracker)),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
        self.accelerator.gradient_accumulation_steps = config.accumulate
        self.count, self.index = self.accelerator.num_processes, self.accelerator.process_index
        self.is_main = self.accelerator.is_main_process
        _refuse_lonely_launch(self.count)
        check_shares(config, self.count)
        set_seed(config.seed + self.index)
        atexit.register(part_processes)

    def prepare(self, objective: nn.Module, trained: nn.Module) -> nn.Module:
        """The objective on its device; over several processes, only what trains is synchronised.

        The frozen networks are called from the objective but are no part of what is broadcast from
        the main process at the start and averaged after each backward pass.
        """
        own = {id(x) for x in (*trained.parameters(), *trained.buffers())}
        objective._ddp_params_and_buffers_to_ignore = [  # type: ignore[assignment]
            name
            for name, x in (*objective.named_parameters(), *objective.named_buffers())
            if id(x) not in own
        ]
        prepared: nn.Module = self.accelerator.prepare(objective)
        return prepared

    def share(self, batch: Batch, parts: int) -> Iterator[Batch]:
        """Rows index::count of a global batch, in equal parts along the first axis."""
        rows = [x[self.index :: self.count].tensor_split(parts) for x in batch]
        for part in zip(*rows, strict=True):
            yield tuple(x.to(self.accelerator.device) for x in part)

    def mean(self, losses: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
        """The means over parts and processes, the same bits in every process."""
        parts = torch.stack([torch.stack([v.float() for v in one.values()]) for one in losses])
        gathered = self.accelerator.gather(parts.mean(0)[None]).mean(0)
        return dict(zip(losses[0], gathered.tolist(), strict=True))

    def agree(self, value: float) -> float:
        """The main process's value."""
        if self.count == 1:
            return value
        known = torch.tensor(value, dtype=torch.float64, device=self.accelerator.device)
        return float(broadcast(known))

    def on_main(self, work: Callable[[], Result]) -> Result:
        """What `work` gives, or the VCMError it raises, in the main process; the others wait."""
        found: list[Any] = [None, None]
        if self.is_main:
            try:
                found[0] = work()
            except VCMError as error:
                found[1] = str(error)
        if self.count > 1:
            broadcast_object_list(found)
        if found[1] is not None:
            raise VCMError(found[1])
        return found[0]

    def gather(self, value: Result) -> list[Result]:
        """Every process's value, in order."""
        return gather_object([value]) if self.count > 1 else [value]


def part_processes() -> None:
    """End what joins this process to the others, if anything does, while Python still runs.

    To be called when no TrainingRun is left: gloo's destructor waits for its threads, those may wait
    for Python's lock, and of its owners only the process group's own object gives that lock away;
    the last owner must not be a DistributedDataParallel.
    """
    if torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()


def _refuse_lonely_launch(count: int) -> None:
    """`accelerate launch --cpu` (1.x) starts one process, however many are asked for."""
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and (
        "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ
    )
    if asked and count == 1:
        raise VCMError(
            "Several processes were asked for and accelerate launch --cpu started 1, as it does "
            "without mpirun: use torchrun --nproc_per_node N -m vcm ..., or --multi_gpu in place "
            "of --cpu, which starts them on CPUs where there is no GPU."
        )


def random_state() -> dict[str, Tensor]:
    """The state of torch's generators in this process; an objective may draw from no other."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Go on from `random_state`."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def untouched_randomness() -> Iterator[None]:
    """What is drawn inside does not change what is drawn after, by torch, numpy or random."""
    ours, numpys, pythons = random_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        set_random_state(ours)
        np.random.set_state(numpys)
        random.setstate(pythons)
