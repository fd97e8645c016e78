"""The band-limited latent: orthonormal, exact on what it keeps, and a decoder that starts as nothing."""

import numpy as np
import pytest
import torch

from vcm.nets.band_autoencoder import BandAutoencoder, doubled, halved

SHAPE = (16, 24, 16)


def small() -> BandAutoencoder:
    torch.manual_seed(0)
    return BandAutoencoder((8, 8), (1, 1), latent_shape=(4, 6, 4)).eval()


def test_halving_undoes_doubling_and_keeps_lengths() -> None:
    low = torch.randn(2, 1, 8, 12, 8)
    image = doubled(low)
    assert image.shape == (2, 1, *SHAPE)
    assert torch.allclose(halved(image), low, atol=1e-5)
    assert image.square().sum() == pytest.approx(float(low.square().sum()), rel=1e-5)


def test_doubling_is_the_transpose_of_halving() -> None:
    x, y = torch.randn(1, 1, *SHAPE), torch.randn(1, 1, 8, 12, 8)
    assert float((halved(x) * y).sum()) == pytest.approx(float((x * doubled(y)).sum()), rel=1e-4)


def test_a_constant_keeps_its_value_and_a_cosine_above_the_band_vanishes() -> None:
    constant = torch.full((1, 1, *SHAPE), 0.5)
    assert torch.allclose(halved(constant), torch.full((1, 1, 8, 12, 8), 0.5 * 8**0.5), atol=1e-5)
    wave = np.cos(np.pi * (np.arange(16) + 0.5) * 12 / 16)  # the 12th of 16 cosines; 8 are kept
    high = torch.from_numpy(np.broadcast_to(wave[:, None, None], SHAPE).copy()).float()[None, None]
    assert halved(high).abs().max() < 1e-5


def test_what_is_band_limited_comes_back_through_the_untrained_autoencoder() -> None:
    net = small()
    image = 0.5 + 0.02 * doubled(torch.randn(1, 1, 8, 12, 8))
    image = doubled(halved(image))
    mu, sigma = net.encode(image)
    assert mu.shape == sigma.shape == (1, *net.latent_shape)
    assert torch.allclose(net.decode(mu), image, atol=1e-5)


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
        halved(torch.rand(1, 1, 12, 20, 28))
    image = torch.rand(1, 1, 12, 20, 28, requires_grad=True)
    halved(image).square().sum().backward()
    assert image.grad is not None
    assert torch.allclose(image.grad, 2 * doubled(halved(image)), atol=1e-5)


def test_an_odd_extent_is_refused() -> None:
    with pytest.raises(ValueError, match="must be even"):
        halved(torch.zeros(1, 1, 8, 7, 8))
