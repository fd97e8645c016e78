"""What every training run is configured with, and which of it may change when a run resumes.

Knows the keys and their rules; nothing of networks, processes or files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from vcm.errors import VCMError
from vcm.precision import MIXED_PRECISIONS

#: The least value of every whole number.
LEAST = {
    "steps": 1, "batch_size": 1, "accumulate": 1, "warmup_steps": 0, "checkpoint_every": 1,
    "save_every": 0, "keep_checkpoints": 1, "validate_every": 0, "workers": 0,
}  # fmt: skip
#: Where the result lies, how long the run is and what it writes, how one batch is computed, and
#: what is lowered or raised to get past a divergence. Everything else identifies the run.
MAY_CHANGE = frozenset(
    {
        "out", "cache", "steps", "max_minutes", "accumulate", "checkpoint_every", "save_every",
        "keep_checkpoints", "validate_every", "weights", "tracker", "learning_rate",
        "final_learning_rate", "explosion", "workers",
    }
)  # fmt: skip


@dataclass
class TrainingSchedule:
    """What every training run has in common. A step is one optimiser step.

    The learning rate warms up linearly and falls as a cosine of whichever is further, the steps or
    the minutes; with max_minutes left at infinity the result depends on the configuration alone.

    Attributes:
        out: Folder of the training run.
        steps: Number of training steps.
        max_minutes: Time after which this run ends [minutes]; inf: it ends by steps alone.
        seed: Seed of weights, batches and noise.
        batch_size: Samples per step, over all processes and parts.
        accumulate: Parts in which each process computes its share of the batch, one after the
            other: less memory, the same step within rounding.
        mixed_precision: Number format of the networks: auto (bf16 where the hardware computes
            it, else no), no, bf16, fp16 (GPU only).
        learning_rate: Learning rate after the warm-up.
        final_learning_rate: Learning rate at the end.
        warmup_steps: Steps in which the learning rate rises to its value.
        ema_decay: Decay of the moving average of the weights, per step.
        gradient_clip: Largest norm of the gradient.
        checkpoint_every: Steps between rows of log.csv and states that a run resumes from.
        save_every: Steps between copies of the averaged weights in checkpoints/; 0: none.
        keep_checkpoints: Number of those copies that stay, the latest ones.
        validate_every: Steps between validations, with one at the end; 0: none. best/ holds the
            weights with the lowest validation loss, the earliest of equals.
        weights: Weights that the run ends with: last (averaged over the last steps) or best.
        explosion: The run stops where a loss is this many times the median of the 200 before; inf:
            never.
        tracker: Tracker of the losses beside log.csv: none, or one of accelerate's: tensorboard,
            wandb, mlflow.
        workers: Processes that draw batches ahead of the training, where drawing is work of the CPU; the
            batches are the same whatever their number. 0: they are drawn between the steps.
    """

    #: Keys that may differ when a run resumes; a configuration with keys of its own can add to them.
    may_change: ClassVar[frozenset[str]] = MAY_CHANGE
    #: Headings of `--help`, each from the attribute on that it names.
    headings: ClassVar[dict[str, str]] = {
        "out": "Length of the run",
        "batch_size": "Optimisation",
        "checkpoint_every": "Checkpoints and validation",
    }
    unbounded: ClassVar[frozenset[str]] = frozenset({"max_minutes", "explosion"})

    out: str = "runs/new"
    steps: int = 20000
    max_minutes: float = math.inf
    batch_size: int = 2
    accumulate: int = 1
    learning_rate: float = 5e-4
    final_learning_rate: float = 1e-5
    warmup_steps: int = 100
    ema_decay: float = 0.998
    gradient_clip: float = 1.0
    mixed_precision: str = "auto"
    workers: int = 0
    checkpoint_every: int = 200
    save_every: int = 0
    keep_checkpoints: int = 3
    validate_every: int = 0
    weights: str = "last"
    explosion: float = 20.0
    tracker: str = "tensorboard"
    seed: int = 0

    def __post_init__(self) -> None:
        # YAML reads a bare `no` as false.
        if self.mixed_precision.lower() == "false":
            self.mixed_precision = "no"


def check_schedule(config: TrainingSchedule) -> None:
    """Refuse with VCMError what no training run can use."""
    for name, least in LEAST.items():
        if getattr(config, name) < least:
            raise VCMError(f"{name} is {getattr(config, name)}: it must be {least} or more.")
    for name in ("max_minutes", "gradient_clip"):
        if not getattr(config, name) > 0:
            raise VCMError(f"{name} is {getattr(config, name):g}: it must be above 0.")
    for name in ("learning_rate", "final_learning_rate"):
        if not getattr(config, name) >= 0:
            raise VCMError(f"{name} is {getattr(config, name):g}: it must be 0 or more.")
    if not 0 <= config.ema_decay <= 1:
        raise VCMError(f"ema_decay is {config.ema_decay:g}: it must lie between 0 and 1.")
    if not 0 <= config.seed < 2**32:
        raise VCMError(f"seed is {config.seed}: choose 0 to {2**32 - 1}.")
    if not config.explosion > 1:
        raise VCMError(f"explosion is {config.explosion}: it must exceed 1; inf switches it off.")
    if config.mixed_precision not in MIXED_PRECISIONS:
        raise VCMError(
            f"mixed_precision is '{config.mixed_precision}': choose auto, no, bf16 or fp16 (GPU only)."
        )
    if config.weights not in ("last", "best"):
        raise VCMError(f"weights is '{config.weights}': choose last or best.")


def check_validation(config: TrainingSchedule, offered: bool) -> None:
    """Refuse with VCMError what asks for a validation where there is none."""
    if config.validate_every and not offered:
        raise VCMError(
            f"validate_every is {config.validate_every}, but this run has no validation: "
            "leave it at 0."
        )
    if config.weights == "best" and not config.validate_every:
        raise VCMError(
            "weights is 'best', which validation chooses, and validate_every is 0: set it to the "
            "steps between validations, or weights=last."
        )


def check_shares(batch_size: int, accumulate: int, processes: int) -> None:
    """Refuse with VCMError a batch that processes and parts cannot share equally."""
    if batch_size % (processes * accumulate):
        raise VCMError(
            f"batch_size is {batch_size}, to be shared by {processes} processes in {accumulate} parts "
            f"each: make it a multiple of {processes * accumulate}, or accumulate smaller."
        )
