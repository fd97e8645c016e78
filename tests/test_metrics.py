import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vcm.metrics import bootstrap_interval, dice, half_sample_interval, kid, psnr, ssim


def images():
    """A smooth image in 0..1, and the same with noise."""
    random = np.random.default_rng(7)
    x, y, z = np.meshgrid(*(np.linspace(0, 3, n) for n in (20, 18, 16)), indexing="ij")
    clean = (0.5 + 0.4 * np.sin(x + 2 * y) * np.cos(z)).astype(np.float32)
    noisy = np.clip(clean + random.normal(0, 0.1, clean.shape), 0, 1).astype(np.float32)
    return clean, noisy, random.random(clean.shape) > 0.4


def test_psnr_is_that_of_scikit_image_inside_the_mask_too():
    clean, noisy, mask = images()
    found, truth = torch.from_numpy(noisy), torch.from_numpy(clean)
    expected = peak_signal_noise_ratio(clean, noisy, data_range=1)
    assert abs(psnr(found, truth) - expected) < 1e-4
    expected = peak_signal_noise_ratio(clean[mask], noisy[mask], data_range=1)
    assert abs(psnr(found, truth, torch.from_numpy(mask)) - expected) < 1e-4


def test_ssim_is_that_of_scikit_image_away_from_the_border():
    clean, noisy, mask = images()
    _, values = structural_similarity(
        noisy, clean, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        full=True,
    )  # fmt: skip
    inner = (slice(5, -5),) * 3
    expected = values[inner][mask[inner]].mean()
    found, truth, inside = (torch.from_numpy(v)[None, None] for v in (noisy, clean, mask))
    assert abs(ssim(found, truth, inside) - expected) < 1e-3
    assert abs(ssim(truth, truth, inside) - 1) < 1e-6
    assert expected < 0.9, "the noise is too weak to tell windows apart"


def test_dice_is_the_naive_count():
    random = np.random.default_rng(0)
    found, truth = (torch.from_numpy(random.integers(0, 4, (5, 6, 7))) for _ in range(2))
    truth[truth == 3] = 0
    values = dice(found.to(torch.uint8), truth.to(torch.uint8), 3)
    for c in (1, 2):
        both = sum(a == c and b == c for a, b in zip(found.ravel(), truth.ravel(), strict=True))
        all_of_them = (found == c).sum() + (truth == c).sum()
        assert abs(float(values[c - 1]) - 2 * float(both) / float(all_of_them)) < 1e-6
    assert torch.isnan(values[2])
    assert dice(truth, truth, 2).tolist() == [1, 1]


def naive_kid(x, y):
    def k(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    def within(z):
        pairs = [(i, j) for i in range(len(z)) for j in range(len(z)) if i != j]
        return sum(k(z[i], z[j]) for i, j in pairs) / len(pairs)

    between = sum(k(a, b) for a in x for b in y) / (len(x) * len(y))
    return within(x) + within(y) - 2 * between


def test_kid_is_the_naive_double_loop():
    random = np.random.default_rng(1)
    x, y = random.normal(size=(5, 3)), random.normal(1, 2, size=(7, 3))
    assert abs(kid(x, y) - naive_kid(x, y)) < 1e-10
    assert np.isnan(kid(x[:1], y))


def test_kid_is_zero_on_average_for_the_same_distribution_and_grows_with_a_shift():
    random = np.random.default_rng(2)
    same = [kid(random.normal(size=(20, 8)), random.normal(size=(40, 8))) for _ in range(300)]
    error = np.std(same) / np.sqrt(len(same))
    assert abs(np.mean(same)) < 4 * error
    assert min(same) < 0
    shifted = kid(random.normal(1, 1, size=(20, 8)), random.normal(size=(40, 8)))
    assert shifted > 5 * np.std(same)


def coverage(interval, truth, draw, times=200):
    hits = 0
    for n in range(times):
        low, high = interval(draw(np.random.default_rng((3, n))))
        hits += low <= truth <= high
    return hits / times


def test_the_intervals_of_a_mean_cover_it_as_often_as_they_say():
    def draw(random):
        return random.normal(5, 2, size=40)

    for kind in (bootstrap_interval, half_sample_interval):
        covered = coverage(lambda x, kind=kind: kind(np.mean, x, repeats=300), 5, draw)
        assert 0.88 <= covered <= 0.99, kind


def test_pairs_stay_pairs():
    random = np.random.default_rng(4)
    base = random.normal(0, 100, size=50)
    low, high = bootstrap_interval(lambda a, b: (a - b).mean(), base + 1, base, repeats=100)
    np.testing.assert_allclose([low, high], 1, atol=1e-9)


def test_the_interval_of_kid_is_centred_and_as_wide_as_its_spread():
    """Against fresh samples from the same two populations, which differ."""

    def draw(random):
        return random.normal(0.7, 1, size=(30, 4)), random.normal(size=(60, 4))

    fresh = [kid(*draw(np.random.default_rng((5, n)))) for n in range(300)]
    widths, centres = [], []
    for n in range(30):
        x, y = draw(np.random.default_rng((6, n)))
        low, high = half_sample_interval(kid, x, y, repeats=200)
        widths.append(high - low)
        centres.append((low + high) / 2 - kid(x, y))
    expected = np.diff(np.percentile(fresh, [2.5, 97.5]))[0]
    assert 0.8 < np.mean(widths) / expected < 1.5
    assert abs(np.mean(centres)) < 0.2 * expected


def test_too_few_subjects_have_no_interval():
    assert np.isnan(bootstrap_interval(np.mean, np.ones(1))).all()
    assert np.isnan(half_sample_interval(np.mean, np.ones(3))).all()
