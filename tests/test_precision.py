import copy

import pytest
import torch

from vcm import precision
from vcm.errors import VCMError
from vcm.precision import (
    computes_bfloat16,
    keep_thin_convolutions_exact,
    resolve_mixed_precision,
    resolve_precision,
)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, False),
        ({"amx_bf16": True}, True),
        ({"bf16": True}, True),
        ({"avx512_f": True}, False),
    ],
)
def test_auto_takes_bfloat16_only_where_the_processor_multiplies_matrices_of_it(
    monkeypatch, capabilities, expected
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert computes_bfloat16("cpu") is expected
    assert resolve_precision("auto", "cpu") == ("bfloat16" if expected else "float32")
    assert resolve_mixed_precision("auto", "cpu") == ("bf16" if expected else "no")


def test_a_given_precision_stays(monkeypatch):
    monkeypatch.setattr(precision, "computes_bfloat16", lambda device: False)
    assert resolve_precision("bfloat16", "cpu") == "bfloat16"
    assert resolve_mixed_precision("bf16", "cpu") == "bf16"


def test_an_unknown_precision_is_refused():
    with pytest.raises(VCMError, match="'half': choose auto, float32, bfloat16"):
        resolve_precision("half", "cpu")


@pytest.mark.parametrize("depth", [2, 4])
def test_gradients_of_thin_volumes_are_right_in_bfloat16(depth):
    """Of two voxels of depth torch 2.13 gives any numbers on a CPU."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv3d(8, 8, 3, padding=1), torch.nn.Conv3d(8, 8, 1))
    x = torch.randn(2, 8, depth, 8, 8)

    def gradient(net, half):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            made = net(x)
        (made.float() ** 2).sum().backward()
        return net[0].weight.grad

    exact = gradient(copy.deepcopy(net), False)
    keep_thin_convolutions_exact(net)
    for _ in range(5):
        again = copy.deepcopy(net)
        found = gradient(again, True)
        assert (found - exact).norm() < 0.02 * exact.norm()
        assert again[0]._conv_forward.args[0] is again[0]
