import warnings

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import pearsonr
from sklearn.metrics import f1_score, roc_auc_score

from vcm.errors import VCMError
from vcm.fewshot.comparison import metrics

NONE = float("nan")

#: NSD at 1 mm of `blobs(seed)`, by DeepMind's surface-distance 0.1.
PUBLISHED_NSD = [
    0.95724, 0.396602, 0.23132, 0.883661, 0.31808, 0.405032, 0.76691, 0.290021, 0.1527, 0.83645,
    0.442666, 0.405241,
]  # fmt: skip


def blobs(seed):
    """Two random masks, every third pair one shifted by a voxel, and their spacing."""
    random = np.random.default_rng(seed)
    shape = tuple(int(v) for v in random.integers(8, 20, 3))
    spacing = [round(float(v), 2) for v in random.uniform(0.5, 3, 3)]

    def blob():
        smooth = gaussian_filter(random.standard_normal(shape), 2.0)
        return smooth > np.quantile(smooth, 0.8)

    a = blob()
    b = blob() if seed % 3 else np.roll(a, 1, int(seed % 2))
    return a, b, spacing


@pytest.mark.parametrize(("seed", "published"), enumerate(PUBLISHED_NSD))
def test_nsd_is_that_of_surface_distance(seed, published):
    a, b, spacing = blobs(seed)
    assert metrics.normalized_surface_distance(a, b, spacing) == pytest.approx(published, abs=1e-4)


def test_nsd_of_masks_at_the_edge_of_the_volume_sees_their_surface_there():
    a = np.zeros((8, 8, 8), bool)
    a[:4] = True
    assert metrics.normalized_surface_distance(a, a, (1, 1, 1)) == 1
    shifted = np.zeros_like(a)
    shifted[4:] = True
    assert metrics.normalized_surface_distance(a, shifted, (3, 3, 3)) < 0.7


def test_empty_masks_give_dice_1_and_nsd_0():
    empty, one = np.zeros((4, 4, 4)), np.ones((4, 4, 4))
    assert metrics.dice(empty, empty) == 1
    assert metrics.normalized_surface_distance(empty, empty, (1, 1, 1)) == 0
    assert metrics.dice(one, empty) == metrics.dice(empty, one) == 0
    assert metrics.normalized_surface_distance(empty, one, (1, 1, 1)) == 0


def test_dice_by_counting():
    a, b, _ = blobs(1)
    pairs = list(zip(a.ravel(), b.ravel(), strict=True))
    both, each = sum(x and y for x, y in pairs), sum(int(x) + int(y) for x, y in pairs)
    assert metrics.dice(a, b) == pytest.approx(2 * both / each, abs=1e-12)


def test_segmentation_is_the_mean_over_the_labels_of_the_truth():
    truth, found = np.zeros((6, 6, 6), int), np.zeros((6, 6, 6), int)
    truth[:3, :3], truth[3:, 3:] = 1, 2
    found[:3, :3], found[0, 5] = 1, 7
    scores = metrics.segmentation_scores(found, truth, (1, 1, 1))
    assert scores == {"dice": 0.5, "nsd": 0.5}
    assert metrics.segmentation_scores(found, truth, (1, 1, 1), labels=[1])["dice"] == 1


def test_maps_of_another_shape_and_unknown_labels_are_refused():
    with pytest.raises(VCMError, match="voxels of the input"):
        metrics.segmentation_scores(np.zeros((3, 3, 3)), np.ones((3, 3, 4)), (1, 1, 1))
    with pytest.raises(VCMError, match="say which are scored"):
        metrics.segmentation_scores(np.zeros((3, 3, 3)), np.zeros((3, 3, 3)), (1, 1, 1))


def random_binary(seed):
    random = np.random.default_rng(seed)
    n = int(random.integers(4, 40))
    truth = np.r_[0, 1, random.integers(0, 2, n - 2)]
    # One decimal: ties matter.
    return truth, random.random(n).round(1)


@pytest.mark.parametrize("start", range(3))
def test_300_random_classifications_agree_with_scikit_learn(start):
    for seed in range(100 * start, 100 * start + 100):
        truth, score = random_binary(seed)
        assert metrics.auroc(truth, score) == pytest.approx(roc_auc_score(truth, score), abs=1e-9)
        if seed % 10:
            continue
        chosen = (score > 0.5).astype(int)
        f1 = f1_score(truth, chosen, average="macro", zero_division=0)
        assert metrics.macro_f1(truth, chosen) == pytest.approx(f1, abs=1e-9)


def test_300_random_regressions_agree_with_scipy():
    for seed in range(300):
        random = np.random.default_rng(seed)
        x, y = random.normal(50, 10, (2, 12))
        assert metrics.correlation(x, y) == pytest.approx(pearsonr(x, y).statistic, abs=1e-9)
        assert metrics.mean_absolute_error(x, y) == pytest.approx(
            sum(abs(a - b) for a, b in zip(x, y, strict=True)) / 12, abs=1e-9
        )


def test_auroc_is_the_share_of_pairs_in_order():
    truth, score = random_binary(5)
    pairs = [(p, n) for p in score[truth == 1] for n in score[truth == 0]]
    won = sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs)
    assert metrics.auroc(truth, score) == pytest.approx(won / len(pairs), abs=1e-12)


def test_a_missing_score_is_the_worst_for_its_label():
    assert metrics.auroc([0, 1], [0.2, NONE]) == 0
    assert metrics.auroc([0, 1], [NONE, 0.9]) == 0
    assert metrics.auroc([0, 0, 1, 1], [0.1, 0.2, 0.9, float("inf")]) == 0.5


def test_auroc_of_one_class_is_undefined_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(metrics.auroc([1, 1], [0.1, 0.2]))


def test_one_versus_rest_averages_over_the_classes_that_are_defined():
    truth = [0, 0, 1, 1]
    scores = [[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.3, 0.5, 0.2], [0.1, 0.2, 0.7]]
    first = roc_auc_score([1, 1, 0, 0], [0.8, 0.2, 0.3, 0.1])
    second = roc_auc_score([0, 0, 1, 1], [0.1, 0.6, 0.5, 0.2])
    assert metrics.ovr_auroc(truth, scores) == pytest.approx((first + second) / 2)
    assert metrics.ovr_auroc([0, 1], [[0.9, 0.1], [0.2, 0.8]]) == 1
    assert np.isnan(metrics.ovr_auroc([1, 1], scores[:2]))


def test_a_missing_row_of_scores_is_the_worst():
    truth, scores = [0, 1, 2], np.eye(3)
    scores[0] = NONE
    assert metrics.ovr_auroc(truth, scores) == pytest.approx((0.5 + 1 + 1) / 3)
    assert metrics.chosen_classes(truth, scores).tolist() == [1, 1, 2]


def test_macro_f1_counts_missing_as_wrong():
    assert metrics.macro_f1([0, 1], [NONE, NONE]) == 0
    assert metrics.macro_f1([0, 1, 2], [0, 1, NONE]) == pytest.approx((2 / 3 + 1 + 0) / 3)


@pytest.mark.parametrize(
    ("truth", "found", "mae", "r"),
    [
        ([1, 2, 3], [5, 5, 5], 3, -100),
        ([1, 2], [1], 100, -100),
        ([], [], 100, -100),
        ([1, 2], [1, NONE], 100, -100),
        ([4], [5], 1, -100),
        ([2, 2], [1, 3], 1, -100),
        ([1, 2], [3, 4], 2, 1),
    ],
)
def test_edges_of_a_regression(truth, found, mae, r):
    assert metrics.mean_absolute_error(truth, found) == mae
    assert metrics.correlation(truth, found) == pytest.approx(r)


def test_fairness_drops_undefined_groups():
    score = metrics.fairness_score(
        {"sex": {"F": 0.9, "M": 0.7}, "site": {"a": 0.8, "b": NONE}, "none": {"c": NONE}}
    )
    assert score == pytest.approx((0.8 + 1.0) / 2)
    assert np.isnan(metrics.fairness_score({"none": {"c": NONE}}))


def test_groups_are_measured_apart():
    truth, score = np.array([0, 1, 0, 1]), np.array([0.1, 0.9, 0.9, 0.1])
    groups = metrics.per_group(metrics.auroc, ["a", "a", "b", "b"], truth, score)
    assert groups == {"a": 1.0, "b": 0.0}


def test_a_library_that_warns_of_itself_is_not_heard():
    mask = np.zeros((6, 6, 6), bool)
    mask[2:4, 2:4, 2:4] = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert metrics.normalized_surface_distance(mask, mask, (1.0, 1.0, 1.0)) == 1
