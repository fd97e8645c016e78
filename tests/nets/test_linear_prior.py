import numpy as np
import pytest
import torch

from vcm.errors import VCMError
from vcm.nets.denoiser import LatentDenoiser
from vcm.nets.linear_prior import BINS, LinearPrior
from vcm.training.controls import ControlSizes, make_control


@pytest.fixture
def frozen():
    return LatentDenoiser(4, channels=(8, 8), head_channels=(0, 8), groups=2, res_blocks=1).eval()


def test_the_expected_latent_is_the_gaussian_posterior(frozen):
    """Against a grid over z_0: prior N(y, s^2) times the likelihood of z_t, normalised."""
    t, y, s = torch.tensor([400]), 0.7, 0.5
    alpha, sigma = (float(v) for v in frozen.alpha_sigma(t, torch.zeros(1, 1, 1, 1, 1)))
    z_t = 1.3
    grid = np.linspace(-6, 6, 200_001)
    log = -((grid - y) ** 2) / (2 * s**2) - (z_t - alpha * grid) ** 2 / (2 * sigma**2)
    weight = np.exp(log - log.max())
    mean = float((grid * weight).sum() / weight.sum())
    prior = LinearPrior(1, (1, 1, 1))
    prior.spread.fill_(s)
    found = prior.expected(
        frozen, torch.full((1, 1, 1, 1, 1), z_t), t, torch.full((1, 1, 1, 1, 1), y)
    )
    # v = (alpha z_t - z_0) / sigma
    assert float(found) == pytest.approx((alpha * z_t - mean) / sigma, abs=1e-4)


def test_an_exact_reading_gives_the_exact_target_at_every_time(frozen):
    z, noise = torch.randn(3, 4, 2, 2, 2), torch.randn(3, 4, 2, 2, 2)
    t = torch.tensor([20, 500, 990])
    prior = LinearPrior(4, (2, 2, 2))
    prior.spread.fill_(1e-4)
    z_t = frozen.add_noise(z, noise, t)
    found = prior.expected(frozen, z_t, t, z)
    torch.testing.assert_close(found, frozen.target(z, noise, t), atol=1e-3, rtol=1e-3)


def test_the_mixture_goes_from_raw_to_expected_by_time_and_channel(frozen):
    prior = LinearPrior(4, (2, 2, 2))
    z_t, raw, y = (torch.randn(2, 4, 2, 2, 2) for _ in range(3))
    t = torch.tensor([10, 990])
    assert torch.equal(prior(frozen, z_t, t, raw, y), raw)
    prior.mix.data[BINS - 1, 2] = 1.0
    mixed, expected = prior(frozen, z_t, t, raw, y), prior.expected(frozen, z_t, t, y)
    torch.testing.assert_close(mixed[1, 2], expected[1, 2])
    assert torch.equal(mixed[0], raw[0]) and torch.equal(mixed[1, [0, 1, 3]], raw[1, [0, 1, 3]])


def test_averaging_encoders_have_no_linear_reading(frozen):
    with pytest.raises(VCMError, match="linear_prior"):
        make_control(ControlSizes(encoder_halve=True), frozen, (4, 10, 14, 10), 8)
    with pytest.raises(VCMError, match="choose vcm, mcm"):
        make_control(ControlSizes(control="magic"), frozen, (4, 10, 14, 10), 8)
