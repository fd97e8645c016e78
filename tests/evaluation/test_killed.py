"""vcm evaluate is killed at moments of a seed: what is there is whole, and the next run draws no sample again."""

import numpy as np
import pytest
import torch
from killed import MOMENTS, Whole, content
from small_brains import brain2mm_like, write_prepared

from vcm.evaluation.configuration import Evaluation
from vcm.evaluation.evaluate import evaluate_files
from vcm.nets.segmenter import TissueSegmenter


def evaluate(given, out):
    """With classes, features and pictures that cost nothing: only what is written matters here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "vcm.evaluation.measures.segment_on",
            lambda net, volume, grid: np.clip(9 * volume, 0, 8).astype(np.uint8),
        )
        patch.setattr(
            "vcm.evaluation.measures.describe",
            lambda net, volumes, grid, title: np.array([[v.mean(), v.std()] for v in volumes]),
        )
        for name in ("mosaic", "outlined"):
            patch.setattr(
                f"vcm.evaluation.evaluate.{name}", lambda *a: a[1 + (len(a) == 5)].touch()
            )
        patch.setattr("vcm.report.plots._as_svg", lambda *arguments: "<svg/>")
        config = Evaluation(
            data=[str(given / "prepared")], model=str(given / "model"),
            segmenter=str(given / "segmenter"), out=str(out), steps=1, covariate_samples=1, device="cpu",
        )  # fmt: skip
        evaluate_files(config)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A whole run of it, beside its inputs."""
    folder = tmp_path_factory.mktemp("killed")
    torch.manual_seed(0)
    write_prepared(folder / "prepared", ("train", "test"))
    brain2mm_like().save_pretrained(folder / "model")
    TissueSegmenter((8, 8), 2).save_pretrained(folder / "segmenter")
    return Whole.of(evaluate, folder)


@pytest.mark.parametrize("share", MOMENTS)
def test_killed(whole, share):
    whole.kill(share)
    out, files = whole.out, whole.files
    before = {p: p.stat().st_mtime_ns for p in out.rglob("[!.]*.npy")}
    whole.again()
    assert content(out) == files
    # But for one whose record was not written yet.
    assert sum(path.stat().st_mtime_ns != stamp for path, stamp in before.items()) <= 1
