"""vcm fewshot study is killed at moments of a seed: what is there is whole, and the next run ends the work."""

import json
import shutil

import killed
import numpy as np
import pytest
from few_shot_brains import write_brains
from killed import MOMENTS, seen

from vcm.fewshot.study import FewShotStudy, run_study
from vcm.files import read_table

#: Differ from run to run.
MEASURED = ("cpu_seconds", "wall_seconds", "peak_bytes")


def study(given, out):
    run_study(
        FewShotStudy(
            tasks=[str(given / "age.yaml")], methods=["mean", "voxels"], shots=[8], seeds=2, out=str(out),
        )
    )  # fmt: skip


def results(out):
    rows = read_table(out / "results.tsv")
    return [{k: v for k, v in row.items() if k not in MEASURED} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder of the task; what a whole study found; its answers by file; and its moments."""
    folder = tmp_path_factory.mktemp("killed")
    write_brains(folder / "brains")
    sources = {name: {"data": "brains", "split": name} for name in ("train", "test")}
    task = {"kind": "regression", "inputs": ["t1"], "label": "age", "train": sources["train"],
            "tests": {"held out": sources["test"]}}  # fmt: skip
    (folder / "age.yaml").write_text(json.dumps(task))
    moments = killed.run(study, folder, folder / "out", folder=folder / "out")
    return folder, results(folder / "out"), answers(folder / "out"), moments


def answers(out):
    found = seen(out)
    return {name: found[name] for name in found if name.endswith(("answers.tsv", ".npy"))}


@pytest.mark.parametrize("share", MOMENTS)
def test_killed(whole, share):
    folder, found, files, moments = whole
    out = folder / "out"
    shutil.rmtree(out)
    killed.run(study, folder, out, folder=out, moment=killed.at(share, moments))
    assert answers(out).items() <= files.items()
    for record in out.rglob("[!.]*.json"):
        assert json.loads(record.read_text())
    for record in out.rglob("run.json"):
        assert record.with_name("answers.tsv").is_file()
    for features in out.rglob("[!.]*.npy"):
        assert np.isfinite(np.load(features)).all()
    killed.run(study, folder, out, folder=out)
    assert results(out) == found
    assert answers(out) == files
