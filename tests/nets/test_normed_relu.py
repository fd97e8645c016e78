"""Group normalisation with leaky ReLU, channels last: the numbers and gradients of the two in PyTorch."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from vcm.nets.memory_format import channels_last_on_cpu
from vcm.nets.normed_relu import NormedReLU


def made(size, groups, channels, dtype=torch.float64):
    torch.manual_seed(0)
    x = (3 * torch.randn(2, channels, *size) + 5).to(dtype)
    net = NormedReLU(groups, channels).to(torch.promote_types(dtype, torch.float32))
    with torch.no_grad():
        net.weight.normal_()
        net.bias.normal_()
    return x.to(memory_format=torch.channels_last_3d), net


@pytest.mark.parametrize(
    ("size", "groups", "channels"),
    [((4, 6, 8), 4, 8), ((3, 5, 7), 8, 8), ((16, 16, 16), 2, 4), ((2, 2, 2), 3, 600)],
)
def test_numbers_and_gradients_are_those_of_pytorch(size, groups, channels):
    x, net = made(size, groups, channels)
    assert not x.is_contiguous()
    x.requires_grad_()
    gradient = torch.randn(x.shape, dtype=x.dtype)
    inputs = [x, net.weight, net.bias]
    plain = functional.leaky_relu(
        functional.group_norm(x, groups, net.weight, net.bias, net.eps), 0.01
    )
    out = net(x)
    assert out.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.allclose(out, plain, atol=1e-10)
    for ours, theirs in zip(
        torch.autograd.grad(out, inputs, gradient),
        torch.autograd.grad(plain, inputs, gradient),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, atol=1e-10)


def test_half_precision_is_rounded_once():
    x, net = made((8, 8, 8), 4, 8, torch.bfloat16)
    exact = net(x.double().contiguous().float())
    out = net(x)
    assert out.dtype == torch.bfloat16
    assert torch.allclose(out.float(), exact, rtol=2**-8, atol=1e-6)


def test_a_constant_channel_is_its_bias():
    net = NormedReLU(2, 4)
    x = torch.full((1, 4, 4, 4, 4), 7.0).to(memory_format=torch.channels_last_3d)
    assert net(x).abs().max() < 1e-2


@pytest.mark.parametrize("device", ["cpu"] + ["cuda"] * torch.cuda.is_available())
def test_layouts_give_one_answer_through_convolutions(device):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(3, 8, 3, 1, 1), NormedReLU(4, 8), nn.Conv3d(8, 2, 3)).to(device)
    image = torch.rand(2, 3, 8, 9, 10, device=device)
    before = net(image)
    before.sum().backward()
    gradients = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    channels_last_on_cpu(net, device)
    after = net(image)
    after.sum().backward()
    assert torch.allclose(before, after, atol=1e-5)
    for one, other in zip(gradients, [p.grad for p in net.parameters()], strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-2)
