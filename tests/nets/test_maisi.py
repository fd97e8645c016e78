"""The oracles are MONAI's networks called as MAISI calls them, and its RFlowScheduler."""

import math

import pytest
import torch
from monai.networks.schedulers.rectified_flow import RFlowScheduler, timestep_transform
from tiny_networks import tiny_module
from torch import nn

from vcm.diffusion.sampling import check_scheduler, flow_shift, make_scheduler, sample
from vcm.errors import VCMError
from vcm.nets.maisi import MaisiAutoencoder, MaisiDenoiser
from vcm.pipeline import VCMPipeline
from vcm.weights.load import load_pipeline
from vcm.weights.names import PublishedNamesError, load_strictly

T1W = torch.tensor([[0.8, 1.0, 1.2, 9.0]])
SMALL = {"channels": (8, 16), "groups": 4}
TINY = {**SMALL, "attention": (False, True), "head_channels": (0, 8), "res_blocks": 1}


def awake(net: nn.Module) -> nn.Module:
    """Norms and last layers begin as identity or zero, where a mistake would not show."""
    for module in net.modules():
        if isinstance(module, nn.GroupNorm):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)
        if isinstance(module, nn.Conv3d) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.1)
    return net.eval()


def denoiser(**options) -> MaisiDenoiser:
    torch.manual_seed(0)
    return awake(MaisiDenoiser(**TINY, **options))


def autoencoder(**options) -> MaisiAutoencoder:
    torch.manual_seed(0)
    options = {"channels": (4, 8, 8), "groups": 2, "res_blocks": (1, 1, 1)} | options
    net = awake(MaisiAutoencoder(latent_shape=(8, 8, 8), **options))
    nn.init.constant_(net.net.decoder.blocks[-1].conv.conv.bias, 0.5)
    return net


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_raw_is_the_network_told_hundredths_of_a_millimetre_and_a_class():
    net, z, t = denoiser(), normal(2, 4, 8, 4, 6), torch.tensor([731.25, 12.5])
    inputs = torch.tensor([[0.8, 1.0, 1.2, 9.0], [1.0, 1.0, 2.0, 31.0]])
    expected = net.net(
        x=z,
        timesteps=t,
        class_labels=torch.tensor([9, 31]),
        spacing_tensor=torch.tensor([[80.0, 100.0, 120.0], [100.0, 100.0, 200.0]]),
    )
    torch.testing.assert_close(net(z, t, inputs), expected)
    assert torch.equal(net.to_model_output(net(z, t, inputs), z, t), -net(z, t, inputs))
    one = net(z[:1], t[:1], inputs[:1])
    both = net(z[:1].expand(2, -1, -1, -1, -1), t[:1], inputs[:1])
    torch.testing.assert_close(both, one.expand_as(both))
    for other in ([[0.8, 1.0, 1.2, 10.0]], [[1.0, 0.8, 1.2, 9.0]]):
        assert not torch.allclose(net(z[:1], t[:1], torch.tensor(other)), one, atol=1e-3)


@torch.no_grad()
def test_guidance_is_that_of_the_release(monkeypatch):
    net, z, t = denoiser(), normal(1, 4, 4, 4, 4), torch.tensor([400.0])
    plain = net(z, t, T1W)
    # As in NV-Generate's sampling: one batch of two, the second of class 0, its spacing kept.
    twice = net.net(
        torch.cat([z, z]),
        torch.cat([t, t]),
        class_labels=torch.tensor([9, 0]),
        spacing_tensor=torch.cat([T1W[:, :3] * 100] * 2),
    )
    given, none = twice.chunk(2)
    net.guidance_scale = 10.0
    torch.testing.assert_close(net(z, t, T1W), none + 10 * (given - none), atol=1e-4, rtol=1e-4)
    calls = []
    forward = net.net.forward
    monkeypatch.setattr(net.net, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    net.guidance_scale = 1.0
    assert torch.equal(net(z, t, T1W), plain) and len(calls) == 1
    net.guidance_scale = 0.0
    torch.testing.assert_close(net(z, t, T1W), none)
    assert denoiser(guidance_scale=3.0).guidance_scale == 3.0


def test_noise_target_and_times_are_those_of_monai():
    net = MaisiDenoiser(**TINY, shift=1.7)
    z, noise = normal(3, 4, 4, 4, 4, seed=1), normal(3, 4, 4, 4, 4, seed=2)
    t = torch.tensor([0.0, 400.0, 987.5])
    z_t = net.add_noise(z, noise, t)
    torch.testing.assert_close(z_t, RFlowScheduler().add_noise(z, noise, t))
    torch.testing.assert_close(net.add_noise(z, noise, t[1:2])[1], z_t[1])
    # From z_t, the target leads to the data within the time that is left.
    left = t[:, None, None, None, None] / 1000
    torch.testing.assert_close(z_t + left * net.target(z, noise, t), z)
    time = torch.tensor([0.0, 0.25, 0.9])
    transformed = timestep_transform(time * 1000, input_img_size_numel=(1.7 * 32) ** 3)
    torch.testing.assert_close(net.at(time), transformed)
    torch.testing.assert_close(MaisiDenoiser(**TINY).at(time), time * 1000)


@torch.no_grad()
def test_a_sample_is_that_of_monais_scheduler():
    """Same net, same noise; at 16^3 and 3 steps MONAI's times are whole, so it rounds nothing."""
    net, noise = denoiser(), normal(1, 4, 16, 16, 16)
    theirs = RFlowScheduler(
        use_discrete_timesteps=False, use_timestep_transform=True, base_img_size_numel=32**3
    )
    theirs.set_timesteps(3, input_img_size_numel=math.prod(noise.shape[2:]))
    assert theirs.timesteps.tolist() == [1000, 500, 200]
    expected = noise
    for t, following in zip(theirs.timesteps, [500, 200, 0], strict=True):
        told = {"class_labels": torch.tensor([9]), "spacing_tensor": T1W[:, :3] * 100}
        v = net.net(expected, torch.tensor([t]), **told)
        expected, _ = theirs.step(v, t, expected, following)
    ours = sample(
        lambda z, t: -net(z, t[None], T1W),
        noise,
        make_scheduler("flow", shift=flow_shift(noise.shape)),
        3,
    )
    assert (ours - expected).norm() / expected.norm() < 1e-4
    assert (ours - noise).norm() / noise.norm() > 0.1


def test_inputs_that_make_no_sense_are_refused():
    net, z, t = denoiser(), normal(1, 4, 4, 4, 4), torch.tensor([1.0])
    with pytest.raises(VCMError, match="knows 0 to 127"):
        net(z, t, torch.tensor([[1.0, 1.0, 1.0, 128.0]]))
    with pytest.raises(VCMError, match=r"must be \(B, 4\)"):
        net(z, t, torch.ones(1, 3))


@torch.no_grad()
def test_the_scale_is_put_on_and_taken_off():
    plain, scaled = autoencoder(), autoencoder(scale=1.25)
    image = torch.rand(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    mu, sigma = plain.net.encode(image)
    torch.testing.assert_close(scaled.encode(image), (mu * 1.25, sigma * 1.25))
    assert mu.shape[1:] == scaled.latent_shape == (4, 8, 8, 8)
    torch.testing.assert_close(scaled.decode(mu * 1.25), plain.net.decode(mu).clamp(0, 1))


@torch.no_grad()
@pytest.mark.parametrize("slab", [1, 3, 5, 100])
@pytest.mark.parametrize("num_splits", [1, 2])
def test_slabs_and_splits_equal_the_plain_decode(slab, num_splits):
    plain, other = autoencoder(), autoencoder(num_splits=num_splits, dim_split=1)
    z = normal(2, 4, 5, 8, 6)
    expected = plain.decode(z)
    assert expected.std() > 0.01
    torch.testing.assert_close(other.decode(z), expected, atol=1e-5, rtol=1e-5)
    other.enable_tiling(slab, storage_dtype=None)
    torch.testing.assert_close(other.decode(z), expected, atol=1e-5, rtol=1e-5)
    other.disable_tiling()
    assert other.slab is None


@torch.no_grad()
def test_splits_encode_alike_and_refuse_what_monai_would_crop():
    image = torch.rand(1, 1, 16, 32, 16, generator=torch.Generator().manual_seed(0))
    split = autoencoder(num_splits=2)
    torch.testing.assert_close(
        split.encode(image), autoencoder().encode(image), atol=1e-5, rtol=1e-5
    )
    for extent in (7, 4):
        with pytest.raises(VCMError, match="set num_splits to 1"):
            split.decode(normal(1, 4, 4, extent, 4))


@pytest.fixture
def pipeline() -> VCMPipeline:
    torch.manual_seed(0)
    module = tiny_module(
        2, encoder_channels=(8, 8), encoder_groups=4, encoder_patch=1, unet_channels=(8, 16),
        unet_head_channels=(8, 16), unet_groups=4,
    )  # fmt: skip
    nn.init.normal_(module.mlp_beta.weight, std=0.1)
    return VCMPipeline(
        autoencoder(),
        denoiser(guidance_scale=2.0),
        make_scheduler("flow", shift=flow_shift((8, 8, 8))),
        module,
        conditions=["mask"],
        inputs=["spacing_x", "spacing_y", "spacing_z", "contrast"],
    )


def test_a_module_steers_it(pipeline, tmp_path):
    check_scheduler("flow", pipeline.denoiser.steps_with)
    condition = torch.rand(1, 2, 32, 32, 32, generator=torch.Generator().manual_seed(3))

    def latents(of, given, scale=1.0):
        return of(
            given, T1W, generator=torch.Generator().manual_seed(0), num_inference_steps=3,
            conditioning_scale=scale, output_type="latent",
        ).volumes  # fmt: skip

    steered, frozen = latents(pipeline, condition), latents(pipeline, None)
    assert pipeline.module.downsampling == 4
    torch.testing.assert_close(latents(pipeline, condition, 0.0), frozen)
    assert not torch.allclose(steered, frozen, atol=1e-2)
    pipeline.save_pretrained(tmp_path)
    again = load_pipeline(tmp_path)
    # Loaded weights may lie elsewhere in memory, which rounds the last digits differently.
    torch.testing.assert_close(latents(again, condition), steered, atol=1e-5, rtol=1e-5)
    volumes = again(condition, T1W, num_inference_steps=2).volumes
    assert volumes.shape == (1, 1, 32, 32, 32)
    assert 0 <= volumes.min() < volumes.max() <= 1


def test_sizes_and_names_of_the_release():
    with torch.device("meta"):
        unet, kl = MaisiDenoiser().net, MaisiAutoencoder().net
    counts = [sum(p.numel() for p in net.parameters()) for net in (unet, kl)]
    assert counts == [180_500_868, 20_944_897]
    assert (len(unet.state_dict()), len(kl.state_dict())) == (435, 130)
    # Names that users reported from released files.
    for name in (
        "down_blocks.2.attentions.0.attn.out_proj.weight",
        "down_blocks.3.attentions.1.attn.to_q.bias",
        "class_embedding.weight",
        "spacing_layer.0.weight",
    ):
        assert name in unet.state_dict()
    assert tuple(unet.state_dict()["class_embedding.weight"].shape) == (128, 256)
    assert "decoder.blocks.3.conv.conv.conv.weight" in kl.state_dict()


def test_released_tensors_are_loaded_strictly():
    source, net = denoiser(), MaisiDenoiser(**TINY)
    tensors = dict(source.net.state_dict())
    load_strictly(net.net, tensors)
    assert all(torch.equal(net.net.state_dict()[name], tensors[name]) for name in tensors)
    older = {**tensors, "top_region_index_layer.0.weight": torch.zeros(8, 4)}
    del older["class_embedding.weight"]
    with pytest.raises(PublishedNamesError) as refused:
        load_strictly(net.net, older)
    assert all(name in str(refused.value) for name in ("class_embedding", "top_region_index_layer"))
