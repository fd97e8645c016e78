"""Every control method for every family of frozen models, from the configuration of `vcm train`."""

from dataclasses import replace

import pytest
import torch

from vcm.errors import VCMError
from vcm.nets.denoiser import LatentDenoiser
from vcm.nets.maisi import MaisiDenoiser
from vcm.training.configuration import ControlSizes
from vcm.training.controls import CONTROLS, make_control

SIZES = ControlSizes(
    conditions=["ventricles"], encoder_channels=[8], encoder_groups=4, encoder_patch=4,
    unet_channels=[8, 8], unet_attention=[False, True], unet_head_channels=[8, 8], unet_groups=4,
    unet_out_channels=8, head_channels=8, embedding_channels=[4, 8, 8],
)  # fmt: skip
LATENT, FACTOR = (4, 4, 4, 4), 4
T1W = torch.tensor([[1.0, 1.0, 1.2, 9.0]])
FAMILIES = {
    "brain2mm": (
        lambda: LatentDenoiser(
            4, channels=(8, 16), head_channels=(0, 16), groups=4, res_blocks=1,
            latent_shape=LATENT[1:],
        ),
        torch.full((1, 4), 0.5),
    ),
    "maisi": (
        lambda: MaisiDenoiser(4, (8, 16), (False, True), (0, 8), 1, 4, guidance_scale=2.0),
        T1W,
    ),
}  # fmt: skip


@pytest.fixture(params=FAMILIES)
def family(request):
    make, inputs = FAMILIES[request.param]
    torch.manual_seed(0)
    frozen = make()
    for p in frozen.parameters():  # MONAI's zeroed layers would hide what is added inside
        torch.nn.init.normal_(p, std=0.2)
    return frozen.requires_grad_(False).eval(), inputs


@pytest.mark.parametrize("linear_prior", [False, True])
@pytest.mark.parametrize("control", CONTROLS)
def test_it_starts_at_the_frozen_model_learns_and_is_saved(control, linear_prior, family, tmp_path):
    frozen, inputs = family
    sizes = replace(SIZES, control=control, linear_prior=linear_prior)
    made = make_control(sizes, frozen, LATENT, FACTOR)
    z_t, t = torch.randn(2, *LATENT), torch.tensor([300, 700])
    condition = torch.rand(1, 1, 16, 16, 16)
    plain = frozen(z_t, t, inputs)
    started = made(frozen, z_t, t, inputs, made.encode(condition))
    torch.testing.assert_close(started.prediction, plain)
    for p in made.parameters():
        p.data += 0.05 * torch.randn_like(p)
    features = made.encode(condition)
    off = made(frozen, z_t, t, inputs, features, 0.0)
    torch.testing.assert_close(off.prediction, plain)
    on = made(frozen, z_t, t, inputs, features)
    assert (on.prediction - plain).abs().max() > 1e-3
    on.prediction.square().mean().backward()
    assert not [n for n, p in made.named_parameters() if p.grad is None]
    assert all(p.grad is None for p in frozen.parameters())
    made.save_pretrained(tmp_path)
    again = type(made).from_pretrained(tmp_path)
    loaded = again(frozen, z_t, t, inputs, again.encode(condition))
    torch.testing.assert_close(loaded.prediction, on.prediction)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"encoder_patch": 8}, "8 times coarser.* are 4 times coarser: set encoder_patch to 4"),
        (
            {"encoder_halve": True, "linear_prior": False},
            "times 2 for each of the 1 encoder_channels must be 4",
        ),
        ({"encoder_halve": True}, "linear_prior is true and encoder_halve too"),
        (
            {"control": "controlnet", "embedding_channels": [4, 8, 8, 8]},
            "give 3 numbers in embedding_channels",
        ),
        ({"control": "controlnet-lite", "embedding_channels": [4]}, "give 3 numbers"),
        ({"control": "magic"}, "choose vcm, mcm, controlnet"),
    ],
)
def test_sizes_that_do_not_fit_the_latents_are_refused(change, reason):
    frozen = FAMILIES["maisi"][0]()
    with pytest.raises(VCMError, match=reason):
        make_control(replace(SIZES, **change), frozen, LATENT, FACTOR)
