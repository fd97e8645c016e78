"""A network is loaded whole and by its own class, or not at all."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from vcm.errors import VCMError
from vcm.nets.segmenter import TissueSegmenter
from vcm.nets.slice_denoiser import SliceDenoiser

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    TissueSegmenter((4, 4), 2).save_pretrained(tmp_path / "net")
    return tmp_path / "net"


def test_it_comes_back_as_it_was(folder):
    net, info = TissueSegmenter.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    saved = load_file(folder / WEIGHTS)
    assert all(torch.equal(v, saved[name]) for name, v in net.state_dict().items())
    from_below = TissueSegmenter.from_pretrained(folder.parent, subfolder="net")
    assert torch.equal(from_below.out.conv.conv.bias, net.out.conv.conv.bias)


def test_a_network_of_another_class_is_refused(folder):
    with pytest.raises(VCMError, match="holds a TissueSegmenter, not a SliceDenoiser"):
        SliceDenoiser.from_pretrained(folder)


@pytest.mark.parametrize("change", ["missing", "left over", "other sizes"])
def test_weights_that_do_not_belong_to_the_configuration_are_refused(folder, change):
    weights = load_file(folder / WEIGHTS)
    if change == "missing":
        del weights["out.conv.conv.bias"]
    elif change == "left over":
        weights["more.bias"] = torch.zeros(3)
    else:
        card = json.loads((folder / "config.json").read_text("utf-8"))
        (folder / "config.json").write_text(json.dumps(card | {"channels": [4, 4, 4]}), "utf-8")
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(VCMError, match="do not belong together, so copy it again"):
        TissueSegmenter.from_pretrained(folder)
