"""Twice the voxels: it starts as interpolation, takes any even extents, and is saved whole."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from vcm.nets.super_resolution import SuperResolutionNet
from vcm.weights.packing import pack


def small() -> SuperResolutionNet:
    torch.manual_seed(0)
    return SuperResolutionNet((4, 8), (1, 1)).eval()


@pytest.mark.parametrize("shape", [(4, 6, 10), (2, 8, 4)])
def test_it_starts_as_interpolation(shape: tuple[int, ...]) -> None:
    y = torch.rand(2, 1, *shape)
    plain = F.interpolate(y, scale_factor=2, mode="trilinear", align_corners=False)
    assert torch.equal(small()(y), plain)
    assert plain.shape == (2, 1, *[2 * n for n in shape])


def test_each_voxel_gets_a_detail_of_its_own() -> None:
    net, y = small(), torch.rand(1, 1, 4, 4, 4)
    plain = net(y)
    torch.nn.init.normal_(net.detail.write.weight, std=0.1)
    added = F.avg_pool3d((net(y) - plain).abs(), 1)
    assert (added > 0).all()
    assert added[..., ::2].sub(added[..., 1::2]).abs().min() > 0


def test_odd_extents_are_refused() -> None:
    with pytest.raises(ValueError, match=r"extents must be even, not \(4, 5, 4\)"):
        small()(torch.rand(1, 1, 4, 5, 4))


def test_it_is_packed_alone(tmp_path: Path) -> None:
    net = small()
    torch.nn.init.normal_(net.detail.write.weight, std=0.1)
    net.save_pretrained(tmp_path / "whole")
    pack(tmp_path / "whole", tmp_path / "half")
    y, found = torch.rand(1, 1, 4, 4, 4), SuperResolutionNet.from_pretrained(tmp_path / "half")
    assert torch.allclose(found.float()(y), net(y), atol=2e-3)
