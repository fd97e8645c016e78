"""The oracle is the plain `AutoencoderKL.decode`."""

import copy

import pytest
import torch
from monai.networks.nets.autoencoderkl import AutoencoderKL
from torch import nn

from vcm.errors import VCMError
from vcm.nets.slabs import decode_in_slabs


def random_net(channels=(8, 16), res_blocks=1, groups=2, **options) -> AutoencoderKL:
    torch.manual_seed(0)
    options = {
        "attention_levels": [False] * len(channels),
        "with_decoder_nonlocal_attn": False,
    } | options
    net = AutoencoderKL(
        spatial_dims=3,
        in_channels=1,
        out_channels=2,
        channels=channels,
        latent_channels=3,
        num_res_blocks=res_blocks,
        norm_num_groups=groups,
        with_encoder_nonlocal_attn=False,
        **options,
    )
    for module in net.modules():
        if isinstance(module, nn.GroupNorm):  # identity by default, where a mistake would not show
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias)
    return net.eval()


@torch.no_grad()
def difference(net: AutoencoderKL, z: torch.Tensor, *args, **options) -> float:
    """Largest difference from the plain decode, relative to its largest value."""
    plain = net.decode(z)
    slabs = decode_in_slabs(net, z, *args, **options)
    assert slabs.shape == plain.shape and slabs.dtype == plain.dtype
    return ((slabs - plain).abs().max() / plain.abs().max()).item()


NETS = {
    "two levels": {},
    "two res blocks": {"res_blocks": 2, "groups": 4},
    "three levels, channels change": {"channels": (4, 8, 16), "groups": 4},
    "attention": {"attention_levels": [False, True], "with_decoder_nonlocal_attn": True},
    "transposed": {"use_convtranspose": True},
}


@pytest.mark.parametrize("options", NETS.values(), ids=NETS)
@pytest.mark.parametrize("thickness", [1, 2, 3, 7, 100])
def test_slabs_equal_the_plain_decode(options, thickness):
    z = torch.randn(2, 3, 5, 4, 6)  # batch 2, odd extent
    kept = z.clone()
    assert difference(random_net(**options), z, thickness) < 1e-5
    assert torch.equal(z, kept)


def test_a_latent_of_one_plane():
    assert difference(random_net(), torch.randn(1, 3, 1, 4, 3), 1) < 1e-5


@torch.no_grad()
def test_halves_decoded_apart_do_have_a_seam():
    """The comparison above can fail: without shared planes and statistics the error is 1000 times its bound."""
    net, z = random_net(), torch.randn(1, 3, 6, 4, 6)
    plain = net.decode(z)
    halves = torch.cat([net.decode(half) for half in z.chunk(2, 2)], 2)
    assert (halves - plain).abs().max() / plain.abs().max() > 1e-2


def test_slabs_are_as_exact_as_the_plain_decode_far_from_zero():
    """A map of mean 1000 and unit spread, where E[x^2] - E[x]^2 has no correct digit left."""
    net, z = random_net(), torch.randn(1, 3, 6, 4, 6)
    nn.init.constant_(net.decoder.blocks[0].conv.bias, 1000.0)
    with torch.no_grad():
        exact = copy.deepcopy(net).double().decode(z.double())
        plain = (net.decode(z) - exact).abs().max()
    slabs = (decode_in_slabs(net, z, 4) - exact).abs().max()
    assert slabs < 3 * plain


def test_float64_agrees_to_its_own_precision():
    assert difference(random_net().double(), torch.randn(1, 3, 5, 4, 6).double(), 3) < 1e-13


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 3e-3), (torch.bfloat16, 3e-2)])
def test_half_precision_storage_stays_within_a_few_roundings(dtype, bound):
    """Units in the last place: 2^-11 = 5e-4 and 2^-8 = 4e-3; computing stays in float32."""
    net, z = random_net(res_blocks=2, channels=(4, 8, 16)), torch.randn(1, 3, 5, 4, 6)
    error = difference(net, z, 3, storage_dtype=dtype)
    assert 1e-5 < error < bound


def test_a_map_beyond_the_range_of_float16_is_refused():
    net, z = random_net(), torch.randn(1, 3, 4, 4, 4)
    nn.init.constant_(net.decoder.blocks[0].conv.bias, 1e5)
    with pytest.raises(VCMError, match="bfloat16"):
        decode_in_slabs(net, z, storage_dtype=torch.float16)


def test_an_unknown_layer_is_refused_before_any_work():
    net = random_net()
    net.decoder.blocks.append(nn.Tanh())
    net.decoder.blocks[0].forward = None
    with pytest.raises(VCMError, match="Tanh"):
        decode_in_slabs(net, torch.randn(1, 3, 4, 4, 4))


def test_a_convolution_that_reaches_further_is_refused():
    net = random_net()
    net.decoder.blocks[0].conv = nn.Conv3d(3, 16, 5, padding=2)
    with pytest.raises(VCMError, match=r"Conv3d.*kernel_size=\(5, 5, 5\)"):
        decode_in_slabs(net, torch.randn(1, 3, 4, 4, 4))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"thickness": 0}, "thickness"), ({"storage_dtype": torch.int8}, "int8")],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(VCMError, match=words):
        decode_in_slabs(random_net(), torch.randn(1, 3, 4, 4, 4), **options)
