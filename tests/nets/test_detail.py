import pytest
import torch

from vcm.nets.detail import FIRST_STD, LEAST_STD, MIRRORS, DetailNet

NARROW = (4, 4, 4, 4, 4, 4)


def read(*extent):
    return torch.rand(2, 3, *extent, generator=torch.Generator().manual_seed(0))


def woken(net):
    """As after some training."""
    torch.manual_seed(1)
    torch.nn.init.normal_(net.head.weight, std=0.1)
    return net.eval()


def test_it_starts_as_the_interpolation_and_says_the_same_error_everywhere():
    given = read(32, 32, 32)
    found = DetailNet(NARROW)(given)
    torch.testing.assert_close(found.image, given[:, :1])
    torch.testing.assert_close(found.std, torch.full_like(found.std, FIRST_STD))


@pytest.mark.parametrize("extent", [(33, 40, 47), (34, 32, 51)])
def test_any_extent_is_taken(extent):
    found = woken(DetailNet(NARROW))(read(*extent))
    assert found.image.shape == found.std.shape == (2, 1, *extent)
    assert (found.std >= LEAST_STD).all() and found.image.isfinite().all()


@pytest.mark.parametrize("expects", [True, False])
def test_whether_the_expected_brain_is_read(expects):
    net = woken(DetailNet(NARROW, expects=expects))
    given = read(32, 32, 32)
    other = given.clone()
    other[:, 2] = 0.5
    assert torch.equal(net(given).image, net(other).image) is not expects


def test_every_voxel_can_be_corrected_by_itself():
    """Folding and unfolding agree: a bias of one channel moves every second voxel per axis."""
    net = DetailNet(NARROW)
    with torch.no_grad():
        net.head.bias[0b101] = 1.0
    moved = (net(read(32, 32, 32)).image - read(32, 32, 32)[:, :1])[0, 0]
    expected = torch.zeros(32, 32, 32)
    expected[1::2, ::2, 1::2] = 1
    torch.testing.assert_close(moved, expected)


def test_it_comes_back_from_a_folder(tmp_path):
    net = woken(DetailNet(NARROW, fold=2))
    net.save_pretrained(tmp_path)
    again = DetailNet.from_pretrained(tmp_path).eval()
    given = read(32, 32, 32)
    for one, other in zip(net(given), again(given), strict=True):
        assert torch.equal(one, other)


def test_over_mirrors_a_mirrored_input_gives_the_mirrored_output():
    net = woken(DetailNet(NARROW))
    given = read(33, 40, 34)
    once, both = net(given), net.over_mirrors(given)
    axes = MIRRORS[1]
    mirrored = net.over_mirrors(given.flip(axes))
    for one, other in zip(both, mirrored, strict=True):
        torch.testing.assert_close(other.flip(axes), one)
    assert not torch.allclose(once.image, both.image, atol=1e-3)
