"""The denoiser of a fine grid: the interface of a frozen model, its start, and what it lets in."""

from pathlib import Path

import pytest
import torch

from vcm.errors import VCMError
from vcm.nets.fine_denoiser import FineDenoiser
from vcm.nets.folded_unet import PLACES
from vcm.nets.frozen import Residuals
from vcm.nets.vcm import VolumetricConditioningModule
from vcm.training.configuration import ControlSizes
from vcm.training.controls import CONTROLS, make_control

SHAPE = (8, 8, 12, 8)


def small() -> FineDenoiser:
    torch.manual_seed(0)
    return FineDenoiser(
        channels=(16, 16), head_channels=(0, 8), groups=8, wing=8, latent_shape=SHAPE[1:]
    ).eval()


def test_an_untrained_one_says_what_the_spread_alone_tells() -> None:
    net = small()
    net.spread.uniform_(0.1, 2.0)
    z, t = torch.randn(2, *SHAPE), torch.tensor([10, 800])
    alpha, sigma = net.alpha_sigma(t, z)
    s2 = net.spread.square()
    expected = alpha * sigma * (1 - s2) / (alpha**2 * s2 + sigma**2) * z
    assert torch.allclose(net(z, t, torch.rand(2, 4)), expected, atol=1e-6)


def test_epsilon_and_v_agree_with_the_noise_that_was_added() -> None:
    net = small()
    z, noise, t = torch.randn(2, *SHAPE), torch.randn(2, *SHAPE), torch.tensor([3, 700])
    v = net.target(z, noise, t)
    assert torch.allclose(net.to_model_output(v, net.add_noise(z, noise, t), t), noise, atol=1e-5)


def test_covariates_and_the_far_field_reach_the_output_once_it_learns() -> None:
    net = small()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.05)
    z, t = torch.randn(1, *SHAPE), torch.tensor([500])
    inputs = torch.full((1, 4), 0.5)
    base = net(z, t, inputs)
    assert not torch.allclose(base, net(z, t, inputs + 0.2), atol=1e-6)
    z[0, 0, 0, 0, 0] += 1
    assert not torch.allclose(base[..., -1, -1, -1], net(z, t, inputs)[..., -1, -1, -1], atol=1e-7)


def test_what_a_control_method_adds_goes_into_the_folded_unet() -> None:
    net = small()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.05)
    z, t, inputs = torch.randn(1, *SHAPE), torch.tensor([500]), torch.rand(1, 4)
    x, steps, context = net.unet_inputs(z, t, inputs)
    assert x.shape == (1, 12 * 8 + PLACES, 4, 6, 4)
    assert steps.shape == (1,)
    assert context.shape == (1, 1, 4)
    middle = torch.randn(1, 16, 2, 3, 2)
    sizes = [(16, 4, 6, 4), (16, 4, 6, 4), (16, 2, 3, 2), (16, 2, 3, 2)]
    none = Residuals([torch.zeros(1, *s) for s in sizes], None)
    assert torch.allclose(net(z, t, inputs, none), net(z, t, inputs), atol=1e-6)
    some = none._replace(middle=middle)
    assert not torch.allclose(net(z, t, inputs, some), net(z, t, inputs), atol=1e-6)


def test_a_module_with_wings_starts_as_the_frozen_model_and_gets_gradients() -> None:
    torch.manual_seed(0)
    frozen = small()
    module = VolumetricConditioningModule(
        latent_channels=8, encoder_channels=(16,), encoder_res_blocks=1, encoder_groups=8,
        encoder_patch=4, unet_channels=(16, 16), unet_res_blocks=1, unet_attention=(False, True),
        unet_head_channels=(0, 8), unet_groups=8, unet_out_channels=8, head_channels=8,
        head_norm="none", encoder_halve=False, unet_wing=8,
    )  # fmt: skip
    features = module.encode([torch.rand(1, 8, 32, 48, 32)])
    assert features.shape == (1, 16, 8, 12, 8)
    z, t, inputs = torch.randn(1, *SHAPE), torch.tensor([300]), torch.rand(1, 4)
    steered = module.steer(frozen, z, t, inputs, features)
    assert torch.equal(steered.prediction, steered.unsteered)
    steered.prediction.sum().backward()
    assert float(module.mlp_beta.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_runs_under_autocast(dtype: torch.dtype) -> None:
    net = small()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        out = net(torch.randn(1, *SHAPE), torch.tensor([5]), torch.rand(1, 4))
    assert torch.isfinite(out.float()).all()


@pytest.mark.parametrize("linear_prior", [True, False])
@pytest.mark.parametrize("control", CONTROLS)
def test_every_control_method_steers_it_and_comes_back_from_its_folder(
    control: str, linear_prior: bool, tmp_path: Path
) -> None:
    frozen = small()
    sizes = ControlSizes(
        control=control, encoder_channels=[16], encoder_groups=8, encoder_patch=4,
        linear_prior=linear_prior, unet_channels=[16, 16], unet_head_channels=[0, 8],
        unet_attention=[False, True], unet_groups=8, unet_out_channels=8, head_channels=8,
        unet_wing=8, embedding_channels=[8, 8, 8, 8],
    )  # fmt: skip
    module = make_control(sizes, frozen, SHAPE, 4)
    for p in (*frozen.parameters(), *module.parameters()):
        torch.nn.init.normal_(p, std=0.1)
    z, t, inputs = torch.randn(1, *SHAPE), torch.tensor([400]), torch.rand(1, 4)
    condition = torch.rand(1, 8, 32, 48, 32)
    found = module.steer(frozen, z, t, inputs, module.encode([condition])).prediction
    assert found.shape == z.shape
    assert not torch.allclose(found, frozen(z, t, inputs), atol=1e-6)
    module.save_pretrained(tmp_path)
    again = type(module).from_pretrained(tmp_path)
    same = again.steer(frozen, z, t, inputs, again.encode([condition])).prediction
    assert torch.allclose(same, found, rtol=1e-3, atol=1e-4)


def test_wings_that_the_norms_cannot_share_are_refused() -> None:
    sizes = ControlSizes(unet_wing=12, encoder_patch=4)
    with pytest.raises(VCMError, match="unet_wing is 12: it must be a multiple of 8"):
        make_control(sizes, small(), SHAPE, 4)


def test_in_half_precision_its_schedule_stays_exact() -> None:
    whole = small()
    assert torch.equal(small().half().alphas_cumprod, whole.alphas_cumprod)
