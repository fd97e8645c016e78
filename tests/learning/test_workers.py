"""Batches that workers draw ahead: the same ones, whoever draws them and wherever the run resumes."""

from __future__ import annotations

import multiprocessing
import os

import numpy as np
import pytest
import torch
from command_line import vcm
from run_folders import equal, weights_of
from small_training import BRIEF, Pairs, SmallTraining, begin, draw_products

from vcm.config import load_config
from vcm.errors import VCMError
from vcm.learning.batches import SeededDraws
from vcm.learning.run import TrainingRun


def trained(out, *overrides, draw=draw_products):
    # A dropout shows whether the workers took from the generator that the objective draws from.
    config = load_config(SmallTraining, None, [*BRIEF, "dropout=0.5", f"out={out}", *overrides])
    run, _ = begin(config)
    run.fit(lambda _: draw)
    return weights_of(run.net)


def test_workers_draw_the_batches_that_the_run_would_draw(tmp_path):
    alone = trained(tmp_path / "alone")
    assert equal(trained(tmp_path / "two", "workers=2"), alone)
    assert not multiprocessing.active_children()


def test_a_run_resumes_with_other_workers(tmp_path, monkeypatch):
    update = TrainingRun._update

    def stopping(self, batch, place):
        if self.step == 6:
            raise KeyboardInterrupt
        update(self, batch, place)

    monkeypatch.setattr(TrainingRun, "_update", stopping)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "run", "workers=2")
    monkeypatch.setattr(TrainingRun, "_update", update)
    assert equal(trained(tmp_path / "run", "workers=1"), trained(tmp_path / "whole"))


def test_steps_come_in_the_order_asked_for_in_other_processes():
    def draw(random):
        return Pairs(torch.tensor([float(os.getpid())]), torch.tensor([random.random()]))

    ahead = SeededDraws(draw, 7, workers=2)
    taken = {step: ahead.take(step) for step in (5, 6, 7, 3, 4)}
    for step, batch in taken.items():
        assert batch.y.item() == pytest.approx(np.random.default_rng((7, step)).random())
    assert os.getpid() not in {batch.x.item() for batch in taken.values()}
    ahead.close()
    assert not multiprocessing.active_children()


def test_a_sentence_arrives_as_it_was_said():
    def draw(random):
        raise VCMError("A scan is gone: bring it back.")

    ahead = SeededDraws(draw, 0, workers=1)
    with pytest.raises(VCMError) as raised:
        ahead.take(0)
    ahead.close()
    assert str(raised.value) == "A scan is gone: bring it back."


def test_workers_that_cannot_be_had_are_refused(tmp_path, monkeypatch):
    with pytest.raises(VCMError, match=r"workers is -1: it must be 0 or more"):
        trained(tmp_path, "workers=-1")
    config = load_config(SmallTraining, None, [*BRIEF, f"out={tmp_path}", "workers=2"])
    with pytest.raises(VCMError, match=r"workers is 2, but the batches come from a loader"):
        begin(config)[0].fit([Pairs(torch.zeros(4, 3), torch.zeros(4))])
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    with pytest.raises(VCMError, match=r"workers is 2, but this system cannot fork"):
        begin(config)[0].fit(lambda _: draw_products)


def test_a_training_that_draws_by_its_step_has_no_workers(tmp_path):
    done = vcm("pretrain", "band-decoder", f"data=[{tmp_path}]", f"out={tmp_path}", "workers=2")
    assert done.exit_code == 2
    assert "workers is 2, but the batches of this training depend on its step" in done.error
