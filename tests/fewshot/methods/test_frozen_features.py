import json

import pytest
import torch

from vcm.errors import VCMError
from vcm.fewshot.cases.tasks import task_from
from vcm.fewshot.container.contracts import load_contract
from vcm.fewshot.container.package import prediction_modules, refuse_mismatch
from vcm.fewshot.methods.frozen_features import load_frozen
from vcm.fewshot.methods.model import FittedModel
from vcm.pipeline import VCMPipeline


@pytest.mark.parametrize(("feature", "count"), [("latents", 4 * 8), ("denoiser", 2 * 3 * 16)])
def test_features_are_of_the_scan_alone(tiny_model, feature, count):
    network, checksum = load_frozen(feature, tiny_model)
    again, same = load_frozen(feature, tiny_model)
    images = torch.rand(2, 1, 1, 80, 112, 80, generator=torch.manual_seed(0))
    with torch.inference_mode():
        first, second = (network.features(image) for image in images)
        assert torch.equal(again.features(images[0]), first)
    assert first.shape == (1, count) and network.feature_count == count
    assert not torch.allclose(first, second)
    assert checksum == same != load_frozen("latents" if count > 90 else "denoiser", tiny_model)[1]


def test_the_scan_is_mirrored_to_the_models_axes(tiny_model):
    network, _ = load_frozen("latents", tiny_model)
    image = torch.rand(1, 1, 80, 112, 80, generator=torch.manual_seed(0))
    with torch.inference_mode():
        assert VCMPipeline.from_pretrained(tiny_model).volume_grid.affine[0, 0] < 0
        assert torch.equal(network.latent(image), network.autoencoder.encode(image.flip(2))[0])


def test_a_container_does_not_hold_the_frozen_model():
    assert not [p for p in prediction_modules() if p.name in ("frozen_features.py", "pipeline.py")]
    task = task_from({"kind": "regression", "inputs": ["t1"]})
    settings = {"frozen": {"model": "brain2mm", "checksum": "x"}}
    model = FittedModel("latents", task, "linear", {}, "latents", settings)
    with pytest.raises(VCMError, match="looks through brain2mm"):
        refuse_mismatch(model, load_contract("fomo26:task3"))


def test_other_weights_than_those_fitted_with_are_refused(tiny_model):
    task = task_from({"kind": "regression", "inputs": ["t1"]})
    settings = json.loads(json.dumps({"frozen": {"model": str(tiny_model), "checksum": "x"}}))
    model = FittedModel("latents", task, "linear", {}, "latents", settings)
    with pytest.raises(VCMError, match="was fitted with other weights"):
        model._frozen("latents")
