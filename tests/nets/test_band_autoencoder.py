"""The band-limited latent: orthonormal, exact on what it keeps, and a decoder that starts as nothing."""

import numpy as np
import pytest
import torch

from vcm.nets.band_autoencoder import BandAutoencoder, band_limited, interpolated

SHAPE, LOW = (16, 24, 16), {2: (8, 12, 8), 3: (12, 18, 12)}
folds = pytest.mark.parametrize("fold", [2, 3])


def small(fold: int = 2) -> BandAutoencoder:
    torch.manual_seed(0)
    return BandAutoencoder((8, 8), (1, 1), latent_shape=(4, 6, 4), fold=fold).eval()


@folds
def test_band_limiting_undoes_interpolation_and_keeps_lengths(fold: int) -> None:
    low = torch.randn(2, 1, *LOW[fold], generator=torch.Generator().manual_seed(0))
    image = interpolated(low, fold)
    assert image.shape == (2, 1, *SHAPE)
    # Values of about 1, after three products of about a hundred terms each in float32.
    assert torch.allclose(band_limited(image, fold), low, atol=5e-5)
    assert image.square().sum() == pytest.approx(float(low.square().sum()), rel=1e-5)


@folds
def test_interpolation_is_the_transpose_of_band_limiting(fold: int) -> None:
    x, y = torch.randn(1, 1, *SHAPE), torch.randn(1, 1, *LOW[fold])
    there, back = band_limited(x, fold) * y, x * interpolated(y, fold)
    assert float(there.sum()) == pytest.approx(float(back.sum()), rel=1e-4)


@pytest.mark.parametrize(("fold", "first_lost"), [(2, 8), (3, 12)])
def test_a_constant_keeps_its_value_and_a_cosine_above_the_band_vanishes(
    fold: int, first_lost: int
) -> None:
    constant = torch.full((1, 1, *SHAPE), 0.5)
    kept = torch.full((1, 1, *LOW[fold]), 0.5 * (4 / fold) ** 1.5)
    assert torch.allclose(band_limited(constant, fold), kept, atol=1e-5)

    def wave(number: int) -> torch.Tensor:
        line = np.cos(np.pi * (np.arange(16) + 0.5) * number / 16)
        whole = np.broadcast_to(line[:, None, None], SHAPE).copy()
        return torch.from_numpy(whole).float()[None, None]

    assert band_limited(wave(first_lost), fold).abs().max() < 1e-5
    assert band_limited(wave(first_lost - 1), fold).abs().max() > 0.5


@folds
def test_what_is_band_limited_comes_back_through_the_untrained_autoencoder(fold: int) -> None:
    net = small(fold)
    image = 0.5 + 0.02 * interpolated(torch.randn(1, 1, *LOW[fold]), fold)
    mu, sigma = net.encode(image)
    assert mu.shape == sigma.shape == (1, *net.latent_shape)
    assert len(mu[0]) == fold**3
    assert torch.allclose(net.decode(mu), image, atol=1e-5)


def test_another_share_of_the_frequencies_is_refused() -> None:
    with pytest.raises(ValueError, match="fold is 4"):
        small(4)


def test_statistics_give_unit_spread_inside_and_come_back() -> None:
    net = small()
    raw = 3 * torch.randn(16, *net.latent_shape) + 1
    net.store_statistics(raw, torch.ones_like(raw, dtype=torch.bool))
    mu, sigma = net.standardise(raw, torch.full_like(raw, float(net.noise * net.latent_std)))
    assert float(mu.square().mean()) == pytest.approx(1, rel=1e-4)
    assert float(sigma.mean()) == pytest.approx(net.noise, rel=1e-5)
    assert torch.allclose(net.unstandardise(mu), raw, atol=1e-4)


def test_it_is_saved_and_loaded_whole(tmp_path) -> None:
    net = small()
    net.store_statistics(torch.randn(4, *net.latent_shape), torch.ones(4, *net.latent_shape).bool())
    net.save_pretrained(tmp_path)
    again = BandAutoencoder.from_pretrained(tmp_path).eval()
    z = torch.randn(1, *net.latent_shape)
    assert torch.equal(net.decode(z), again.decode(z))


def test_gradients_pass_also_where_the_first_call_needed_none() -> None:
    with torch.inference_mode():
        band_limited(torch.rand(1, 1, 12, 20, 28), 2)
    image = torch.rand(1, 1, 12, 20, 28, requires_grad=True)
    band_limited(image, 2).square().sum().backward()
    assert image.grad is not None
    assert torch.allclose(image.grad, 2 * interpolated(band_limited(image, 2), 2), atol=1e-5)


def test_an_odd_extent_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        band_limited(torch.zeros(1, 1, 8, 7, 8), 2)
