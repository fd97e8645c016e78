"""A detail network of random contrasts: what is drawn, and a run of a few steps."""

import numpy as np
import pytest
from command_line import vcm

from vcm.imaging.random_contrast import painted, recoloured
from vcm.imaging.volume import Volume, write_volume
from vcm.nets.detail import DetailNet
from vcm.upsampling.contrast_pool import Sources, draw_pairs


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


def test_a_run_saves_a_network_for_any_contrast(tmp_path):
    for number in (1, 2):
        data = np.zeros((44, 44, 44), np.float32)
        data[2:-2, 2:-2, 2:-2] = np.random.default_rng(number).random((40, 40, 40)) + 1
        volume = Volume(data, np.diag([2.0, 2.0, 2.0, 1.0]))
        anat = tmp_path / "bids" / f"sub-{number}" / "anat"
        anat.mkdir(parents=True)
        write_volume(volume, anat / f"sub-{number}_T1w.nii.gz")
    table = "participant_id\tsplit\nsub-1\ttrain\nsub-2\ttest\n"
    (tmp_path / "bids" / "participants.tsv").write_text(table, encoding="utf-8")
    labels = np.zeros((60, 60, 60), np.uint8)
    labels[6:-6, 6:-6, 6:-6] = 2
    (tmp_path / "maps").mkdir()
    write_volume(Volume(labels, np.eye(4)), tmp_path / "maps" / "seg.nii.gz")
    words = (
        "pretrain", "contrasts", f"data=[{tmp_path / 'bids'}]", f"labelmaps=[{tmp_path / 'maps'}]",
        f"out={tmp_path / 'run'}", "crop=32", "channels=[4,4,4,4,4,4]", "steps=2", "measured=1",
        "checkpoint_every=2", "warmup_steps=1", "mixed_precision=no", "tracker=none",
    )  # fmt: skip
    done = vcm(*words)
    assert done.exit_code == 0, done.error
    assert "psnr_detailed" in done.output
    net = DetailNet.from_pretrained(tmp_path / "run" / "model")
    assert not net.expects
