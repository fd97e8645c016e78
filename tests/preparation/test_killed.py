"""vcm prepare is killed at moments of a seed: nothing is lost, nothing is half, and the next run ends the work."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from concurrent.futures import Executor, Future
from pathlib import Path

import killed
import pytest
from killed import MOMENTS, content, seen
from source_folders import GRID, bids, without_slow_parts

from vcm.errors import VCMError
from vcm.imaging.prepared_set import UNFINISHED, load_prepared
from vcm.preparation.prepare import prepare
from vcm.preparation.record import read_record


class OneProcess(Executor):
    """Does the work where it is submitted, so that each of its moments has a number."""

    def __init__(self, *arguments: object, **options: object) -> None:
        """Of processes there are none."""

    def submit(self, work, /, *arguments):
        done: Future = Future()
        done.set_result(work(*arguments))
        return done


def run(source, out):
    with pytest.MonkeyPatch.context() as patch:
        without_slow_parts(patch)
        patch.setattr("vcm.imaging.brain.warn_unless_upright", lambda *arguments: None)
        patch.setattr("vcm.preparation.prepare.write_report", lambda *arguments: None)
        patch.setattr("vcm.preparation.prepare.ProcessPoolExecutor", OneProcess)
        prepare(source, out, grid=GRID)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two sources, of which every second scan differs, and the sets prepared from them; and the moments of
    preparing the second over the first."""
    folder = tmp_path_factory.mktemp("sets")
    for name, moves in {"before": [0, 1, 2], "after": [9, 1, 8]}.items():
        bids(folder / f"{name}_source", [(x, 0, 0) for x in moves])
    out = folder / "out"
    killed.run(run, folder / "before_source", out, folder=out)
    shutil.copytree(out, folder / "before")
    moments = killed.run(run, folder / "after_source", out, folder=out)
    out.rename(folder / "after")
    return folder, moments


def is_whole(folder: Path) -> bool:
    """Whether every file of a prepared scan is what its record says."""
    record = json.loads((folder / f"{folder.name}_prepare.json").read_text())
    return read_record(folder, folder.name, record["made_from"]) is not None


def is_safe(out: Path, folder: Path) -> None:
    """Every scan is whole, and a set of which a part is old is not trained on."""
    assert all(is_whole(scan) for scan in out.glob("sub-*"))
    if (out / UNFINISHED).exists():
        with pytest.raises(VCMError, match="run the same vcm prepare again"):
            load_prepared(out)
    else:
        assert seen(out) in (seen(folder / "before"), seen(folder / "after"))


@pytest.mark.parametrize("share", MOMENTS)
def test_killed(sets, share):
    folder, moments = sets
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(folder / "before", out)
    killed.run(run, folder / "after_source", out, folder=out, moment=killed.at(share, moments))
    is_safe(out, folder)
    killed.run(run, folder / "after_source", out, folder=out)
    assert content(out) == content(folder / "after")


def in_a_group(source: Path, out: Path) -> None:
    os.setsid()
    prepare(source, out, workers=2, grid=GRID)


def is_of_group(status: Path, group: int) -> bool:
    """Whether a process, of which Linux tells the status, is of a group and has not ended."""
    try:
        state, _, own = status.read_text(encoding="utf-8").rpartition(")")[2].split()[:3]
    except OSError:  # it ended meanwhile
        return False
    return int(own) == group and state != "Z"


@pytest.mark.slow
def test_the_next_run_does_not_meet_the_processes_of_one_that_was_killed(
    tmp_path, sets, monkeypatch
):
    """At some moment, as they have none by number."""
    without_slow_parts(monkeypatch)
    monkeypatch.setattr("vcm.preparation.prepare.write_report", lambda *arguments: None)
    folder, _ = sets
    out = tmp_path / "out"
    shutil.copytree(folder / "before", out)
    arguments = folder / "after_source", out
    process = multiprocessing.get_context("fork").Process(target=in_a_group, args=arguments)
    process.start()
    while os.getpgid(process.pid) != process.pid:  # it has no group of its own yet
        time.sleep(0.01)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    while any(is_of_group(status, process.pid) for status in Path("/proc").glob("[0-9]*/stat")):
        time.sleep(0.01)  # a process that writes to the disk ends a little after it is killed
    is_safe(out, folder)
    prepare(*arguments, workers=2, grid=GRID)
    assert content(out) == content(folder / "after")
