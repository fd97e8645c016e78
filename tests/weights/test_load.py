import pytest
import torch

from vcm.errors import VCMError
from vcm.files import fingerprint
from vcm.learning.start import load_start
from vcm.nets.segmenter import TissueSegmenter
from vcm.nets.slice_denoiser import SliceDenoiser
from vcm.segmentation.features import load_denoisers
from vcm.weights.load import load_pipeline
from vcm.weights.packing import pack
from vcm.weights.segmenter import load_segmenter


def test_a_packed_model_is_half_the_size_and_nearly_the_same(tiny_model, tmp_path):
    size = pack(tiny_model, tmp_path / "half")
    whole = sum(p.stat().st_size for p in tiny_model.rglob("*.safetensors"))
    assert 0.4 * whole < size < 0.7 * whole
    options = {"num_inference_steps": 2, "output_type": "latent"}
    latents = [
        load_pipeline(folder)(
            None, torch.full((1, 4), 0.5), generator=torch.Generator().manual_seed(0), **options
        ).volumes
        for folder in (tiny_model, tmp_path / "half")
    ]
    assert latents[1].dtype == torch.float32
    torch.testing.assert_close(latents[0], latents[1], atol=0.02, rtol=0.02)
    assert fingerprint(tiny_model).keys() == fingerprint(tmp_path / "half").keys()
    assert fingerprint(tiny_model) != fingerprint(tmp_path / "half")


def test_a_packed_segmenter_names_the_same_tissues(tmp_path):
    torch.manual_seed(0)
    TissueSegmenter((4, 8), groups=2).save_pretrained(tmp_path / "whole")
    pack(tmp_path / "whole", tmp_path / "half")
    image = torch.rand(1, 1, 16, 16, 16)
    whole, half = (load_segmenter(str(tmp_path / n)).classes(image) for n in ("whole", "half"))
    assert (whole == half).float().mean() > 0.98


def test_a_slice_model_is_packed_alone_and_what_is_no_network_of_its_own_is_refused(tmp_path):
    SliceDenoiser((8, 8), groups=4, head_channels=8).save_pretrained(tmp_path / "whole")
    pack(tmp_path / "whole", tmp_path / "half")
    (net,) = load_denoisers(tmp_path / "half")
    assert next(net.parameters()).dtype == torch.float32
    weights = tmp_path / "half" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(VCMError, match="is not what it was when the model was saved"):
        load_denoisers(tmp_path / "half")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"_class_name": "ControlNet"}')
    with pytest.raises(VCMError, match="holds a ControlNet, which cannot be packed alone"):
        pack(tmp_path / "other", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_damaged_network_is_not_packed_nor_started_from(tmp_path):
    """A copy of it would have checksums of its own, which call it whole."""
    SliceDenoiser((8, 8), groups=4, head_channels=8).save_pretrained(tmp_path / "whole")
    pack(tmp_path / "whole", tmp_path / "half")
    weights = tmp_path / "half" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(VCMError, match="is not what it was when the model was saved"):
        pack(tmp_path / "half", tmp_path / "copy")
    with pytest.raises(VCMError, match="is not what it was when the model was saved"):
        load_start(SliceDenoiser((8, 8), groups=4, head_channels=8), str(tmp_path / "half"))
    assert not (tmp_path / "copy").exists()


def test_weights_that_half_precision_does_not_hold_are_not_packed(tmp_path):
    net = SliceDenoiser((8, 8), groups=4, head_channels=8)
    with torch.no_grad():
        next(net.parameters()).view(-1)[0] = 1e6
    net.save_pretrained(tmp_path / "whole")
    with pytest.raises(VCMError, match=r"weights that 16 bits do not hold[^$]*1 of \d+ values"):
        pack(tmp_path / "whole", tmp_path / "half")
    assert not (tmp_path / "half").exists()
    (tmp_path / "whole" / "config.json").write_text("{")
    with pytest.raises(VCMError, match="network without a class, which cannot be packed alone"):
        pack(tmp_path / "whole", tmp_path / "half")


def test_damaged_tensors_are_named(tiny_model, tmp_path):
    pack(tiny_model, tmp_path / "model")
    tensors = tmp_path / "model" / "denoiser" / "diffusion_pytorch_model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:5000])
    with pytest.raises(VCMError, match="is not what it was when the model was saved"):
        load_pipeline(tmp_path / "model")
    (tmp_path / "model" / "checksums.json").unlink()
    with pytest.raises(VCMError, match="cannot be loaded"):
        load_pipeline(tmp_path / "model")


def test_there_is_no_such_segmenter(tmp_path):
    with pytest.raises(VCMError, match="holds no segmenter"):
        load_segmenter(str(tmp_path))
