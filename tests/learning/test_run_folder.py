"""The training loop on a network of 41 weights: kills, validation, divergence, refusals."""

import csv
import json
import os
import random
import shutil

import pytest
import torch
from omegaconf import OmegaConf
from run_folders import WEIGHTS, equal, same_folders, weights_of
from safetensors.torch import load_file
from small_training import (
    BRIEF,
    Pairs,
    SmallTraining,
    begin,
    die_in_a_checkpoint,
    die_in_a_row,
    die_in_a_step,
    die_while_replacing,
    draw_products,
    start,
    train_regression,
)

from vcm.config import load_config
from vcm.errors import VCMError
from vcm.files import replaced
from vcm.learning.run_folder import CHECKPOINT, RunFolder

#: Everything that could go wrong on the way: dropout, parts, validations that draw, copies.
EVENTFUL = ["dropout=0.5", "accumulate=2", "validate_every=4", "save_every=6", "keep_checkpoints=1"]
#: Of the renamings in such a run: best/ has made room for its successor, which is not there yet.
OUT_OF_THE_WAY = 6
#: Where runs are killed, in order; another VCM_KILL_SEED kills them elsewhere.
MOMENTS = random.Random(int(os.environ.get("VCM_KILL_SEED", "0")))
#: How often each kind of moment occurs in such a run, from ... up to.
KINDS = {
    die_in_a_step: (11, 25), die_in_a_checkpoint: (1, 5), die_in_a_row: (1, 7), die_while_replacing: (1, 11),
}  # fmt: skip
#: Beside those that are always taken.
FURTHER = 16


def configure(out, *overrides):
    return load_config(SmallTraining, None, [*BRIEF, f"out={out}", *overrides])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert start(folder, "regression", *EVENTFUL)[0] == [0]
    return folder


@pytest.mark.parametrize(
    ("kill", "number"),
    [
        # Of 24 forward passes, two a step.
        pytest.param(die_in_a_step, MOMENTS.randrange(11, 25), id="in-a-step"),
        pytest.param(die_in_a_checkpoint, MOMENTS.randrange(1, 5), id="in-a-checkpoint"),
        pytest.param(die_in_a_row, MOMENTS.randrange(1, 7), id="in-a-row"),
        pytest.param(die_while_replacing, MOMENTS.randrange(1, 11), id="while-replacing"),
        pytest.param(die_while_replacing, OUT_OF_THE_WAY, id="best-out-of-the-way"),
        *(
            pytest.param(kill, MOMENTS.randrange(*KINDS[kill]), marks=pytest.mark.slow)
            for kill in MOMENTS.choices([*KINDS], k=FURTHER)
        ),
    ],
)
def test_a_killed_run_goes_on_as_if_nothing_had_been(uninterrupted, tmp_path, kill, number):
    folder = tmp_path / "run"
    assert start(folder, "regression", *EVENTFUL, prepare=(kill, number))[0] == [-9]
    if kill is die_while_replacing and number == OUT_OF_THE_WAY:
        assert len(replaced(folder / "best")) == 1 and not (folder / "best").exists()
        with RunFolder(folder, 1).opened(configure(folder, *EVENTFUL)) as (state, _):
            assert state is not None
        assert json.loads((folder / "best" / "best.json").read_text())["step"] == 4
    assert start(folder, "regression", *EVENTFUL)[0] == [0]
    same_folders(folder, uninterrupted)


def test_parts_of_a_batch_give_the_step_of_the_whole(tmp_path):
    whole = train_regression([f"out={tmp_path / 'whole'}"]).net.state_dict()
    parts = train_regression([f"out={tmp_path / 'parts'}", "accumulate=4"]).net.state_dict()
    assert all((whole[k] - parts[k]).abs().max() < 1e-6 for k in whole)
    rows = [list(csv.DictReader((tmp_path / n / "log.csv").open())) for n in ("whole", "parts")]
    for a, b in zip(*rows, strict=True):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=1e-5)


def test_validation_changes_nothing_in_the_training(tmp_path):
    with_it, without = (
        train_regression([f"out={tmp_path / str(n)}", "dropout=0.5", f"validate_every={n}"])
        for n in (1, 0)
    )
    assert equal(weights_of(with_it.net), weights_of(without.net))
    states = [torch.load(tmp_path / n / CHECKPOINT) for n in ("0", "1")]
    assert equal(states[0]["net"], states[1]["net"])
    assert equal(states[0]["random"][0], states[1]["random"][0])


@pytest.mark.parametrize("kept", ["last", "best"])
def test_the_earliest_of_the_lowest_validations_is_the_best(tmp_path, kept):
    config = configure(tmp_path, "validate_every=3", f"weights={kept}", "steps=18")
    run, _ = begin(config)
    values, seen = iter([5.0, 1.0, float("nan"), 1.0, 4.0, 3.0]), []

    def validate():
        assert torch.is_inference_mode_enabled() and not run.net.training
        averaged = [p.clone() for p in run.ema.shadow_params]
        assert all(map(torch.equal, run.net.parameters(), averaged))
        assert not all(map(torch.equal, run.ema.temp_stored_params, averaged))
        seen.append(weights_of(run.net))
        return {"error": next(values), "other": 0.0}

    run.fit(lambda _: draw_products, validate, criterion="error")
    assert json.loads((tmp_path / "best" / "best.json").read_text()) == {
        "step": 6, "criterion": "error", "values": {"error": 1.0, "other": 0.0},
    }  # fmt: skip
    assert equal(load_file(tmp_path / "best" / WEIGHTS), seen[1])
    assert equal(weights_of(run.net), seen[{"last": 5, "best": 1}[kept]])
    rows = list(csv.DictReader((tmp_path / "validation.csv").open()))
    assert [row["step"] for row in rows] == ["3", "6", "9", "12", "15", "18"]
    assert [row["error"] for row in rows] == ["5", "1", "nan", "1", "4", "3"]


def test_a_best_that_no_validation_chose_is_refused(tmp_path):
    run, _ = begin(configure(tmp_path, "validate_every=4", "weights=best"))
    with pytest.raises(VCMError, match=r"no validation in .* gave a number: set weights=last"):
        run.fit(lambda _: draw_products, lambda: {"loss": float("nan")})


def test_the_last_copies_of_the_averaged_weights_stay(tmp_path):
    run = train_regression([f"out={tmp_path}", "save_every=3", "keep_checkpoints=2"])
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"step-9", "step-12"}
    assert equal(load_file(tmp_path / "checkpoints" / "step-12" / WEIGHTS), weights_of(run.net))
    state = torch.load(tmp_path / CHECKPOINT)
    assert not torch.equal(state["net"]["inner.weight"], run.net.inner.weight)


def spoilt(at, factor):
    """draw_products, but the targets of step `at` are multiplied; counts its calls."""

    def draw(random):
        x, y = draw_products(random)
        draw.step += 1
        return Pairs(x, y * (factor if draw.step == at + 1 else 1))

    draw.step = 0
    return draw


@pytest.mark.parametrize(
    ("at", "factor", "said"),
    [(4, float("nan"), "The loss is nan"), (203, 1000.0, "times the median of the last 200")],
)
def test_a_divergence_keeps_the_last_checkpoint_and_says_how_to_go_on(tmp_path, at, factor, said):
    every = 2 if at < 200 else 29  # a checkpoint would be due at that step
    run, _ = begin(
        configure(tmp_path, "steps=206", f"checkpoint_every={every}", f"save_every={every}")
    )
    good = at - every
    with pytest.raises(VCMError, match=f"{said}.* at step {at}: lower learning_rate") as caught:
        run.fit(lambda _: spoilt(at, factor))
    assert f"from step {good} in" in str(caught.value)
    assert torch.load(tmp_path / CHECKPOINT)["step"] == good
    assert not (tmp_path / "checkpoints" / f"step-{at}").exists()
    run, _ = begin(configure(tmp_path, "steps=206", "checkpoint_every=206", "learning_rate=5e-4"))
    run.fit(lambda _: draw_products)
    assert run.resumes
    assert torch.load(tmp_path / CHECKPOINT)["step"] == 206
    changes = (tmp_path / "config.yaml").read_text().splitlines()
    assert f"# from step {good}: learning_rate 0.001 -> 0.0005" in changes


def test_the_first_200_losses_and_an_infinite_explosion_stop_nothing(tmp_path):
    for out, at, overrides in (("a", 150, []), ("b", 203, ["explosion=inf"])):
        run, _ = begin(configure(tmp_path / out, "steps=206", "checkpoint_every=206", *overrides))
        run.fit(lambda _, at=at: spoilt(at, 1000.0))
        assert run.step == 206


def test_a_gradient_that_is_no_number_stops_before_it_is_taken(tmp_path):
    run, objective = begin(configure(tmp_path))
    forward = objective.forward

    def rootless(batch):
        losses = forward(batch)
        added = losses["loss"].detach() if run.step < 5 else losses["loss"]
        return losses | {"loss": losses["loss"] + (added - added.detach()).abs().sqrt()}

    objective.forward = rootless
    with pytest.raises(VCMError, match="The gradient is nan at step 5: lower learning_rate"):
        run.fit(lambda _: draw_products)
    assert all(torch.isfinite(p).all() for p in run.net.parameters())


def test_last_weights_that_are_no_numbers_are_not_written(tmp_path, monkeypatch):
    run, _ = begin(configure(tmp_path))
    rate = type(run)._learning_rate
    monkeypatch.setattr(
        type(run), "_learning_rate", lambda own: float("nan") if own.step == 11 else rate(own)
    )
    with pytest.raises(VCMError, match=r"A weight is no number at step 12.*from step 8"):
        run.fit(lambda _: draw_products)
    assert torch.load(tmp_path / CHECKPOINT)["step"] == 8


def test_a_run_of_another_configuration_is_refused(tmp_path):
    train_regression([f"out={tmp_path}"])
    with pytest.raises(VCMError, match=r"seed was 0 when .* and is 1 now: put it back"):
        train_regression([f"out={tmp_path}", "seed=1"])
    longer = ["steps=14", "max_minutes=9", "validate_every=2", "explosion=30"]
    assert train_regression([f"out={tmp_path}", *longer]).step == 14


def test_a_run_from_before_a_key_existed_had_its_default(tmp_path):
    train_regression([f"out={tmp_path}", "checkpoint_every=3"])
    known = OmegaConf.load(tmp_path / "config.yaml")
    for key in ("dropout", "explosion", "accumulate", "weights"):
        del known[key]
    OmegaConf.save(known, tmp_path / "config.yaml")
    state = torch.load(tmp_path / CHECKPOINT)
    for key in ("losses", "scaler"):
        del state[key]
    torch.save(state | {"random": state["random"][0]["cpu"]}, tmp_path / CHECKPOINT)
    resumed = train_regression([f"out={tmp_path}", "checkpoint_every=3"])
    assert resumed.resumes and resumed.step == 12
    with pytest.raises(VCMError, match=r"dropout was 0\.0 .* and is 0\.5 now"):
        train_regression([f"out={tmp_path}", "dropout=0.5"])


def test_a_run_of_an_older_version_resumes_to_the_same_weights(tmp_path):
    """It named its first loss otherwise, knew no criterion, and kept no place of batches."""
    given = ["validate_every=3", "checkpoint_every=3"]
    whole = train_regression([f"out={tmp_path / 'whole'}", *given])
    old = tmp_path / "old"
    train_regression([f"out={old}", *given, "steps=12", "max_minutes=inf"])
    for name in ("log.csv", "validation.csv"):
        rows = (old / name).read_text().splitlines(keepends=True)
        (old / name).write_text("".join([rows[0].replace(",loss,", ",minimised,"), *rows[1:]]))
    best = json.loads((old / "best" / "best.json").read_text())
    del best["criterion"]
    (old / "best" / "best.json").write_text(json.dumps(best))
    state = torch.load(old / CHECKPOINT)
    del state["batches"]
    torch.save(state, old / CHECKPOINT)
    longer = ["steps=18", *given]
    resumed = train_regression([f"out={old}", *longer])
    train_regression([f"out={tmp_path / 'whole'}", *longer])
    assert resumed.resumes
    states = [torch.load(folder / CHECKPOINT) for folder in (old, tmp_path / "whole")]
    assert equal(states[0]["net"], states[1]["net"])
    rows = [(folder / "log.csv").read_text().splitlines() for folder in (old, tmp_path / "whole")]
    assert rows[0][0].split(",")[2] == "minimised" and len(rows[0]) == len(rows[1]) == 7
    losses = [[row.split(",")[2:] for row in table[1:]] for table in rows]
    assert losses[0] == losses[1]
    assert whole.step == 12


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("batch_size=5", "accumulate smaller"),
        ("accumulate=0", "accumulate is 0: it must be 1 or more"),
        ("mixed_precision=fp8", "mixed_precision is 'fp8': choose auto, no, bf16 or fp16"),
        ("weights=first", "weights is 'first': choose last or best"),
        ("weights=best", "validate_every is 0"),
        ("explosion=1", "it must exceed 1"),
        ("max_minutes=0", "max_minutes is 0: it must be above 0"),
        ("gradient_clip=-1", "gradient_clip is -1: it must be above 0"),
        ("learning_rate=-0.001", "learning_rate is -0.001: it must be 0 or more"),
        ("final_learning_rate=-1e-5", "final_learning_rate is -1e-05: it must be 0 or more"),
        ("ema_decay=1.5", "ema_decay is 1.5: it must lie between 0 and 1"),
        ("tracker=tensorbord", "did you mean 'tensorboard'"),
    ],
)
def test_what_no_run_can_use_is_refused(tmp_path, override, said):
    with pytest.raises(VCMError, match=said):
        train_regression([f"out={tmp_path}", "accumulate=2", override])


def test_a_copy_that_a_user_made_of_a_snapshot_stays_and_stops_nothing(tmp_path):
    given = ["save_every=4", "keep_checkpoints=1"]
    train_regression([f"out={tmp_path}", *given])
    snapshots = tmp_path / "checkpoints"
    shutil.copytree(snapshots / "step-12", snapshots / "step-12-good")
    train_regression([f"out={tmp_path}", *given, "steps=16"])
    assert sorted(path.name for path in snapshots.iterdir()) == ["step-12-good", "step-16"]


def test_a_table_that_another_program_stored_is_refused(tmp_path):
    train_regression([f"out={tmp_path}"])
    log = tmp_path / "log.csv"
    rows = log.read_text()
    log.write_text(rows + "\n")  # an empty line is nothing
    train_regression([f"out={tmp_path}", "steps=16"])
    assert [row.split(",")[0] for row in log.read_text().splitlines()] == [
        "step",
        "4",
        "8",
        "12",
        "16",
    ]
    log.write_text(rows.replace(",", ";"))
    with pytest.raises(VCMError, match=r"log.csv has a row that begins with no step \('4;"):
        train_regression([f"out={tmp_path}", "steps=20"])
    assert log.read_text() == rows.replace(",", ";")


def test_validations_are_refused_where_there_are_none(tmp_path):
    run, _ = begin(configure(tmp_path, "validate_every=2"))
    with pytest.raises(VCMError, match="this run has no validation"):
        run.fit(lambda _: draw_products)


def test_fp16_needs_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    with pytest.raises(VCMError, match="fp16, which needs a GPU: set bf16 or no"):
        train_regression([f"out={tmp_path}", "mixed_precision=fp16"])


def test_one_process_trains_with_one_precision_after_another(tmp_path):
    nets = []
    for precision in ("bf16", "no"):
        run = train_regression([f"out={tmp_path / precision}", f"mixed_precision={precision}"])
        assert run.accelerator.mixed_precision == precision
        nets.append(weights_of(run.net))
    assert not equal(*nets)


def test_tensorboard_has_the_curves(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_regression([f"out={tmp_path}", "tracker=tensorboard", "validate_every=6"])
    events = EventAccumulator(str(tmp_path / "tensorboard" / "vcm"))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == [4, 8, 12]
    assert [e.step for e in events.Scalars("validation/loss")] == [6, 12]
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    found = [e.value for e in events.Scalars("loss")]
    assert found == pytest.approx([float(row["loss"]) for row in rows], rel=1e-5)


def test_a_tracker_that_is_not_installed_is_noted_and_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("vcm.learning.watch.get_available_trackers", lambda: [])
    run = train_regression([f"out={tmp_path}", "tracker=wandb"])
    assert run.step == 12 and not run.accelerator.trackers
    assert capsys.readouterr().err.count("pip install wandb") == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", "steps: 3\n"),
        ("log.csv", "subject,age\nsub-1,30\n"),
        ("config.yaml", "- 1\n"),
        ("origin.json", "{}\n"),
    ],
)
def test_files_that_no_run_wrote_are_not_overwritten(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with (
        pytest.raises(VCMError, match=f"holds {name}, which no training run wrote"),
        RunFolder(tmp_path, 1).opened(configure(tmp_path)),
    ):
        pass
    assert (tmp_path / name).read_text() == content


@pytest.mark.parametrize("content", [b"", b"PK\3\4 and no more", b"\x80\x02K\x01."])
def test_a_damaged_checkpoint_is_one_sentence(tmp_path, content):
    with RunFolder(tmp_path, 1).opened(configure(tmp_path)):
        pass
    (tmp_path / CHECKPOINT).write_bytes(content)
    with (
        pytest.raises(VCMError, match="it is damaged or of another program") as found,
        RunFolder(tmp_path, 1).opened(configure(tmp_path)),
    ):
        pass
    assert "\n" not in str(found.value)
