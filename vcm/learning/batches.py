"""Where a training run takes its batches from, and how it finds its place there again.

A batch is a NamedTuple of tensors with the samples along the first axis, as the objective documents
it. It is the global batch: the run shares its rows between processes. Knows nothing of what is in it.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vcm.errors import VCMError
from vcm.learning.processes import Processes

#: A NamedTuple of tensors, samples along the first axis.
Batch = tuple[Tensor, ...]
Some = TypeVar("Some", bound=Batch)
#: Makes one global batch from a generator that depends on seed and step alone.
Draw = Callable[[np.random.Generator], Batch]
#: Prepares the data where training is left to do, in every process, and gives what draws of them.
Prepare = Callable[[Processes], Draw]


class Batches(Protocol):
    """One global batch per step, the same in every process."""

    def take(self, step: int) -> Batch:
        """The batch of that step, counted from 0; steps are asked for in their order."""

    def state(self) -> Any:
        """What `resume` needs to go on with the next batch, in the main process: plain containers."""

    def resume(self, state: Any) -> None:
        """Go on where `state` was taken. Raises VCMError where that is impossible."""

    def close(self) -> None:
        """End what works ahead, as no further batch is asked for."""


class SeededDraws:
    """Batches drawn from (seed, step): there is no place to lose.

    Args:
        draw: Draws one; with workers it must compute on the CPU.
        seed: Of the run.
        workers: Processes that draw ahead; 0: `take` draws.
        pinned: Whether batches that workers drew lie in memory that a GPU copies from.
    """

    def __init__(self, draw: Draw, seed: int, workers: int = 0, pinned: bool = False) -> None:
        self.draws, self.workers, self.pinned = _StepDraws(draw, seed), workers, pinned
        self.ahead: Iterator[Batch | VCMError] | None = None
        self.next = 0

    def take(self, step: int) -> Batch:
        """See Batches."""
        if not self.workers:
            return self.draws.draw(self.draws.generator(step))
        if self.ahead is None or step != self.next:
            self.ahead = self._drawn_ahead(step)
        self.next = step + 1
        batch = next(self.ahead)
        if isinstance(batch, VCMError):
            raise batch
        return batch

    def state(self) -> None:
        """None: the step is enough."""

    def resume(self, state: Any) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """See Batches; a loader's workers end with its iterator."""
        self.ahead = None

    def _drawn_ahead(self, first: int) -> Iterator[Batch | VCMError]:
        """Batches from that step on, drawn by forked workers of one thread each, which share the data."""
        loader: DataLoader[Any] = DataLoader(
            self.draws, batch_size=None, sampler=count(first), num_workers=self.workers,
            pin_memory=self.pinned, multiprocessing_context="fork",
            # Its own, as a loader draws a seed for its workers from torch's, which the objective uses.
            generator=torch.Generator(),
        )  # fmt: skip
        return iter(loader)


class _StepDraws(Dataset[Any]):
    """The batch of a step, or the VCMError that drawing it raises, which would lose its sentence on its way."""

    def __init__(self, draw: Draw, seed: int) -> None:
        self.draw, self.seed = draw, seed

    def generator(self, step: int) -> np.random.Generator:
        """Depends on seed and step alone."""
        return np.random.default_rng((self.seed, step))

    def __getitem__(self, step: int) -> Batch | VCMError:
        try:
            return self.draw(self.generator(step))
        except VCMError as error:
            return error


class LoaderBatches:
    """Batches of a DataLoader or any other iterable, read by the main process, again and again.

    A run resumes if the loader, or its sampler where it has no workers, offers `state_dict` and
    `load_state_dict`, as torchdata's StatefulDataLoader does. Any other run says at its start that
    it will not resume, and refuses to.
    """

    def __init__(self, loader: Iterable[Batch], processes: Processes, batch_size: int) -> None:
        self.loader, self.processes, self.batch_size = loader, processes, batch_size
        self.keeper = _keeper(loader)
        self.iterator: Iterator[Batch] | None = None
        if self.keeper is None and processes.is_main:
            print(
                "The loader has no state_dict, so this run cannot be resumed once it stops: "
                "torchdata's StatefulDataLoader has one.",
                file=sys.stderr,
            )

    def take(self, step: int) -> Batch:
        """See Batches. Raises VCMError for a batch that no run can use."""
        return self.processes.on_main(self._next)

    def state(self) -> Any:
        """The loader's own; None where it has none."""
        return self.processes.on_main(self._state)

    def resume(self, state: Any) -> None:
        """See Batches."""
        if self.keeper is None or state is None:
            raise VCMError(
                "The run cannot be resumed, as the loader does not say where it was: give one with "
                "state_dict and load_state_dict (torchdata's StatefulDataLoader), a seeded draw, or "
                "another folder."
            )
        if self.processes.is_main:
            self.keeper.load_state_dict(state)
            self.iterator = iter(self.loader)

    def close(self) -> None:
        """See Batches; the loader is its owner's, and ends its workers itself."""
        self.iterator = None

    def _state(self) -> Any:
        if self.keeper is None:
            return None
        state = self.keeper.state_dict()
        if not _is_plain(state):
            raise VCMError(
                "The loader's state_dict holds objects that a checkpoint cannot keep: let it hold "
                "numbers, texts, tensors, lists and dictionaries alone."
            )
        return state

    def _next(self) -> Batch:
        for _ in range(2):  # where one pass over the data has ended, the next begins
            if self.iterator is None:
                self.iterator = iter(self.loader)
            batch = next(self.iterator, None)
            if batch is not None:
                return self._checked(batch)
            self.iterator = None
        raise VCMError("The loader gives no batch: give it data, or drop_last=False.")

    def _checked(self, batch: Any) -> Batch:
        if not (isinstance(batch, tuple) and all(isinstance(x, Tensor) for x in batch)):
            raise VCMError(
                f"The loader gives a {type(batch).__name__}, but a batch is the NamedTuple of tensors "
                "that the objective documents: let the dataset, or collate_fn, return it."
            )
        sizes = sorted({len(x) for x in batch})
        if sizes != [self.batch_size]:
            raise VCMError(
                f"The loader gives {' and '.join(map(str, sizes))} samples, and batch_size is "
                f"{self.batch_size}: give the loader the same batch_size, and drop_last=True."
            )
        return batch


def moved(batch: Some, device: torch.device) -> Some:
    """The same batch on that device."""
    make: Any = getattr(batch, "_make", tuple)
    made: Some = make(x.to(device) for x in batch)
    return made


def as_batches(
    given: Prepare | Iterable[Batch],
    processes: Processes,
    seed: int,
    batch_size: int,
    workers: int = 0,
) -> Batches:
    """What a run takes its batches from: an iterable as it is, a function called to prepare a draw.

    Raises:
        VCMError: For workers that cannot be had.
    """
    if isinstance(given, Iterable):
        if workers:
            raise VCMError(
                f"workers is {workers}, but the batches come from a loader: leave it at 0, and give the "
                "loader num_workers."
            )
        return LoaderBatches(given, processes, batch_size)
    if workers and "fork" not in multiprocessing.get_all_start_methods():
        raise VCMError(
            f"workers is {workers}, but this system cannot fork processes: set workers=0."
        )
    return SeededDraws(given(processes), seed, workers, processes.device.type == "cuda")


def _keeper(loader: Any) -> Any:
    """What knows the place in the loader: itself, or its sampler, which workers would run ahead of."""
    candidates = [loader]
    if not getattr(loader, "num_workers", 0):
        candidates += [getattr(loader, name, None) for name in ("batch_sampler", "sampler")]
    wanted = ("state_dict", "load_state_dict")
    return next((x for x in candidates if all(hasattr(x, name) for name in wanted)), None)


def _is_plain(state: Any) -> bool:
    """Whether torch.load takes it with weights_only."""
    if isinstance(state, dict):
        return all(_is_plain(x) for pair in state.items() for x in pair)
    if isinstance(state, list | tuple):
        return all(map(_is_plain, state))
    return state is None or isinstance(state, bool | int | float | str | bytes | Tensor)
