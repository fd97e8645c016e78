"""Every control method behind the one interface, on small networks, and their sizes at BrainLDM's."""

import copy

import pytest
import torch
from tiny_networks import FEW, tiny_module

from vcm.nets.controlnet import ControlNetLite, ControlNetModule
from vcm.nets.denoiser import LatentDenoiser
from vcm.nets.mcm import ModulatingConditionModule
from vcm.nets.patches import to_patches
from vcm.nets.t2i_adapter import T2IAdapter
from vcm.nets.vcm import VolumetricConditioningModule
from vcm.nets.with_linear_prior import WithLinearPrior

SMALL = {
    "vcm": lambda: tiny_module(8, encoder_groups=4, unet_groups=4),
    "mcm": lambda: ModulatingConditionModule(
        latent_channels=4,
        condition_channels=(8,),
        downsampling=8,
        features=8,
        **{k: v for k, v in FEW.items() if k.startswith(("unet", "head"))} | {"unet_groups": 4},
    ),
    "controlnet": lambda: ControlNetModule(
        latent_channels=4,
        condition_channels=(8,),
        inputs=4,
        channels=(8, 16),
        attention=(False, True),
        head_channels=(0, 16),
        res_blocks=1,
        groups=4,
        embedding_channels=(4, 8, 8, 8),
    ),
    "controlnet-lite": lambda: ControlNetLite(
        condition_channels=(8,), channels=(8, 16), res_blocks=1, embedding_channels=(4, 8, 8, 8)
    ),
    "t2i-adapter": lambda: T2IAdapter(
        condition_channels=(8,), channels=(8, 16), res_blocks=1, patch=8
    ),
}
SMALL |= {
    f"{name}, linear prior": lambda name=name: WithLinearPrior.around(SMALL[name](), 4, (4, 4, 4))
    for name in SMALL
    if name != "vcm"
}


@pytest.fixture
def frozen():
    torch.manual_seed(0)
    net = LatentDenoiser(
        4, channels=(8, 16), head_channels=(0, 16), groups=4, res_blocks=1, latent_shape=(4, 4, 4)
    )
    for p in net.parameters():  # MONAI's zeroed layers would hide what is added inside
        torch.nn.init.normal_(p, std=0.2)
    return net.requires_grad_(False).eval()


@pytest.fixture
def given():
    random = torch.Generator().manual_seed(1)
    condition = torch.rand(1, 8, 32, 32, 32, generator=random)
    z_t = torch.randn(2, 4, 4, 4, 4, generator=random)
    return condition, z_t, torch.tensor([300, 700]), torch.full((2, 4), 0.5)


def perturbed(control):
    torch.manual_seed(2)
    for p in control.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return control


@pytest.mark.parametrize("name", SMALL)
def test_training_starts_at_the_frozen_model(name, frozen, given):
    condition, z_t, t, inputs = given
    control = SMALL[name]()
    found = control.steer(frozen, z_t, t, inputs, control.encode([condition]))
    torch.testing.assert_close(found.prediction, frozen(z_t, t, inputs))


@pytest.mark.parametrize("name", SMALL)
def test_a_scale_of_0_is_the_frozen_model_and_1_is_not(name, frozen, given):
    condition, z_t, t, inputs = given
    control = perturbed(SMALL[name]())
    features = control.encode([condition])
    raw = frozen(z_t, t, inputs)
    off = control.steer(frozen, z_t, t, inputs, features, 0.0).prediction
    on = control.steer(frozen, z_t, t, inputs, features).prediction
    torch.testing.assert_close(off, raw)
    assert (on - raw).abs().max() > 1e-3
    torch.testing.assert_close(frozen(z_t, t, inputs), raw)


@pytest.mark.parametrize("name", SMALL)
def test_the_method_learns_and_the_frozen_model_does_not(name, frozen, given):
    condition, z_t, t, inputs = given
    control = perturbed(SMALL[name]())
    features = control.encode([condition])
    control.steer(frozen, z_t, t, inputs, features).prediction.square().mean().backward()
    without = [n for n, p in control.named_parameters() if p.grad is None]
    assert not without
    assert all(p.grad is None for p in frozen.parameters())


@pytest.mark.parametrize("name", SMALL)
def test_saved_and_loaded_it_computes_the_same(name, frozen, given, tmp_path):
    condition, z_t, t, inputs = given
    control = perturbed(SMALL[name]())
    control.save_pretrained(tmp_path)
    again = type(control).from_pretrained(tmp_path)
    found = [
        c.steer(frozen, z_t, t, inputs, c.encode([condition])).prediction for c in (control, again)
    ]
    assert torch.equal(found[0], found[1])


def test_controlnet_copies_the_frozen_encoder(frozen):
    control = SMALL["controlnet"]()
    control.start_from(frozen)
    for part in ("conv_in", "time_embed", "down_blocks", "middle_block"):
        theirs = getattr(frozen.net, part).state_dict()
        own = getattr(control.net, part).state_dict()
        assert theirs.keys() == own.keys()
        assert all(torch.equal(own[k], theirs[k]) for k in theirs)


def test_adapter_maps_enter_skips_and_deeper_levels(frozen, given):
    """Against a copy of the U-Net whose encoder blocks were changed by hand: a bias on the last
    convolution adds one number per channel, as a constant map does."""
    _, z_t, t, inputs = given
    constant = torch.randn(8, generator=torch.Generator().manual_seed(3))
    maps = [constant[None, :, None, None, None].expand(2, 8, 4, 4, 4), torch.zeros(2, 16, 2, 2, 2)]
    by_hand = copy.deepcopy(frozen)
    by_hand.net.down_blocks[0].resnets[-1].conv2.conv.bias += constant
    found = frozen.with_encoder_maps(z_t, t, inputs, maps)
    torch.testing.assert_close(found, by_hand(z_t, t, inputs))
    assert (found - frozen(z_t, t, inputs)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("kind", "millions"),
    [
        (VolumetricConditioningModule, 45.220134),
        (ControlNetModule, 230.679456),
        (ControlNetLite, 62.267296),
        (T2IAdapter, 216.088576),
        (ModulatingConditionModule, 7.471094),
    ],
)
def test_sizes_at_the_scale_of_brainldm(kind, millions):
    with torch.device("meta"):
        assert sum(p.numel() for p in kind().parameters()) / 1e6 == millions


@pytest.mark.parametrize("name", [n for n in SMALL if "prior" in n])
def test_an_exact_linear_reading_is_followed_from_the_start(name, frozen, given):
    """z_0 is a linear function of the condition: the prediction is the target at every time."""
    condition, _, t, inputs = given
    control = SMALL[name]()
    weight = 0.05 * torch.randn(4, 8 * 512, generator=torch.Generator().manual_seed(4))
    control.encoders[0].start_from_linear(weight, torch.zeros(4))
    control.prior.spread.fill_(1e-4)
    control.prior.mix.data.fill_(1.0)
    folded = to_patches(condition, 8)
    z = torch.einsum("cf,bfxyz->bcxyz", weight, folded).expand(2, -1, -1, -1, -1)
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(5))
    z_t = frozen.add_noise(z, noise, t)
    found = control.steer(frozen, z_t, t, inputs, control.encode([condition]))
    torch.testing.assert_close(found.prediction, frozen.target(z, noise, t), atol=2e-3, rtol=2e-3)
    if found.unsteered is not None:
        torch.testing.assert_close(found.unsteered, frozen(z_t, t, inputs))
