"""Trainings of seconds, for tests that run them in processes of their own.

As a script: small_training.py CASE key=value ..., where CASE is regression or module.
"""

import faulthandler
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from fork_server import fork_server
from torch import nn

from vcm.config import load_config
from vcm.learning.processes import part_processes
from vcm.learning.run import TrainingRun
from vcm.learning.run_folder import RunFolder
from vcm.learning.schedule import TrainingSchedule

BRIEF = [
    "steps=12", "checkpoint_every=4", "warmup_steps=1", "batch_size=4", "mixed_precision=no",
    "learning_rate=1e-3", "tracker=none",
]  # fmt: skip

#: Seconds until a process counts as stuck, and shows where; beside other work all takes long.
PATIENCE = 600


@dataclass
class SmallTraining(TrainingSchedule):
    dropout: float = 0.0


class SmallNet(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, width: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(3, width), nn.Linear(width, 1)
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        return self.outer(self.drop(torch.tanh(self.inner(x))))[:, 0]


class Pairs(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


class Regression(nn.Module):
    """Learn the product of what a frozen layer makes of x."""

    def __init__(self, net) -> None:
        super().__init__()
        self.net, self.frozen = net, nn.Linear(3, 3).requires_grad_(False)

    def forward(self, batch):
        error = self.net(self.frozen(batch.x)) - batch.y
        return {"loss": error.square().mean(), "absolute": error.detach().abs().mean()}


def draw_products(random):
    x = torch.from_numpy(random.standard_normal((4, 3), dtype=np.float32))
    return Pairs(x, x.prod(1))


def begin(config):
    """(run, objective) of the regression."""
    torch.manual_seed(3)
    net = SmallNet(dropout=config.dropout)
    objective = Regression(net)
    return TrainingRun(config, net, objective), objective


def fresh_loss(objective):
    """A validation that draws from every generator there is."""
    x = torch.randn(16, 3) + float(np.random.rand()) * 1e-3
    return {name: value.item() for name, value in objective(Pairs(x, x.prod(1))).items()}


def train_regression(overrides):
    config = load_config(SmallTraining, None, [*BRIEF, *overrides])
    run, objective = begin(config)
    validate = (lambda: fresh_loss(objective)) if config.validate_every else None
    run.fit(lambda _: draw_products, validate)
    return run


def train_module(overrides):
    """The Volumetric Conditioning Module on a frozen network, both of few channels."""
    from tiny_networks import tiny_denoiser, tiny_module

    from vcm.training.batches import ModuleBatch
    from vcm.training.module import ModuleObjective

    config = load_config(SmallTraining, None, [*BRIEF, "steps=3", "batch_size=2", *overrides])
    torch.manual_seed(0)
    frozen = tiny_denoiser((4, 4, 4))
    module = tiny_module(8, 1, encoder_patch=8, encoder_halve=False)
    objective = ModuleObjective(
        module, frozen, torch.ones(4), ["classes", "ventricles"], 0.1
    )  # 8 + 1 channels
    shape = (2, 2, 4, 4, 4, 4)

    def draw(random):
        volumes = torch.from_numpy(random.random((2, 9, 32, 32, 32), dtype=np.float32))
        z, noise = torch.from_numpy(random.standard_normal((2, *shape), dtype=np.float32))
        keep = torch.tensor([[True, False], [True, True]])
        time = torch.from_numpy(random.random((2, 2)))
        covariates = torch.from_numpy(random.random((2, 4), dtype=np.float32))
        return ModuleBatch(volumes, z, noise, time, covariates, keep)

    def validate():
        return {k: v.item() for k, v in objective(draw(np.random.default_rng(0))).items()}

    run = TrainingRun(config, module, objective)
    run.fit(lambda _: draw, validate if config.validate_every else None)
    return run


def main(case, overrides):
    run = {"regression": train_regression, "module": train_module}[case](overrides)
    run.net.save_pretrained(run.folder / f"net-{run.processes.index}")
    assert run.processes.count == int(os.environ.get("WORLD_SIZE", "1"))
    del run
    part_processes()


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_a_step(number):
    """In the forward pass of that step."""
    forward, calls = SmallNet.forward, count(1)

    def patched(self, x):
        if torch.is_inference_mode_enabled() or next(calls) != number:
            return forward(self, x)
        die()

    SmallNet.forward = patched


def die_in_a_checkpoint(number):
    """With half of checkpoint.pt on the disk."""
    save, calls = torch.save, count(1)

    def patched(state, path):
        save(state, path)
        if next(calls) == number:
            os.truncate(path, path.stat().st_size // 2)
            die()

    torch.save = patched


def die_in_a_row(number):
    """With half of a row of a table on the disk."""
    append, calls = RunFolder.append, count(1)

    def patched(self, table, row):
        append(self, table, row)
        if next(calls) == number:
            os.truncate(self.path / table, (self.path / table).stat().st_size - 5)
            die()

    RunFolder.append = patched


def die_while_replacing(number):
    """After that number of renamings of any file or folder, be it to its name or out of the way."""
    calls = count(1)
    for name in ("rename", "replace"):

        def patched(self, target, own=getattr(Path, name)):
            own(self, target)
            if next(calls) == number:
                die()

        setattr(Path, name, patched)


def hasten_other_clocks():
    """Processes but the main one see a minute go by with every look at the clock."""
    if os.environ["RANK"] != "0":
        minutes = count()
        time.monotonic = lambda: 60.0 * next(minutes)


def spoil_other_losses():
    """In processes but the main one the loss of the sixth step is no number."""
    forward, calls = Regression.forward, count(1)

    def patched(self, batch):
        bad = os.environ["RANK"] != "0" and next(calls) == 6
        return forward(self, batch._replace(y=batch.y * float("nan")) if bad else batch)

    Regression.forward = patched


def _in_child(environment, prepare, case, overrides, errors):
    os.environ.update(environment)
    sys.stderr = open(errors, "w")  # noqa: SIM115
    faulthandler.dump_traceback_later(PATIENCE - 60, file=sys.stderr)
    if prepare:
        prepare[0](*prepare[1:])
    main(case, overrides)


def start(folder, case, *overrides, processes=1, prepare=()):
    """Run `main` in processes of their own; (exit codes, what each wrote to stderr)."""
    context = fork_server()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    running = []
    for rank in range(processes):
        environment = {}
        if processes > 1:
            environment = {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes),
                "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            }  # fmt: skip
        errors = folder.with_name(f"{folder.name}-{rank}.txt")
        given = (environment, prepare, case, [f"out={folder}", *overrides], errors)
        running.append((context.Process(target=_in_child, args=given), errors))
        running[-1][0].start()
    for process, _ in running:
        process.join(PATIENCE)
        process.kill()
    return [p.exitcode for p, _ in running], [e.read_text() for _, e in running]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
