"""Batches from a DataLoader: what is trained on, where a run resumes, and what is refused."""

from __future__ import annotations

import pytest
import torch
from run_folders import equal, weights_of
from small_training import BRIEF, Pairs, SmallTraining, begin, draw_products
from torch.utils.data import DataLoader, Sampler

from vcm.config import load_config
from vcm.errors import VCMError
from vcm.learning.run import TrainingRun

N = 20


def dataset():
    x = torch.linspace(-1, 1, 3 * N).view(N, 3)
    return [Pairs(a, a.prod()) for a in x]


class SeededOrder(Sampler):
    """Every pass in another order; says where it is."""

    def __init__(self):
        self.epoch = self.position = 0

    def __iter__(self):
        order = torch.randperm(N, generator=torch.Generator().manual_seed(self.epoch)).tolist()
        while self.position < N:
            self.position += 1
            yield order[self.position - 1]
        self.epoch, self.position = self.epoch + 1, 0

    def __len__(self):
        return N

    def state_dict(self):
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state):
        self.epoch, self.position = state["epoch"], state["position"]


def configure(out, *overrides):
    return load_config(SmallTraining, None, [*BRIEF, f"out={out}", *overrides])


def loader(sampler=None, **options):
    return DataLoader(dataset(), 4, sampler=sampler, **options)


def test_a_loader_trains_as_the_same_batches_drawn(tmp_path):
    given, _ = begin(configure(tmp_path / "loader", "checkpoint_every=12"))
    given.fit(loader())
    rows = dataset()
    drawn, _ = begin(configure(tmp_path / "drawn", "checkpoint_every=12"))
    batches = [
        Pairs(*map(torch.stack, zip(*rows[4 * n : 4 * n + 4], strict=True))) for n in range(5)
    ]
    drawn.fit(lambda _: lambda random: batches[drawn.step % 5])
    assert equal(weights_of(given.net), weights_of(drawn.net))


@pytest.mark.parametrize("stop", [3, 5, 8, 10])
def test_a_stopped_run_goes_on_with_the_next_batch_of_the_loader(tmp_path, monkeypatch, stop):
    every = ["checkpoint_every=2", "dropout=0.5"]
    whole, _ = begin(configure(tmp_path / "whole", *every))
    whole.fit(loader(SeededOrder()))
    update = TrainingRun._update

    def stopping(self, batch, place):
        if self.step == stop:
            raise KeyboardInterrupt
        update(self, batch, place)

    monkeypatch.setattr(TrainingRun, "_update", stopping)
    with pytest.raises(KeyboardInterrupt):
        begin(configure(tmp_path / "run", *every))[0].fit(loader(SeededOrder()))
    monkeypatch.setattr(TrainingRun, "_update", update)
    run, _ = begin(configure(tmp_path / "run", *every))
    run.fit(loader(SeededOrder()))
    assert run.resumes and equal(weights_of(run.net), weights_of(whole.net))


def test_a_loader_that_does_not_say_where_it_is_says_so_and_does_not_resume(tmp_path, capsys):
    begin(configure(tmp_path))[0].fit(loader())
    assert "cannot be resumed" in capsys.readouterr().err
    with pytest.raises(VCMError, match=r"does not say where it was.*StatefulDataLoader"):
        begin(configure(tmp_path, "steps=14"))[0].fit(loader())


def test_workers_run_ahead_of_a_sampler(tmp_path, capsys):
    begin(configure(tmp_path, "steps=1"))[0].fit(loader(SeededOrder(), num_workers=1))
    assert "cannot be resumed" in capsys.readouterr().err


def test_what_is_no_batch_is_refused(tmp_path):
    with pytest.raises(VCMError, match=r"gives a list, but a batch is the NamedTuple"):
        begin(configure(tmp_path))[0].fit([[torch.zeros(4, 3), torch.zeros(4)]])
    with pytest.raises(VCMError, match=r"gives 3 samples, and batch_size is 4"):
        begin(configure(tmp_path))[0].fit([Pairs(torch.zeros(3, 3), torch.zeros(3))])
    with pytest.raises(VCMError, match="gives no batch"):
        begin(configure(tmp_path))[0].fit([])


def test_a_state_that_a_checkpoint_cannot_keep_is_refused(tmp_path):
    sampler = SeededOrder()
    sampler.state_dict = lambda: {"position": object()}
    with pytest.raises(VCMError, match="a checkpoint cannot keep"):
        begin(configure(tmp_path))[0].fit(loader(sampler))


def test_the_constructor_changes_nothing(tmp_path):
    run, _ = begin(configure(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    assert bool(torch.tensor([1e-40]).mul(1).any())
    run.fit(lambda _: draw_products)
    assert bool(torch.tensor([1e-40]).mul(1).any()), "denormals stay flushed after the run"


def test_two_runs_do_not_share_a_folder(tmp_path):
    inner = []

    def prepare(_):
        with pytest.raises(VCMError, match="Another process trains in"):
            begin(configure(tmp_path))[0].fit(lambda _: draw_products)
        inner.append(True)
        return draw_products

    begin(configure(tmp_path))[0].fit(prepare)
    assert inner
