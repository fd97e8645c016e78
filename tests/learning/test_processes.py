"""Several real processes train as one: on one machine, and on two that are both this one."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import small_training
import torch
from run_folders import WEIGHTS, equal, same_folders
from safetensors.torch import load_file
from small_training import (
    BRIEF,
    PATIENCE,
    SmallTraining,
    begin,
    die_in_a_step,
    draw_products,
    hasten_other_clocks,
    spoil_other_losses,
    start,
)

from vcm.config import load_config
from vcm.errors import VCMError
from vcm.learning.run_folder import CHECKPOINT


def trained(folder, rank=0):
    return load_file(folder / f"net-{rank}" / WEIGHTS)


def distance(a, b):
    return max(float((a[k] - b[k]).abs().max()) for k in a)


@pytest.mark.parametrize(
    ("case", "overrides"),
    [
        pytest.param("regression", ["accumulate=2"], marks=pytest.mark.slow),
        ("module", ["validate_every=1"]),
    ],
)
def test_two_processes_give_what_one_gives(tmp_path, case, overrides):
    assert start(tmp_path / "one", case)[0] == [0]
    codes, errors = start(tmp_path / "two", case, *overrides, processes=2)
    assert codes == [0, 0], errors
    assert distance(trained(tmp_path / "one"), trained(tmp_path / "two")) < 1e-5
    assert equal(trained(tmp_path / "two", 0), trained(tmp_path / "two", 1))
    logs = [(tmp_path / n / "log.csv").read_text().splitlines() for n in ("one", "two")]
    for one, two in zip(*logs, strict=True):
        if one != logs[0][0]:
            values = [[float(x) for x in row.split(",")[2:]] for row in (one, two)]
            assert values[0] == pytest.approx(values[1], rel=1e-4)


@pytest.mark.slow
def test_two_machines_give_what_one_process_gives(tmp_path):
    """Both are this one, joined by the flags that would join two; see benchmarks/two_hosts.sh."""
    assert start(tmp_path / "one", "regression")[0] == [0]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(small_training.__file__)
    machines = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
                *("--num_machines", "2", "--num_processes", "2", "--machine_rank", str(rank)),
                *("--main_process_ip", "127.0.0.1", "--main_process_port", str(port)),
                *("--mixed_precision", "no", "--dynamo_backend", "no"),
                *(str(script), "regression", f"out={tmp_path / f'machine-{rank}'}"),
            ],
            stderr=subprocess.PIPE,
        )
        for rank in (0, 1)
    ]
    said = [machine.communicate(timeout=PATIENCE)[1].decode() for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert distance(trained(tmp_path / "one"), trained(tmp_path / "machine-0")) < 1e-5
    assert equal(trained(tmp_path / "machine-0", 0), trained(tmp_path / "machine-1", 1))
    # The second machine has a disk of its own, and only the main process writes the run.
    assert not (tmp_path / "machine-1" / CHECKPOINT).exists()


def test_two_killed_processes_go_on_with_the_randomness_of_each(tmp_path):
    given = ("regression", "dropout=0.5", "validate_every=4")
    codes, errors = start(tmp_path / "whole", *given, processes=2)
    assert codes == [0, 0], errors
    codes, errors = start(tmp_path / "run", *given, processes=2, prepare=(die_in_a_step, 7))
    assert codes == [-9, -9], errors
    codes, errors = start(tmp_path / "run", *given, processes=2)
    assert codes == [0, 0], errors
    same_folders(tmp_path / "run", tmp_path / "whole")
    states = torch.load(tmp_path / "run" / CHECKPOINT)["random"]
    assert not torch.equal(states[0]["cpu"], states[1]["cpu"])


def test_the_clock_of_the_main_process_counts(tmp_path):
    minutes = ("regression", "max_minutes=2")
    codes, errors = start(tmp_path / "run", *minutes, processes=2, prepare=(hasten_other_clocks,))
    assert codes == [0, 0], errors
    assert torch.load(tmp_path / "run" / CHECKPOINT)["step"] == 12
    assert equal(trained(tmp_path / "run", 0), trained(tmp_path / "run", 1))


def test_a_loss_that_is_no_number_in_one_process_stops_all(tmp_path):
    codes, errors = start(
        tmp_path / "run", "regression", processes=2, prepare=(spoil_other_losses,)
    )
    assert codes == [1, 1]
    for said in errors:
        assert "VCMError: The loss is nan at step 5: lower learning_rate" in said
    assert torch.load(tmp_path / "run" / CHECKPOINT)["step"] == 4


def test_a_refusal_of_the_main_process_stops_all(tmp_path):
    assert start(tmp_path / "run", "regression", processes=2)[0] == [0, 0]
    codes, errors = start(tmp_path / "run", "regression", "seed=1", processes=2)
    assert codes == [1, 1] and all("seed was 0" in said for said in errors)


def test_unequal_shares_are_refused(tmp_path):
    codes, errors = start(tmp_path / "run", "regression", "accumulate=4", processes=2)
    assert codes == [1, 1]
    assert all("batch_size is 4, to be shared by 2 processes in 4 parts" in e for e in errors)


def test_frozen_networks_are_no_part_of_what_is_synchronised(tmp_path):
    config = load_config(SmallTraining, None, [*BRIEF, f"out={tmp_path}"])
    run, objective = begin(config)
    run.fit(lambda _: draw_products)
    assert objective._ddp_params_and_buffers_to_ignore == ["frozen.weight", "frozen.bias"]


def test_a_launch_that_started_one_process_only_is_refused(tmp_path, monkeypatch):
    config = load_config(SmallTraining, None, [*BRIEF, f"out={tmp_path}"])
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    begin(config)[0].fit(lambda _: draw_products)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    with pytest.raises(VCMError, match="use torchrun"):
        begin(config)[0].fit(lambda _: draw_products)
