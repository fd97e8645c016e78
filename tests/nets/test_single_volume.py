"""One volume on a CPU gives what it gives in a batch, by the same kernel, and gradients still pass."""

import copy

import torch
from torch import nn

from vcm.nets.single_volume import compute_single_volumes_fast


def test_one_volume_gives_what_it_gives_in_a_batch_and_without_the_change() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(3, 8, 3, padding=1, stride=2), nn.SiLU(), nn.Conv3d(8, 5, 1))
    plain = copy.deepcopy(net)
    compute_single_volumes_fast(net)
    x = torch.randn(1, 3, 6, 8, 6)
    with torch.inference_mode():
        assert torch.allclose(net(x), plain(x), atol=1e-5)
        assert torch.allclose(net(x)[0], net(torch.cat([x, x]))[0], atol=1e-5)
    net(x).sum().backward()
    plain(x).sum().backward()
    for a, b in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-4)


def test_the_network_is_copied_and_moved_as_before() -> None:
    net = nn.Conv3d(2, 2, 3)
    compute_single_volumes_fast(net)
    x = torch.randn(1, 2, 4, 4, 4)
    double = copy.deepcopy(net).double()
    with torch.inference_mode():
        assert torch.allclose(double(x.double()).float(), net(x), atol=1e-5)
        net.weight.zero_()
        assert not torch.allclose(double(x.double()).float(), net(x), atol=1e-3)
