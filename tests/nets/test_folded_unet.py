"""A U-Net on a folded grid: its start, what reaches what, and the places that it is told."""

import pytest
import torch

from vcm.nets.folded_unet import PLACES, FoldedUNet, places

SHAPE = (8, 12, 8)


def small(spread: float | None = 0.2) -> FoldedUNet:
    """A net of random weights, or, with None, one as it starts."""
    torch.manual_seed(0)
    net = FoldedUNet(
        3, 2, 8, 4, channels=(8, 8), num_res_blocks=1, attention_levels=(False, True),
        num_head_channels=(0, 8), norm_num_groups=4, with_conditioning=True,
        transformer_num_layers=1, cross_attention_dim=4,
    )  # fmt: skip
    for p in net.parameters() if spread else ():
        torch.nn.init.normal_(p, std=spread)
    return net.eval()


def given() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, *SHAPE, generator=random)
    return x, torch.tensor([10, 800]), torch.rand(2, 1, 4, generator=random)


def test_it_starts_at_zero_and_its_last_layer_learns() -> None:
    net = small(None)
    out = net(*given())
    assert out.shape == (2, 2, *SHAPE)
    assert torch.equal(out, torch.zeros_like(out))
    (out - 1).square().mean().backward()
    assert net.head.weight.grad.abs().max() > 0


@torch.no_grad()
def test_timestep_context_and_the_far_field_reach_the_output() -> None:
    net, (x, t, context) = small(), given()
    base = net(x, t, context)
    assert not torch.allclose(base, net(x, t + 100, context), atol=1e-7)
    assert not torch.allclose(base, net(x, t, context + 0.5), atol=1e-7)
    x[:, :, 0, 0, 0] += 5
    assert not torch.equal(base[..., -1, -1, -1], net(x, t, context)[..., -1, -1, -1])


@torch.no_grad()
def test_what_is_added_goes_into_the_folded_unet() -> None:
    net, told = small(), given()
    middle = torch.randn(2, 8, 2, 3, 2, generator=torch.Generator().manual_seed(2))
    changed = net(*told, mid_block_additional_residual=middle)
    assert not torch.allclose(net(*told), changed, atol=1e-7)


def test_places_tell_all_positions_apart_and_are_even_and_odd_about_the_middle() -> None:
    found = places((4, 6, 4))
    assert found.shape == (PLACES, 4, 6, 4)
    assert torch.cdist(found.flatten(1).T, found.flatten(1).T).fill_diagonal_(1).min() > 0.1
    sines, cosines = found[0 : PLACES // 3 : 2], found[1 : PLACES // 3 : 2]  # of the first axis
    assert sines.flip(1) == pytest.approx(-sines, abs=1e-6)
    assert cosines.flip(1) == pytest.approx(cosines, abs=1e-6)


@torch.no_grad()
def test_it_runs_without_a_context() -> None:
    net = FoldedUNet(
        3, 2, 8, 4, channels=(8, 8), num_res_blocks=1, attention_levels=(False, False),
        norm_num_groups=4, num_head_channels=(8, 8),
    )  # fmt: skip
    assert net(torch.randn(2, 3, 8, 8, 8), torch.tensor([1, 2])).shape == (2, 2, 8, 8, 8)
