"""A network that knows no contrast adds detail to the whole field of view; which files hold one."""

import numpy as np
import pytest
import torch

from vcm.errors import VCMError
from vcm.imaging import brain
from vcm.imaging.degradation import Degradation, simulate_thick
from vcm.imaging.geometry import model_grid
from vcm.imaging.registration import common_template
from vcm.imaging.volume import Volume
from vcm.nets.detail import DetailNet
from vcm.upsampling.detail import head_detail
from vcm.upsampling.detail.head_detail import add_head_detail, load_detail
from vcm.upsampling.scans.thick_scan import ThickScan, to_thick_scan

CHANNELS = (4, 4, 4, 4, 4, 4)


@pytest.fixture
def scan(monkeypatch):
    """A brain as T2w shows it, in coronal slices of 6 mm."""
    monkeypatch.setattr(brain, "align_rigid", lambda image: np.eye(4))
    monkeypatch.setattr(head_detail, "TRAINED", 2.0)  # a small grid
    template = common_template()
    inside = template.data > 0.1
    other = np.where(inside, 900 - 700 * template.data, 0).astype(np.float32)
    thick, _ = simulate_thick(Volume(other, template.affine), "coronal", 6.0)
    data = np.where(thick.data > 100, thick.data, 0)
    return to_thick_scan(Volume(data, thick.affine, source="sub-1_T2w"), model_grid(), 2.0)


def shifting(by: float) -> DetailNet:
    """A network whose image is its input plus a constant."""
    net = DetailNet(CHANNELS, 2, expects=False).eval()
    with torch.no_grad():
        torch.nn.init.zeros_(net.head.weight)
        net.head.bias[: 2**3] = by
    return net


def test_a_network_without_opinion_changes_nothing_but_the_error(scan):
    image, std, share = add_head_detail(scan, DetailNet(CHANNELS, 2, False).eval(), 0.1, 0.5, False)
    measured = scan.degradation.residual(image, scan.slices)
    assert measured < 0.6 * scan.degradation.residual(scan.interpolated(1), scan.slices)
    head = share > 0.99
    width = 1 - np.percentile(
        scan.slices, 0.5
    )  # the network sees air as 0, below the brain's least
    assert std[head].mean() == pytest.approx(0.05 * width, rel=0.02) and not std[share == 0].any()


def test_the_slices_are_interpolated_and_projected_once_for_the_network_and_for_the_result(
    scan, monkeypatch
):
    """And once more with what the network adds."""
    done = []

    def counted(name, method):
        def call(*given, **options):
            done.append(name)
            return method(*given, **options)

        return call

    for kind, name in ((ThickScan, "interpolated"), (Degradation, "project")):
        monkeypatch.setattr(kind, name, counted(name, getattr(kind, name)))
    add_head_detail(scan, shifting(0.1), 0.1, 0.5, False)
    assert done == ["interpolated", "project", "project"]


def test_what_it_says_is_added_in_the_head_alone_and_projected(scan):
    """With slices that are hardly believed, what the network adds stays; believed, it goes."""
    plain, _, share = add_head_detail(scan, shifting(0.0), 0.1, 100.0, False)
    moved, _, _ = add_head_detail(scan, shifting(0.1), 0.1, 100.0, False)
    head, air = share > 0.99, share == 0
    width = 1 - np.percentile(scan.volume.data, 0.5)
    assert (moved - plain)[head].mean() == pytest.approx(0.1 * width, rel=0.2)
    np.testing.assert_allclose(moved[air], plain[air], atol=2e-3)
    believed, _, _ = add_head_detail(scan, shifting(0.1), 0.1, 0.01, False)
    assert abs((believed - plain)[head].mean()) < 0.02


def test_only_a_network_for_any_contrast_is_loaded(tmp_path):
    DetailNet(CHANNELS, 2, expects=False).save_pretrained(tmp_path / "any")
    assert not load_detail(tmp_path / "any").expects
    DetailNet(CHANNELS, 2).save_pretrained(tmp_path / "t1w")
    with pytest.raises(VCMError, match="reads what a model expects"):
        load_detail(tmp_path / "t1w")
    with pytest.raises(VCMError, match="holds no detail network"):
        load_detail(tmp_path)
    assert load_detail("none") is None


def test_tiles_and_mirrors_say_what_the_whole_says():
    """Away from a border that the whole does not have; a network without opinion sees no border at all."""
    net = DetailNet((4, 4, 4, 4, 4, 4), 2, False).eval()
    torch.manual_seed(0)
    for read in (
        torch.rand(1, 3, 64, 40, 76),
        torch.rand(1, 3, 40, 36, 9),
    ):  # one thinner than a tile
        plain = net.over_tiles(read, tile=40)
        assert torch.allclose(plain.image, read[:, :1], atol=1e-5)
        assert plain.std.shape == (1, 1, *read.shape[2:])
    read = torch.rand(1, 3, 64, 40, 60)
    torch.nn.init.normal_(net.head.weight, std=0.1)
    whole, tiled = net(read), net.over_tiles(read, tile=48)
    assert (whole.image - tiled.image).square().mean() < 0.02 * (whole.image - read[:, :1]).var()
    both = net.over_tiles(read, ((), (3,)), tile=64)
    other = net(read.flip([3])).image.flip([3])
    assert torch.allclose(both.image, (net(read).image + other) / 2, atol=1e-4)
