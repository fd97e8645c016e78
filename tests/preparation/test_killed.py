"""vcm prepare is killed at moments of a seed: nothing is lost, nothing is half, and the next run ends the work."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from source_folders import GRID, bids, without_slow_parts

from vcm.errors import VCMError
from vcm.files import sha256
from vcm.imaging.prepared_set import UNFINISHED, load_prepared
from vcm.preparation.prepare import prepare
from vcm.preparation.record import read_record

#: Of the duration of a whole run.
MOMENTS = [round(float(u), 3) for u in np.random.default_rng(0).uniform(0.05, 1.05, 6)]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A source and the set prepared from it, before and after every second scan has changed; and how
    long [s] the second set took in a process of its own."""
    folder = tmp_path_factory.mktemp("sets")
    with pytest.MonkeyPatch.context() as patch:
        without_slow_parts(patch)
        for name, moves in {"before": [0, 1, 2, 3], "after": [9, 1, 8, 3]}.items():
            source = bids(folder / f"{name}_source", [(x, 0, 0) for x in moves])
            start = time.monotonic()
            _start(source, folder / name).join()
            duration = time.monotonic() - start
        yield folder, duration


def _run(source: Path, out: Path) -> None:
    os.setsid()
    prepare(source, out, workers=2, grid=GRID)


def _start(source: Path, out: Path) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=_run, args=(source, out))
    process.start()
    return process


def _content(out: Path) -> dict[str, str]:
    """Of the set; its page, written after it, names the folder."""
    files = (p for p in out.rglob("*") if p.is_file() and p.name != "report.html")
    return {str(p.relative_to(out)): sha256(p) for p in files}


def _is_whole(folder: Path) -> bool:
    """Whether every file of a prepared scan is what its record says."""
    record = json.loads((folder / f"{folder.name}_prepare.json").read_text())
    return read_record(folder, folder.name, record["made_from"]) is not None


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed(tmp_path, sets, moment):
    folder, duration = sets
    out = tmp_path / "out"
    shutil.copytree(folder / "before", out)
    process = _start(folder / "after_source", out)
    time.sleep(moment * duration)
    if process.is_alive():
        os.killpg(process.pid, signal.SIGKILL)
    process.join()
    time.sleep(0.2)  # its workers die a moment later

    assert all(_is_whole(scan) for scan in out.glob("sub-*"))
    if (out / UNFINISHED).exists():
        with pytest.raises(VCMError, match="run the same vcm prepare again"):
            load_prepared(out)
    else:
        assert _content(out) in (_content(folder / "before"), _content(folder / "after"))
    prepare(folder / "after_source", out, workers=2, grid=GRID)
    assert _content(out) == _content(folder / "after")
    assert not list(out.rglob(".*"))
