"""The oracle is the plain `AutoencoderKL.decode`."""

import copy
import gc
import weakref
from itertools import combinations

import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets.autoencoderkl import AutoencoderKL
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vcm.embedded import embedded_folder
from vcm.errors import VCMError
from vcm.nets.autoencoder import LatentAutoencoder
from vcm.nets.published_autoencoder import PublishedAutoencoder
from vcm.nets.slabs import MapOverflow, SlabDecoding, _folded, _Slabs, _transposed, decode_in_slabs


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
    "upsampled twice in a row": {"channels": (4, 8, 8), "res_blocks": 0, "groups": 4},
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


@pytest.mark.parametrize("options", NETS.values(), ids=NETS)
@pytest.mark.parametrize("thickness", [1, 3, 16])
def test_float64_agrees_to_its_own_precision(options, thickness):
    z = torch.randn(1, 3, 5, 3, 7).double()
    assert difference(random_net(**options).double(), z, thickness) < 1e-12


@pytest.mark.parametrize("factor", [(2, 2, 2), (2, 1, 3), (1, 3, 2), (3, 2, 1)])
@pytest.mark.parametrize(("kernel", "groups"), [(3, 1), (3, 2), (1, 1)])
@torch.no_grad()
def test_folded_upsampling_equals_interpolation_and_convolution(factor, kernel, groups):
    """Any planes of it, at once."""
    conv = nn.Conv3d(4, 6, kernel, padding=kernel // 2, groups=groups).double()
    x = torch.randn(2, 4, 5, 3, 7).double()
    expected = conv(F.interpolate(x, scale_factor=[float(f) for f in factor]))
    low = _Slabs(1, x.dtype, x.dtype, x.device).stored(x)
    folded = _folded(conv, factor)
    if factor == (2, 2, 2) and kernel == 3:
        assert folded.shape == (4, 6 // groups, 4, 4, 4)
    up = _transposed(low, folded, conv.bias, factor, conv.padding[0], groups)
    assert up.shape == expected.shape
    for start, stop in combinations(range(up.shape[2] + 1), 2):
        error = up.read(start, stop) - expected[:, :, start:stop]
        assert error.abs().max() < 1e-10


def test_no_tensor_is_as_large_as_the_upsampled_map():
    """16 channels at the image's resolution; what is stored there has 8."""
    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            sizes = [x.numel() for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
            largest = max(largest, *sizes, 0)
            return result

    with Sizes():
        decode_in_slabs(random_net(), torch.randn(1, 3, 8, 6, 10), 1)
    assert largest == 8 * 16 * 12 * 20


@pytest.mark.parametrize("res_blocks", [1, 2, 3])
def test_at_most_two_maps_are_alive(res_blocks, monkeypatch):
    """The third would be a forgotten reference. Slabs of 3 planes are no maps."""
    maps, alive, new = [], [], _Slabs.new

    def counted(*args, **options):
        x = new(*args, **options)
        if x.shape[2] > 3:
            maps.append(weakref.ref(x))
            alive.append(sum(m() is not None for m in maps))
        return x

    monkeypatch.setattr(_Slabs, "new", counted)
    net = random_net((4, 8, 16), res_blocks, 4)
    gc.disable()  # a map that only the collector frees is alive too long
    try:
        decode_in_slabs(net, torch.randn(1, 3, 5, 4, 3), 1)
    finally:
        gc.enable()
    assert len(alive) == 3 * res_blocks + 2 and max(alive) == 2


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 3e-3), (torch.bfloat16, 3e-2)])
def test_half_precision_storage_stays_within_a_few_roundings(dtype, bound):
    """Units in the last place: 2^-11 = 5e-4 and 2^-8 = 4e-3; computing stays in float32."""
    net, z = random_net(res_blocks=2, channels=(4, 8, 16)), torch.randn(1, 3, 5, 4, 6)
    error = difference(net, z, 3, storage_dtype=dtype)
    assert 1e-5 < error < bound


def test_float16_storage_in_the_size_of_brainldm():
    """Random weights, whose output is noise of standard deviation 0.5 and amplitude 2.9."""
    torch.manual_seed(0)
    net = PublishedAutoencoder().net.eval()
    assert 1e-4 < difference(net, torch.randn(1, 3, 3, 2, 3), storage_dtype=torch.float16) < 1e-3


@pytest.mark.slow
@torch.no_grad()
def test_float16_storage_changes_a_brain_by_less_than_a_thousandth():
    """Measured: 3e-5 at most, of the range 0..1."""
    net = LatentAutoencoder.from_pretrained(embedded_folder("brain1mm") / "autoencoder").float()
    torch.manual_seed(0)
    z = torch.randn(1, *net.latent_shape)
    plain = net.eval().decode(z)
    net.enable_tiling()
    assert plain.std() > 0.2 and 1e-6 < (net.decode(z) - plain).abs().max() < 1e-4


def overflowing_net() -> AutoencoderKL:
    """The last residual block's input has mean 1e5 and passes its skip."""
    net = random_net()
    (upsample,) = (b for b in net.decoder.blocks if "UpSample" in type(b).__name__)
    nn.init.constant_(upsample.postconv.conv.bias, 1e6)
    return net


def test_a_map_beyond_the_range_of_float16_is_refused():
    z = torch.randn(1, 3, 4, 4, 4)
    with pytest.raises(MapOverflow, match="bfloat16"):
        decode_in_slabs(overflowing_net(), z, storage_dtype=torch.float16)
    assert issubclass(MapOverflow, VCMError)


@pytest.mark.parametrize("make", [random_net, overflowing_net])
def test_an_autoencoder_stores_in_float16_where_that_is_possible(make):
    net, z, both = make(), torch.randn(1, 3, 4, 4, 4), SlabDecoding()
    exact = decode_in_slabs(net, z)
    both.enable_tiling(storage_dtype=None)
    assert torch.equal(both.run_decoder(net, z), exact)
    both.enable_tiling()
    assert torch.equal(both.run_decoder(net, z), exact) == (make is overflowing_net)
    assert torch.equal(both.run_decoder(net, z), both.run_decoder(net, z))
    both.disable_tiling()
    with torch.no_grad():
        assert torch.equal(both.run_decoder(net, z), net.decode(z))


def test_other_weights_keep_their_own_type():
    net, z, both = random_net().double(), torch.randn(1, 3, 4, 4, 4).double(), SlabDecoding()
    both.enable_tiling()
    assert torch.equal(both.run_decoder(net, z), decode_in_slabs(net, z))


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
