"""The processes that train one network together, on one machine or on several, and their device.

Knows accelerate and torch.distributed; nothing of steps, files or what is learned. Every process
draws the same global batch and takes its rows, so the mean of the processes' gradients is the
gradient of the whole batch as long as losses are means over equal shares. Only the main process
writes files, reads them or looks at the clock; the others are told.
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
from vcm.learning.watch import find_tracker

Result = TypeVar("Result")
Batch = TypeVar("Batch", bound=tuple[Tensor, ...])
#: How long a process waits for another, that of the main one being the time of a validation.
PATIENCE = timedelta(hours=2)


class Processes:
    """All processes of one training run; alone, everything here is the identity.

    Attributes:
        accelerator: Knows device, precision and trackers.
        count: Processes in all.
        index: This one's number, 0 for the main process.
        is_main: Whether this process writes files.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.count, self.index = accelerator.num_processes, accelerator.process_index
        self.is_main: bool = accelerator.is_main_process

    @classmethod
    def start(
        cls, folder: str, seed: int, accumulate: int, mixed_precision: str, tracker: str
    ) -> Processes:
        """Join the processes that were launched together, on the device where they train.

        Seeds torch, numpy and random with seed + the process's number, so what an objective draws
        for itself (a latent, a dropout) differs from process to process; it also depends on how
        many there are and on `accumulate`, which is why batches are drawn outside.

        Args:
            folder: Where the tracker writes.
            seed: Of the run.
            accumulate: Parts that a process takes its share of a batch in.
            mixed_precision: no, bf16 or fp16.
            tracker: See `find_tracker`.

        Raises:
            VCMError: For fp16 without a GPU, and for a launch that started one process only.
        """
        logged_with = find_tracker(tracker)
        has_gpu = torch.accelerator.current_accelerator(check_available=True) is not None
        if mixed_precision == "fp16" and not has_gpu:
            raise VCMError("mixed_precision is fp16, which needs a GPU: set bf16 or no.")
        # One process may train several times, each time with a precision of its own.
        AcceleratorState._reset_state()
        accelerator = Accelerator(
            cpu=not has_gpu,  # without it, accelerate takes processes on CPUs for single ones
            mixed_precision=mixed_precision,
            log_with=logged_with,
            project_config=ProjectConfiguration(folder, str(Path(folder) / tracker)),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
        accelerator.gradient_accumulation_steps = accumulate
        # Joining returns before every process has met all others: one that refused its configuration
        # and ended now would take theirs with it, and they could not say why.
        accelerator.wait_for_everyone()
        processes = cls(accelerator)
        _refuse_lonely_launch(processes.count)
        set_seed(seed + processes.index)
        atexit.register(part_processes)
        return processes

    @property
    def device(self) -> torch.device:
        """Where this process trains."""
        return self.accelerator.device

    def prepare(self, objective: nn.Module, trained: nn.Module) -> nn.Module:
        """The objective on its device; over several processes, only what trains is synchronised.

        The frozen networks are called from the objective but are no part of what is broadcast from
        the main process at the start and averaged after each backward pass.
        """
        synchronised = {id(x) for x in (*trained.parameters(), *trained.buffers())}
        objective._ddp_params_and_buffers_to_ignore = [  # type: ignore[assignment]
            name
            for name, x in (*objective.named_parameters(), *objective.named_buffers())
            if id(x) not in synchronised
        ]
        prepared: nn.Module = self.accelerator.prepare(objective)
        return prepared

    def share(self, batch: Batch, parts: int) -> Iterator[Batch]:
        """Rows index::count of a global batch, in equal parts along the first axis, on the device."""
        make: Any = getattr(batch, "_make", tuple)
        rows = [x[self.index :: self.count].tensor_split(parts) for x in batch]
        for part in zip(*rows, strict=True):
            yield make(x.to(self.device) for x in part)

    def mean(self, losses: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
        """The means over parts and processes, the same bits in every process."""
        parts = torch.stack([torch.stack([v.float() for v in one.values()]) for one in losses])
        gathered = self.accelerator.gather(parts.mean(0)[None]).mean(0)
        return dict(zip(losses[0], gathered.tolist(), strict=True))

    def agree(self, value: float) -> float:
        """The main process's value."""
        if self.count == 1:
            return value
        return float(broadcast(torch.tensor(value, dtype=torch.float64, device=self.device)))

    def on_main(self, work: Callable[[], Result]) -> Result:
        """What `work` returns, or the VCMError it raises, in the main process; the others wait."""
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome[0] = work()
            except VCMError as error:
                outcome[1] = str(error)
        if self.count > 1:
            broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise VCMError(outcome[1])
        return outcome[0]

    def once_per_machine(self, work: Callable[[], object]) -> None:
        """Do `work` in one process of each machine, whose files all its processes see; all wait.

        Raises:
            VCMError: In every process, if `work` raises it in one.
        """
        complaint: str | None = None
        if self.accelerator.is_local_main_process:
            try:
                work()
            except VCMError as error:
                complaint = str(error)
        complaint = next((x for x in self.gather(complaint) if x is not None), None)
        if complaint is not None:
            raise VCMError(complaint)

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
    for kind, module in _other_generators().items():
        state[kind] = module.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Go on from `random_state`."""
    torch.set_rng_state(state["cpu"])
    for kind, module in _other_generators().items():
        if kind in state:
            module.set_rng_state(state[kind])


def _other_generators() -> dict[str, Any]:
    """The torch module of the accelerator, by its type, if there is one with a generator."""
    device = torch.accelerator.current_accelerator(check_available=True)
    module = torch.get_device_module(device) if device is not None else None
    return {device.type: module} if device and hasattr(module, "get_rng_state") else {}


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Numbers too small for their type's full precision count as 0 inside: they are slow."""
    before = not bool(torch.tensor([1e-40]).mul(1).any())
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


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
