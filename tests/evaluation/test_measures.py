"""Each measure against a count by hand, on volumes of a few voxels."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from vcm.evaluation import measures
from vcm.evaluation.summary import summarise_privacy
from vcm.imaging.conditions import CLASS_NAMES
from vcm.imaging.geometry import centred_grid
from vcm.nets.segmenter import TissueSegmenter
from vcm.weights.segmenter import segmenter_grid

RANDOM = np.random.default_rng(0)


@dataclass
class Case:
    name: str


CASES = [Case("sub-1"), Case("sub-2")]


def volumes(count, shape=(5, 4, 3)):
    return [RANDOM.random(shape, dtype=np.float32) for _ in range(count)]


def test_adherence_is_the_overlap_of_each_class():
    truth = [np.zeros((3, 3, 3), np.uint8) for _ in CASES]
    truth[0][0], truth[0][1] = 1, 2
    found = [t.copy() for t in truth]
    found[0][0, 0] = 2  # 3 of 9 voxels of class 1 are taken for class 2
    rows = measures.adherence(CASES, truth, {"real": truth, "controlled": found})
    assert len(rows) == 2 * (len(CLASS_NAMES) - 1)
    white, grey = rows[0], rows[1]
    assert (white["subject"], white["class"]) == ("sub-1", CLASS_NAMES[1])
    assert white["dice_controlled"] == pytest.approx(2 * 6 / (6 + 9))
    assert grey["dice_controlled"] == pytest.approx(2 * 9 / (12 + 9))
    assert white["dice_real"] == 1 and rows[2]["dice_real"] is None


def test_intensity_is_that_inside_the_class():
    truth = [np.where(np.arange(60).reshape(5, 4, 3) % 2, 1, 0).astype(np.uint8)] * 2
    images = volumes(2)
    rows = measures.intensity(CASES, truth, {"real": images})
    first = next(r for r in rows if r["subject"] == "sub-2" and r["class"] == CLASS_NAMES[1])
    inside = [v for v, c in zip(images[1].ravel(), truth[1].ravel(), strict=True) if c == 1]
    assert first["mean_real"] == pytest.approx(np.mean(inside))
    assert first["sd_real"] == pytest.approx(np.std(inside), rel=1e-5)
    assert rows[-1]["mean_real"] is None


def test_the_nearest_training_scan_is_found_by_a_naive_search():
    train, arms = volumes(4), {"real": volumes(2), "controlled": volumes(2)}
    arms["controlled"][1] = train[2][::-1].copy()
    rows = measures.privacy(CASES, list("abcd"), train, arms)
    assert [(r["arm"], r["subject"]) for r in rows] == [
        (arm, case.name) for arm in arms for case in CASES
    ]
    for row in rows:
        volume = arms[row["arm"]][int(row["subject"][-1]) - 1]
        far = [
            min(np.sqrt(np.square(volume - m).mean()) for m in (scan, scan[::-1])) for scan in train
        ]
        assert row["nearest"] == "abcd"[int(np.argmin(far))]
        assert row["rmse_nearest"] == pytest.approx(min(far), abs=1e-6)
        assert row["rmse_median"] == pytest.approx(sorted(far)[1], rel=1e-5)
        assert row["ratio"] == pytest.approx(min(far) / sorted(far)[1], abs=1e-5)
    copy = rows[-1]
    assert (copy["nearest"], copy["mirrored"], copy["rmse_nearest"]) == ("c", "yes", 0)


def test_diversity_is_the_distance_of_two_samples():
    first, second = volumes(2), volumes(2)
    rows = measures.diversity(["sub-1"], {"controlled": (first, second)})
    expected = np.sqrt(np.square(first[0] - second[0]).mean())
    assert rows == [{"arm": "controlled", "subject": "sub-1", "rmse": pytest.approx(expected)}]


def test_realism_does_not_change_with_the_scale_of_the_features():
    train, arm = RANDOM.normal(size=(12, 6)), RANDOM.normal(0.5, 1, size=(8, 6))
    (one,) = measures.realism(train, {"controlled": arm}, 0)
    (two,) = measures.realism(1000 * train + 5, {"controlled": 1000 * arm + 5}, 0)
    assert one["kid"] == pytest.approx(two["kid"]) and one["scans"] == 8
    assert one["low"] < one["high"]
    (same,) = measures.realism(train, {"real": train}, 0)
    assert same["kid"] < one["kid"]


class Scans:
    """Training scans that count how many are in memory at once."""

    def __init__(self, count):
        self.count, self.reads = count, []

    def __len__(self):
        return self.count

    def __getitem__(self, n):
        if n >= self.count:
            raise IndexError(n)
        self.reads.append(n)
        return volumes(1)[0]


def test_each_training_scan_is_read_once_for_privacy():
    train = Scans(6)
    measures.privacy(CASES, list("abcdef"), train, {"real": volumes(2), "controlled": volumes(2)})
    assert train.reads == list(range(6))


def test_volumes_of_another_spacing_are_shown_to_the_segmenter_as_in_its_training():
    """A map at 1 mm is the map at 2 mm, each voxel by its nearest; features are the same."""
    torch.manual_seed(0)
    net = TissueSegmenter((8, 8), groups=4).eval()
    coarse = segmenter_grid(net)
    x, y, z = coarse.shape
    centre = tuple(float(v) for v in coarse.centre)
    fine = centred_grid((2 * x, 2 * y, 2 * z), 1.0, centre, "LAS")
    image = RANDOM.random(coarse.shape, dtype=np.float32)
    # Blocks of 2 x 2 x 2 voxels: linear interpolation at the middle of a block is its value.
    blocks = image.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    seen = measures.seen_by(net, blocks, fine)
    assert tuple(seen.shape[2:]) == coarse.shape
    (found,) = measures.segment(net, [blocks], fine, "")
    assert found.shape == fine.shape
    own = net.classes(seen)[0].numpy()
    assert len(np.unique(own)) > 2
    inner = (slice(1, -1),) * 3  # the outermost half voxel lies beyond the coarse centres
    np.testing.assert_array_equal(found[::2, ::2, ::2][inner], own[inner])
    np.testing.assert_array_equal(found[1::2, 1::2, 1::2][inner], own[inner])
    features = measures.describe(net, [blocks], fine, "")
    np.testing.assert_allclose(features[0], net.features(seen)[0].numpy(), rtol=1e-5)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("train", [np.ones((1, 3)), np.tile([0.1, 7.3, 2.0], (5, 1))])
def test_training_scans_that_do_not_differ_give_no_scale(train):
    rows = measures.realism(train, {"real": RANDOM.random((5, 3)) + 1e4 * train[0]}, seed=0)
    assert rows == [{"arm": "real", "scans": 5, "kid": None, "low": None, "high": None}]


@pytest.mark.filterwarnings("error")
def test_a_ratio_to_copies_of_one_brain_does_not_exist():
    scan = volumes(1)[0]
    arms = {"real": [scan, scan], "controlled": volumes(2)}
    rows = measures.privacy(CASES, list("ab"), [scan, scan], arms)
    assert [r["ratio"] for r in rows[:2]] == [None, None] and rows[2]["ratio"] == 1
    found = summarise_privacy(rows, seed=0)
    assert found["real"]["ratio"]["min"] is found["real"]["ratio"]["mean"] is None
    assert found["controlled"]["ratio"]["share_closer_than_every_real"] is None
    assert found["controlled"]["ratio"]["min"] == 1


def test_a_sample_that_is_the_scan_has_no_psnr():
    truth, scans = [np.ones((16, 16, 16), np.uint8)] * 2, volumes(2, (16, 16, 16))
    rows = measures.paired(CASES, truth, scans, [scans[0], volumes(1, (16, 16, 16))[0]])
    assert rows[0]["psnr"] is None and rows[0]["ssim"] == pytest.approx(1) and rows[1]["psnr"] > 0
