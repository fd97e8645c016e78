"""Folders that earlier versions saved still load, and compute what they computed then.

tests/data/saved_before was written, in half precision, by version 0.1.0 before models carried checksums: a
pipeline, four control methods beside it, and in expected.safetensors what that version made of them.
"""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vcm.errors import VCMError
from vcm.nets.controlnet import ControlNetLite, ControlNetModule
from vcm.nets.t2i_adapter import T2IAdapter
from vcm.nets.with_linear_prior import WithLinearPrior
from vcm.weights.load import load_pipeline
from vcm.weights.verifying import verify

SAVED = Path(__file__).parents[1] / "data" / "saved_before"
INPUTS = torch.tensor([[0.0, 0.25, 0.5, 0.75]])
KINDS = {
    "mcm-prior": WithLinearPrior,
    "controlnet": ControlNetModule,
    "controlnet-lite": ControlNetLite,
    "t2i-adapter": T2IAdapter,
}


@pytest.fixture(scope="module")
def expected():
    return load_file(SAVED / "expected.safetensors")


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline(SAVED / "model")


@pytest.fixture(scope="module")
def condition():
    return (torch.arange(16**3).reshape(1, 1, 16, 16, 16) % 7 == 0).float()


def test_a_pipeline_samples_the_same(pipeline, condition, expected):
    assert pipeline.config.conditions == ["ventricles"] and not pipeline.file_checksums
    made = pipeline(
        condition, INPUTS, num_inference_steps=3, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(made.volumes, expected["volume"], rtol=0, atol=1e-6)
    assert verify(SAVED / "model")[-1].found == "saved without checksums"


@torch.inference_mode()
@pytest.mark.parametrize("name", ["vcm", *KINDS])
def test_a_control_method_steers_the_same(name, pipeline, condition, expected):
    control = pipeline.module
    if name != "vcm":
        control = KINDS[name].from_pretrained(SAVED / name).float().eval()
    z_t = torch.sin(torch.arange(2 * 64.0)).reshape(1, 2, 4, 4, 4)
    found = control(
        pipeline.denoiser, z_t, torch.tensor([400]), INPUTS, control.encode([condition])
    )
    torch.testing.assert_close(found.prediction, expected[name], rtol=0, atol=1e-6)


def test_saved_again_it_carries_checksums_and_a_changed_byte_is_found(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "model")
    again = load_pipeline(tmp_path / "model")
    assert "module/diffusion_pytorch_model.safetensors" in again.file_checksums
    tensors = tmp_path / "model" / "module" / "diffusion_pytorch_model.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    with pytest.raises(VCMError, match=r"module.*is not what it was when the model was saved"):
        load_pipeline(tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "scheduler")
    with pytest.raises(VCMError, match="copy the model again"):
        load_pipeline(tmp_path / "model")
