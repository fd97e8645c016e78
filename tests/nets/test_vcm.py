"""The module against outputs of the released one (formula-filled weights, tests/data)."""

import json
from itertools import product
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from monai.networks.nets.autoencoderkl import AutoencoderKL
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
from published_files import formula_weights
from safetensors.torch import load_file

from vcm.errors import VCMError
from vcm.nets.condition_encoder import ConditionEncoder
from vcm.nets.frozen import FrozenDenoiser
from vcm.nets.patches import to_patches
from vcm.nets.vcm import VolumetricConditioningModule
from vcm.weights.names import (
    PublishedNamesError,
    load_strictly,
    rename_autoencoder,
    rename_published,
    rename_unet,
)

DATA = Path(__file__).parents[1] / "data"
CARD = json.loads((DATA / "vcm_small.json").read_text())
CONFIG = CARD["config"]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def current(config):
    config = dict(config)
    config["channels"] = config.pop("num_channels")
    config.pop("use_flash_attention", None)
    return config


INPUTS = torch.zeros(1, 4)


@pytest.fixture(scope="module")
def stored():
    return load_file(DATA / "vcm_small.safetensors")


@pytest.fixture(scope="module")
def module():
    net = VolumetricConditioningModule(
        encoder_channels=(8, 16, 24),
        encoder_groups=8,
        unet_channels=(16, 32, 48),
        unet_groups=16,
        unet_out_channels=16,
        head_channels=CARD["keys"]["vcm"]["mlp_shared.conv.weight"][0],
    ).eval()
    load_strictly(net, rename_published(formula_weights(CARD["keys"]["vcm"])))
    return net


@pytest.fixture(scope="module")
def frozen():
    config = current(CONFIG["unet"])
    net = DiffusionModelUNet(**config).eval()
    load_strictly(net, rename_unet(formula_weights(CARD["keys"]["unet"])))
    return net


def predict(frozen, z_t, t, covariates):
    spatial = covariates[:, 0, :, None, None, None].expand(-1, -1, *z_t.shape[2:])
    return frozen(torch.cat([z_t, spatial], 1), t.expand(z_t.shape[0]), covariates)


class Predicts(FrozenDenoiser):
    """A frozen model that predicts this, whatever it is asked."""

    timesteps, steps_with = 1000, "epsilon"

    def __init__(self, prediction):
        self.prediction = prediction

    def __call__(self, z_t, t, inputs, residuals=None):
        return self.prediction[: len(z_t)]


@torch.no_grad()
def test_every_output_of_the_released_module(stored, module, frozen):
    t, z_t = stored["timesteps"], stored["z_t"]
    prediction = predict(frozen, z_t, t, stored["covariates"])
    torch.testing.assert_close(prediction, stored["frozen_prediction"], **CLOSE)
    features = module.encode([stored["labels_onehot"].float()])
    torch.testing.assert_close(features, stored["condition_features"], **CLOSE)
    gamma, beta = module.modulation(z_t, prediction, t, features)
    torch.testing.assert_close(gamma, stored["gamma"], **CLOSE)
    torch.testing.assert_close(beta, stored["beta"], **CLOSE)
    steered = module(Predicts(prediction), z_t, t, INPUTS, features).prediction
    torch.testing.assert_close(steered, stored["steered_prediction"], **CLOSE)
    mse = torch.nn.functional.mse_loss(steered, stored["noise"])
    torch.testing.assert_close(mse.view(1), stored["loss_mse"], **CLOSE)
    l1 = gamma.abs().sum() + beta.abs().sum()
    torch.testing.assert_close(l1.view(1), stored["loss_l1_sum"], **CLOSE)


@torch.no_grad()
def test_the_autoencoder_of_the_release(stored):
    net = AutoencoderKL(**current(CONFIG["ae"])).eval()
    load_strictly(net, rename_autoencoder(formula_weights(CARD["keys"]["ae"])))
    mu, sigma = net.encode(stored["ae_input"])
    torch.testing.assert_close(mu, stored["ae_mu"], **CLOSE)
    torch.testing.assert_close(sigma, stored["ae_sigma"], **CLOSE)
    decoded = net.decode(stored["z_t"] / CARD["latent_scale"])
    torch.testing.assert_close(decoded, stored["decoded"], **CLOSE)


@torch.no_grad()
def test_features_of_one_volume_serve_a_batch_and_scale_zero_is_frozen(stored, module):
    z_t, prediction = stored["z_t"], stored["frozen_prediction"]
    features = stored["condition_features"][:1]
    both = module(Predicts(prediction), z_t, torch.tensor([37]), INPUTS, features)
    alone = module(Predicts(prediction[1:]), z_t[1:], torch.tensor([37]), INPUTS, features)
    torch.testing.assert_close(both.prediction[1:], alone.prediction, **CLOSE)
    off = module(
        Predicts(prediction), z_t, torch.tensor([37]), INPUTS, features, conditioning_scale=0.0
    )
    torch.testing.assert_close(off.prediction, prediction, rtol=0, atol=0)


def test_starts_as_the_identity_without_head_norm():
    net = VolumetricConditioningModule(
        encoder_channels=(16, 16),
        unet_channels=(16, 32),
        unet_attention=(False, True),
        unet_groups=16,
        unet_out_channels=16,
        head_norm="none",
    )
    z_t, prediction = torch.randn(2, 2, 3, 4, 4, 4)
    features = net.encode([torch.rand(2, 8, 16, 16, 16)])
    out = net(Predicts(prediction), z_t, torch.tensor([5]), INPUTS, features).prediction
    torch.testing.assert_close(out, prediction, rtol=0, atol=0)
    (out - 1).square().mean().backward()
    assert net.mlp_gamma.weight.grad.abs().sum() > 0


def test_any_subset_of_conditions(tmp_path):
    torch.manual_seed(0)
    net = VolumetricConditioningModule(
        condition_channels=(8, 1),
        encoder_channels=(16, 16),
        unet_channels=(16, 32),
        unet_attention=(False, True),
        unet_groups=16,
        unet_out_channels=16,
    ).eval()
    labels, image = torch.rand(2, 8, 16, 16, 16), torch.rand(2, 1, 16, 16, 16)
    both = net.encode([labels, image])
    one, other = net.encode([labels, None]), net.encode([None, image])
    torch.testing.assert_close(both, (one + other) / 2)
    mixed = net.encode([labels, image], keep=torch.tensor([[True, False], [True, True]]))
    torch.testing.assert_close(mixed, torch.stack([one[0], both[1]]))
    with pytest.raises(VCMError, match="at least one"):
        net.encode([None, None])
    with pytest.raises(VCMError, match="keeps none"):
        net.encode([labels, image], keep=torch.tensor([[True, False], [False, False]]))
    net.save_pretrained(tmp_path)
    again = VolumetricConditioningModule.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again.encode([labels, image]), both)


def test_published_size_and_names():
    with torch.device("meta"):
        net = VolumetricConditioningModule()
    assert sum(p.numel() for p in net.parameters()) == 45_220_134
    keys = json.loads((DATA / "vcm_keys.json").read_text())
    renamed = rename_published({k: torch.empty(v, device="meta") for k, v in keys.items()})
    ours = {name: list(value.shape) for name, value in net.state_dict().items()}
    assert {name: list(value.shape) for name, value in renamed.items()} == ours


@pytest.mark.parametrize("net", ["unet", "autoencoder"])
def test_names_of_brainldm(net):
    levels = {"spatial_dims": 3, "out_channels": 3, "num_res_blocks": 2, "norm_eps": 1e-6}
    with torch.device("meta"):
        if net == "unet":
            model, rename = (
                DiffusionModelUNet(
                    **levels,
                    in_channels=7,
                    channels=(256, 512, 768),
                    attention_levels=(False, True, True),
                    num_head_channels=(0, 512, 768),
                    resblock_updown=True,
                    with_conditioning=True,
                    cross_attention_dim=4,
                ),
                rename_unet,
            )
        else:
            model, rename = (
                AutoencoderKL(
                    **levels | {"out_channels": 1},
                    in_channels=1,
                    channels=(64, 128, 128, 128),
                    latent_channels=3,
                    attention_levels=(False,) * 4,
                    with_encoder_nonlocal_attn=False,
                    with_decoder_nonlocal_attn=False,
                ),
                rename_autoencoder,
            )
    keys = json.loads((DATA / f"brainldm_{net}_generative_keys.json").read_text())
    renamed = rename({k: torch.empty(v, device="meta") for k, v in keys.items()})
    expected = {name: value.shape for name, value in model.state_dict().items()}
    assert {name: value.shape for name, value in renamed.items()} == expected
    assert renamed.keys() == rename(renamed).keys()


def test_wrappers_are_removed_and_a_name_given_twice_is_refused():
    weight = torch.zeros(2)
    wrapped = {"state_dict": {"module.mlp_beta.conv.bias": weight}}
    assert list(rename_published(wrapped)) == ["mlp_beta.bias"]
    assert len(wrapped["state_dict"]) == 1
    with pytest.raises(PublishedNamesError, match="twice"):
        rename_published({"mlp_beta.conv.bias": weight, "mlp_beta.bias": weight})


def test_patches_are_the_pixel_unshuffle_of_three_axes():
    x = torch.randn(2, 3, 4, 6, 8)
    folded = to_patches(x, 2)
    assert folded.shape == (2, 24, 2, 3, 4)
    for c, i, j, k in product(range(3), *[range(2)] * 3):
        channel = ((c * 2 + i) * 2 + j) * 2 + k
        assert torch.equal(folded[:, channel], x[:, c, i::2, j::2, k::2])
    encoder = ConditionEncoder(3, channels=(16, 16), patch=2)
    assert encoder(torch.randn(1, 3, 16, 16, 8)).shape == (1, 16, 2, 2, 1)


@pytest.mark.parametrize("shape", [(1, 7, 32, 64, 32), (1, 8, 32, 60, 32), (8, 32, 64, 32)])
def test_a_condition_of_the_wrong_shape_is_refused(module, shape):
    with pytest.raises(VCMError, match="condition 0"):
        module.encode([torch.zeros(shape)])


@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape"])
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(module, fault):
    weights = formula_weights(CARD["keys"]["vcm"])
    name = "mlp_beta.conv.bias"
    value = weights.pop(name)
    if fault == "unexpected":
        weights |= {name: value, "extra.weight": value}
    if fault == "shape":
        weights[name] = torch.zeros(5)
    expected = {"missing": "mlp_beta.bias", "unexpected": "extra.weight", "shape": "mlp_beta.bias"}
    with pytest.raises(PublishedNamesError, match=expected[fault]):
        load_strictly(module, rename_published(weights))


@torch.no_grad()
@pytest.mark.parametrize("steered", [False, True])
def test_ten_ddim_steps(stored, module, frozen, steered):
    scheduler = DDIMScheduler(
        beta_start=0.0015,
        beta_end=0.0205,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="leading",
    )
    scheduler.set_timesteps(10)
    assert scheduler.timesteps.tolist() == CARD["ddim_timesteps"]
    features = module.encode([stored["labels_onehot"][:1].float()])
    z = stored["z_t"][:1]
    for t in scheduler.timesteps:
        prediction = predict(frozen, z, t[None], stored["covariates"][:1])
        if steered:
            prediction = module(Predicts(prediction), z, t[None], INPUTS, features).prediction
        z = scheduler.step(prediction, t, z).prev_sample
    expected = stored["ddim10_steered" if steered else "ddim10_frozen"]
    assert (z - expected).norm() / expected.norm() < 1e-3


def test_checkpointing_gives_the_same_gradients():
    from vcm.nets.condition_encoder import ConditionEncoder

    torch.manual_seed(0)
    encoder = ConditionEncoder(2, (4, 6), 1, 2)
    for block in encoder.modules():
        if hasattr(block, "conv2"):
            torch.nn.init.normal_(block.conv2.weight)
    condition = torch.rand(1, 2, 8, 8, 8)
    found = []
    for checkpointing in (False, True):
        encoder.checkpointing = checkpointing
        encoder.zero_grad()
        encoder(condition).square().sum().backward()
        found.append([p.grad.clone() for p in encoder.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert all(g.abs().sum() > 0 for g in found[0])
