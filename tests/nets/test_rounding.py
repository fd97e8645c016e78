"""Weights in 8 bits: how far off, what stays as it is, and that a model is the same before and after a file."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from vcm.checksums import record_checksums
from vcm.cli.main import run_command
from vcm.errors import VCMError
from vcm.nets import rounding
from vcm.nets.detail import DetailNet
from vcm.nets.frozen_checksum import frozen_checksum, recorded_checksum
from vcm.nets.rounding import from_rows, round_network, round_rows, rounded_names, to_stored
from vcm.weights.load import load_pipeline
from vcm.weights.packing import pack


def test_a_row_is_off_by_half_a_step_of_its_own_at_most():
    torch.manual_seed(0)
    weight = torch.randn(20, 7, 3, 3, 3) * torch.logspace(-6, 3, 20)[:, None, None, None, None]
    weight[3] = 0
    numbers, scale = round_rows(weight)
    assert numbers.dtype == torch.int8 and scale.dtype == torch.float16 and scale.shape == (20,)
    error = (from_rows(numbers, scale) - weight).flatten(1).abs().amax(1)
    largest = weight.flatten(1).abs().amax(1)
    kept = largest > 1e-4  # half precision has no smaller steps
    assert (error[kept] <= 0.505 * largest[kept] / 126).all() and not from_rows(numbers, scale)[
        3
    ].any()


def test_rounding_twice_is_rounding_once():
    torch.manual_seed(0)
    weight = torch.randn(300, 64) * torch.rand(300, 1)
    once = from_rows(*round_rows(weight))
    assert torch.equal(from_rows(*round_rows(once)), once)


def test_statistics_and_small_tensors_stay_in_half_precision():
    net = DetailNet((8, 8, 8, 8, 8, 8))
    names = rounded_names(net)
    assert "net.conv_0.conv_0.conv.weight" in names and "net.conv_0.conv_0.conv.bias" not in names
    net.register_buffer("spread", torch.randn(8, 20, 30))
    round_network(net)
    stored = to_stored(net.state_dict(), rounded_names(net))
    assert stored["spread"].dtype == torch.float16
    assert torch.equal(stored["spread"].float(), net.spread)


@pytest.fixture
def small_too(monkeypatch):
    """The networks of the tests have few weights."""
    monkeypatch.setattr(rounding, "LEAST_NUMBERS", 64)


@pytest.mark.usefixtures("small_too")
def test_a_packed_model_is_its_own_in_memory_and_its_module_fits(thick_model, tmp_path):
    size = pack(thick_model, tmp_path / "packed", bits=8)
    assert size < pack(thick_model, tmp_path / "half")
    pipeline = load_pipeline(tmp_path / "packed")
    whole = load_pipeline(thick_model)
    stored = load_file(tmp_path / "packed" / "denoiser" / "diffusion_pytorch_model.safetensors")
    assert any(v.dtype == torch.int8 for v in stored.values())
    for name in ("autoencoder", "denoiser", "module"):
        own, other = (getattr(p, name).state_dict() for p in (pipeline, whole))
        assert own.keys() == other.keys()
        for key, value in own.items():
            assert value.dtype == other[key].dtype
            torch.testing.assert_close(
                value, other[key], rtol=0, atol=0.005 * float(other[key].abs().max()) + 1e-6
            )
    found = frozen_checksum(pipeline.autoencoder, pipeline.denoiser)
    assert recorded_checksum(pipeline.module.config) == found
    # Saved from memory and packed again it is the same model.
    pipeline.save_pretrained(tmp_path / "again")
    pack(tmp_path / "again", tmp_path / "twice", bits=8)
    again = load_pipeline(tmp_path / "twice")
    assert frozen_checksum(again.autoencoder, again.denoiser) == found


@pytest.mark.usefixtures("small_too")
def test_a_scale_without_its_weight_is_refused(thick_model, tmp_path):
    pack(thick_model, tmp_path / "packed", bits=8)
    file = tmp_path / "packed" / "denoiser" / "diffusion_pytorch_model.safetensors"
    stored = load_file(file)
    weight = next(n for n in stored if n.endswith(".row_scale")).removesuffix(".row_scale")
    del stored[weight]
    save_file(stored, file, metadata={"format": "pt"})
    record_checksums(tmp_path / "packed")
    with pytest.raises(VCMError, match="cannot be loaded"):
        load_pipeline(tmp_path / "packed")


def test_bits_from_the_command_line(thick_model, tmp_path, capsys):
    given = ["weights", "pack", str(thick_model), "--out", str(tmp_path / "packed")]
    assert run_command([*given, "--bits", "4"]) == 2
    assert "bits is 4: choose 16" in capsys.readouterr().err
    assert run_command([*given, "--bits", "8"]) == 0
    assert "MB in" in capsys.readouterr().out
    assert json.loads((tmp_path / "packed" / "model_index.json").read_text())
