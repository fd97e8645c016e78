"""A segmenter of any contrast: what it is shown, that it learns and resumes, what it starts from, what is refused."""

from functools import partial

import numpy as np
import pytest
import torch
from small_pool import small_pool

from vcm.checksums import record_checksums
from vcm.config import load_config
from vcm.errors import VCMError
from vcm.imaging.deformation import DeformationSizes
from vcm.imaging.random_lesions import draw_mass
from vcm.imaging.random_scan import draw_scan
from vcm.nets.segmenter import TissueSegmenter
from vcm.training.configuration import SegmenterTraining
from vcm.training.segmenter import (
    SegmenterObjective,
    draw_random_scans,
    pretrain_segmenter,
    start_from,
)
from vcm.weights.segmenter import knows_any_contrast, load_segmenter

SHORT = [
    "channels=[4,4]", "groups=2", "checkpoint_every=1", "tracker=none", "mixed_precision=no",
    "learning_rate=1e-3", "final_learning_rate=1e-3", "warmup_steps=0",
]  # fmt: skip


def training(data, out, *given):
    return load_config(SegmenterTraining, None, [f"data=[{data}]", f"out={out}", *SHORT, *given])


def test_a_mass_is_one_piece_of_brain_with_its_core_inside():
    brain = np.zeros((60, 60, 60), bool)
    brain[5:55, 5:55, 5:55] = True
    sizes, cores = [], 0
    for seed in range(12):
        whole, core = draw_mass(brain, 2.0, np.random.default_rng(seed))
        assert not whole[~brain].any() and whole.max() == 1 and whole.min() >= 0
        assert (core <= whole).all()
        sizes.append(8e-3 * float(whole.sum()))
        cores += core.any()
    assert 0 < cores < 12 and min(sizes) < 10 < max(sizes)  # [mL]
    nothing = draw_mass(np.zeros((4, 4, 4), bool), 2.0, np.random.default_rng(0))
    assert not nothing.whole.any()


def test_a_mass_shows_in_the_scan_and_in_its_lesions_and_the_anatomy_stays():
    shape = (32, 32, 32)
    classes = np.ones(shape, np.uint8)
    image = np.full(shape, 0.7, np.float32)
    with_one = draw_scan(image, classes, 2.0, np.random.default_rng(3), masses=1.0)
    without = draw_scan(image, classes, 2.0, np.random.default_rng(3))
    assert with_one.lesions.sum() > without.lesions.sum() + 100
    assert np.abs(with_one.scan - without.scan).max() > 0.1


def test_maps_hold_nothing_beyond_the_brain_that_was_drawn():
    draw = partial(draw_random_scans, small_pool(), DeformationSizes(), 0.5, 2)
    for seed in range(6):
        batch = draw(np.random.default_rng(seed))
        assert (
            batch.images.shape == batch.classes.shape == batch.lesions.shape == (2, 1, 16, 16, 16)
        )
        assert ((batch.classes > 0) == (batch.images > 0)).all()
    again = draw(np.random.default_rng(5))
    assert all(torch.equal(a, b) for a, b in zip(batch, again, strict=True))


def test_lesions_have_a_loss_of_their_own_that_leaves_the_classes_alone():
    torch.manual_seed(0)
    net = TissueSegmenter((4, 4), 2, lesions=True)
    objective = SegmenterObjective(net)
    batch = draw_random_scans(small_pool(), DeformationSizes(), 1.0, 1, np.random.default_rng(0))
    with torch.no_grad():
        found = objective(batch)
        without = objective(batch._replace(lesions=torch.empty(0)))
    assert found["loss"] > found["lesions"] > 0
    assert torch.isclose(without["loss"] + found["lesions"], found["loss"])
    with torch.no_grad():  # a certain lesion everywhere changes no class
        before = net.classes(batch.images)
        net.out.conv.conv.bias[-1] = 1e3
    assert torch.equal(net.classes(batch.images), before) and int(before.max()) < 9


def test_a_stopped_training_goes_on_and_its_network_knows_any_contrast(small_prepared, tmp_path):
    for steps, out in ((4, "whole"), (2, "parts"), (4, "parts")):
        pretrain_segmenter(
            training(small_prepared, tmp_path / out, "contrasts=any", f"steps={steps}")
        )
    whole, parts = (load_segmenter(str(tmp_path / n / "segmenter")) for n in ("whole", "parts"))
    theirs = parts.state_dict()
    assert all(torch.equal(v, theirs[n]) for n, v in whole.state_dict().items())
    assert knows_any_contrast(whole) and whole.config.lesions
    pretrain_segmenter(training(small_prepared, tmp_path / "t1w", "steps=1"))
    assert not knows_any_contrast(load_segmenter(str(tmp_path / "t1w" / "segmenter")))


def test_blocks_of_voxels_are_folded_where_patch_says_so(small_prepared, tmp_path):
    pretrain_segmenter(training(small_prepared, tmp_path, "contrasts=any", "patch=2", "steps=1"))
    net = load_segmenter(str(tmp_path / "segmenter"))
    image = torch.rand(1, 1, 8, 8, 8)
    assert net.config.patch == 2 and [tuple(h.shape[2:]) for h in net.levels(image)] == [
        (4,) * 3,
        (2,) * 3,
    ]
    assert net.classes(image).shape == (1, 8, 8, 8)


def test_it_starts_from_a_segmenter_without_lesions(tmp_path):
    old = TissueSegmenter((4, 4), 2)
    old.save_pretrained(tmp_path)
    record_checksums(tmp_path)
    net = TissueSegmenter((4, 4), 2, lesions=True)
    start_from(net, str(tmp_path))
    image = torch.rand(1, 1, 8, 8, 8)
    assert torch.allclose(net(image)[:, :9], old(image), atol=1e-6)
    with pytest.raises(VCMError, match=r"other sizes than this run's"):
        start_from(TissueSegmenter((8, 8), 2, lesions=True), str(tmp_path))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("contrasts=t2w", "choose t1w or any"),
        ("start=nowhere", "nowhere holds no segmenter"),
        ("patch=0", "patch is 0: choose 1 voxel or more"),
        ("patch=-1", "patch is -1: choose 1 voxel or more"),
        ("patch=7", "patch is 7, so 2 levels of channels end at blocks of 14 voxels, which do not"),
    ],
)
def test_what_allows_no_training_is_refused(small_prepared, tmp_path, given, sentence):
    with pytest.raises(VCMError, match=sentence):
        pretrain_segmenter(training(small_prepared, tmp_path / "out", given))
    assert not (tmp_path / "out").exists()
