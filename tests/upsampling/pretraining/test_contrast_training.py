"""A detail network of random contrasts: what is drawn, and a run of a few steps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import vcm
from small_brains import write_contrast_sources

from vcm.imaging.random_contrast import painted, recoloured
from vcm.learning.batches import SeededDraws
from vcm.nets.detail import DetailNet
from vcm.upsampling.pretraining.contrast_pool import Sources, draw_pairs
from vcm.weights.packing import pack


@pytest.fixture(scope="module")
def sources() -> Sources:
    random = np.random.default_rng(0)
    brain = np.zeros((50, 52, 54), np.float16)
    brain[4:-4, 4:-4, 4:-4] = random.random((42, 44, 46)) * 0.5 + 0.3
    labels = np.zeros((50, 52, 54), np.uint8)
    labels[4:-4, 4:-4, 4:-4], labels[12:-12, 12:-12, 12:-12] = 2, 1
    return Sources((brain,), (labels,), (np.array([False, True, False]),))


def test_a_draw_is_that_of_its_generator(sources):
    one, again, other = (
        draw_pairs(sources, 32, 2, 0.1, np.random.default_rng(s)) for s in (1, 1, 2)
    )
    assert one.read.shape == (2, 3, 32, 32, 32) and one.truth.shape == (2, 1, 32, 32, 32)
    assert all((a == b).all() for a, b in zip(one, again, strict=True))
    assert (one.truth != other.truth).any()
    assert not one.read[:, 2].any() and one.read[:, 1].max() <= 1


def test_workers_draw_the_same_pairs(sources):
    def draw(random):
        return draw_pairs(sources, 32, 2, 0.1, random)

    alone, ahead = SeededDraws(draw, 5), SeededDraws(draw, 5, workers=2)
    for step in range(3):
        one, other = alone.take(step), ahead.take(step)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    ahead.close()


def test_slices_lie_where_their_image_lies(sources):
    """The nearer to a slice, the smaller the error of the interpolation; one beside would be no better."""
    near, far, shifted = [], [], []
    for seed in range(12):
        read, truth, shown = draw_pairs(sources, 32, 1, 0.1, np.random.default_rng(seed))
        error = (read[0, 0] - truth[0, 0]).square()
        inside = shown[0, 0] > 0
        near.append(error[inside & (read[0, 1] > 0.7)].mean())
        far.append(error[inside & (read[0, 1] < 0.3)].mean())
        moved = (read[0, 0, :, :, 3:] - truth[0, 0, :, :, :-3]).square()
        shifted.append(moved[inside[:, :, 3:]].mean() / error[inside].mean())
    assert np.mean(near) < np.mean(far) and np.median(shifted) > 1.2


def test_contrasts_differ_and_air_stays_dark():
    image = np.linspace(0, 1, 4096, dtype=np.float32).reshape(16, 16, 16)
    drawn = [recoloured(image, np.random.default_rng(s)) for s in range(8)]
    assert all(d[image == 0].max() == 0 and d.min() >= 0 and d.max() < 1.5 for d in drawn)
    rising = [np.corrcoef(d.ravel(), image.ravel())[0, 1] for d in drawn]
    assert min(rising) < 0 < max(rising)
    labels = np.zeros((16, 16, 16), np.uint8)
    labels[4:-4] = 3
    assert painted(labels, np.random.default_rng(0))[0].max() < 0.01


def run(folder: Path, *words: str):
    return vcm(
        "pretrain", "contrasts", *write_contrast_sources(folder), "crop=32", "steps=2", "measured=1",
        "checkpoint_every=2", "warmup_steps=1", "mixed_precision=no", "tracker=none", *words,
    )  # fmt: skip


def test_a_run_saves_a_network_for_any_contrast_and_the_next_starts_from_it(tmp_path):
    sizes = "channels=[4,4,4,4,4,4]"
    done = run(tmp_path / "data", sizes, f"out={tmp_path / 'run'}", "workers=1")
    assert done.exit_code == 0, done.error
    assert "psnr_detailed" in done.output
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "psnr_detailed" in page and "channels" in page
    lines = (tmp_path / "run" / "progress.log").read_text(encoding="utf-8").splitlines()
    assert " Training: 1/" in lines[0] and "loss " in lines[-1] and "0:00:00 left" in lines[-1]
    net = DetailNet.from_pretrained(tmp_path / "run" / "model")
    assert not net.expects
    pack(tmp_path / "run" / "model", tmp_path / "half")
    rest = ("learning_rate=1e-9", "final_learning_rate=1e-9", f"start={tmp_path / 'half'}")
    done = run(tmp_path / "data", sizes, f"out={tmp_path / 'on'}", *rest)
    assert done.exit_code == 0, done.error
    begun = DetailNet.from_pretrained(tmp_path / "on" / "model").state_dict()
    for name, value in net.state_dict().items():
        assert torch.allclose(begun[name], value, atol=1e-3), name
    assert net.head.weight.abs().max() > 0, "the first run learned nothing to start from"
    for words, complaint in (
        ((f"start={tmp_path}", sizes), "holds no model"),
        ((f"start={tmp_path / 'half'}", "channels=[8,8,8,8,8,8]"), "has other sizes"),
    ):
        done = run(tmp_path / "data", f"out={tmp_path / 'not'}", *words)
        assert done.exit_code == 2 and complaint in done.error
