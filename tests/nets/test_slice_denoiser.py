import pytest
import torch

from vcm.errors import VCMError
from vcm.nets.slice_denoiser import SliceDenoiser, add_noise, noise_levels, velocity


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return SliceDenoiser((8, 8, 16), groups=4, head_channels=8).eval()


def given(n=2, h=16, w=24):
    torch.manual_seed(1)
    return (
        torch.randn(n, 1, h, w), torch.rand(n), torch.tensor([0, 2][:n]), torch.rand(n, 3, h, w),
    )  # fmt: skip


@torch.no_grad()
def test_forward_is_that_of_the_unet(net):
    """MONAI's own forward, which the features had to be taken apart from."""
    x, t, view, place = given()
    torch.nn.init.normal_(net.net.out[2].conv.weight)
    whole = net.net(torch.cat([x, place], 1), 1000 * t, class_labels=view)
    torch.testing.assert_close(net(x, t, view, place), whole)
    assert whole.std() > 0


@torch.no_grad()
def test_features_stop_after_the_last_block_asked_for(net):
    every = net.features(*given())
    assert [f.shape[1] for f in every] == [16, 8, 8]
    (first,) = net.features(*given(), [0])
    assert torch.equal(first, every[0])
    assert net.feature_channels() == 32
    assert net.feature_channels([0, 2]) == 24


def test_noise_and_velocity_give_the_clean_slice_back():
    x, t, *_ = given()
    noise = torch.randn_like(x)
    alpha, sigma = noise_levels(t)
    v = velocity(x, noise, t)
    torch.testing.assert_close(alpha * add_noise(x, noise, t) - sigma * v, x)


def test_sides_that_do_not_divide_and_unknown_views_are_refused(net):
    with pytest.raises(VCMError, match="multiple of 4: pad"):
        net(*given(h=18))
    with pytest.raises(VCMError, match="choose one or more of sagittal, coronal, axial"):
        SliceDenoiser(views=["oblique"])
