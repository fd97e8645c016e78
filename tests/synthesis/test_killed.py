"""A run that is killed leaves each volume whole and beside its sidecar, or not at all; the next one repairs it."""

import json

import numpy as np
import pytest
from small_brains import brain2mm_like

from vcm import files
from vcm.files import sha256
from vcm.synthesis import synthesize as job
from vcm.synthesis.configuration import Synthesis

#: Calls that touch the disk in a run of two seeds with volumes on two grids: three per file, seven files.
CALLS = 21
MOMENTS = sorted(np.random.default_rng(0).choice(CALLS, 6, replace=False).tolist())


class Killed(BaseException):
    """Ends a run as SIGKILL does: nothing is cleaned up, see `kill_at`."""


def kill_at(patched, moment):
    calls = iter(range(1000))
    for name in ("_temporary", "_flush", "_give_name"):

        def counted(*arguments, begun=getattr(files, name)):
            if next(calls) >= moment:
                raise Killed
            return begun(*arguments)

        patched.setattr(files, name, counted)
    patched.setattr(files, "remove", lambda path: None)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    brain2mm_like().save_pretrained(folder / "model")

    def synthesize(name):
        config = Synthesis(
            out=folder / name, model=str(folder / "model"), uncontrolled=True, seeds=[0, 1], steps=1,
            model_grid=True,
        )  # fmt: skip
        job.synthesize_files(config)
        return folder / name

    synthesize.folder = folder
    return synthesize


@pytest.fixture(scope="module")
def whole(run):
    return {p.name: p.read_bytes() for p in run("whole").iterdir()}


@pytest.mark.parametrize("moment", MOMENTS)
def test_what_is_there_is_whole_and_the_next_run_completes_it(run, whole, monkeypatch, moment):
    with monkeypatch.context() as patched:
        # The probe of the folder before the first step is not counted.
        patched.setattr(job, "check_output", lambda *_: None)
        kill_at(patched, moment)
        with pytest.raises(Killed):
            run(f"at-{moment}")
    out = run.folder / f"at-{moment}"
    for volume in out.glob("[!.]*.nii.gz"):
        assert volume.read_bytes() == whole[volume.name]
        plain = volume.name.replace("space-model_", "").removesuffix(".nii.gz")
        record = json.loads((out / f"{plain}.json").read_text())
        assert record["Files"][volume.name] == sha256(volume)
    # The process is gone, so what it left under temporary names is removed.
    monkeypatch.setattr(files, "_is_running", lambda process: False)
    files._remove_abandoned.cache_clear()
    run(f"at-{moment}")
    assert {p.name: p.read_bytes() for p in out.iterdir()} == whole
