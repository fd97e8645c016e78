"""The models that travel with the package do what they are there for."""

import numpy as np
import pytest
import torch

from vcm import example_condition, load_pipeline
from vcm.embedded import FOR_MAE, embedded_models, model_folder, network_folder
from vcm.fewshot.methods.parents import load_parent
from vcm.imaging.conditions import CLASS_NAMES, as_condition
from vcm.imaging.covariates import expected_volumes, to_unit
from vcm.imaging.geometry import model_grid, resample
from vcm.imaging.placing import place_label_map
from vcm.imaging.registration import common_template
from vcm.imaging.views import VIEWS
from vcm.imaging.volume import Volume
from vcm.metrics import dice
from vcm.nets.slice_denoiser import SliceDenoiser
from vcm.segmentation.features import load_denoisers
from vcm.segmentation.pretrain import SliceObjective, SlicePool
from vcm.weights.segmenter import load_segmenter

STEPS = 8


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline("brain2mm")


@pytest.fixture(scope="module")
def example():
    return place_label_map(example_condition(), "auto", model_grid()).classes


def unit(pipeline, age):
    volumes = expected_volumes(0.0, age, pipeline.config.population["expected_volumes"])
    values = {"sex": 0.0, "age": age} | volumes
    return torch.tensor([to_unit(values, pipeline.ranges)])


def sample(pipeline, condition, age=45.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "num_inference_steps": STEPS}
    return pipeline(condition, unit(pipeline, age), **options).volumes


def test_all_weights_together_stay_small():
    assert embedded_models() == ["brain1mm", "brain2mm"]
    shelf = model_folder("brain2mm").parent
    assert sum(p.stat().st_size for p in shelf.rglob("*.safetensors")) < 90e6


@pytest.mark.slow
def test_a_sample_obeys_the_map_and_a_free_one_does_not(pipeline, example):
    segmenter = load_segmenter("segmenter2mm")
    condition = torch.from_numpy(as_condition("classes", example))[None]
    found = {}
    for name, given in (("steered", condition), ("free", None)):
        classes = segmenter.classes(sample(pipeline, given, seed=5))[0]
        found[name] = dice(classes, torch.from_numpy(example), len(CLASS_NAMES) - 1)
    white, grey, ventricles = (CLASS_NAMES.index(n) - 1 for n in CLASS_NAMES[1:4])
    for tissue in (white, grey, ventricles):
        assert found["steered"][tissue] > found["free"][tissue] + 0.05
        assert found["steered"][tissue] > 0.6


@pytest.mark.slow
def test_old_brains_have_larger_ventricles(pipeline):
    segmenter = load_segmenter("segmenter2mm")
    young, old = (
        sum(int((segmenter.classes(sample(pipeline, None, age, s)) == 3).sum()) for s in (0, 1))
        for age in (25.0, 75.0)
    )
    assert old > 1.3 * young


def test_the_slice_model_knows_slices_of_a_brain_that_it_never_saw():
    """v of the template's slices, far better than by a network of random weights."""
    (net,) = load_denoisers(network_folder("slices2mm"))
    torch.manual_seed(0)
    untrained = SliceDenoiser.from_config(net.config).eval()
    grid, template = model_grid(), common_template()
    image = resample(Volume(template.data, template.affine), grid, order=1).clip(0, 1)
    pool = SlicePool(image[None].astype(np.float16), VIEWS, 64, 8, 1.5)
    batch = pool.draw(np.random.default_rng(0))
    with torch.inference_mode():
        losses = [float(SliceObjective(n)(batch)["loss"]) for n in (net, untrained)]
    assert losses[0] < 0.4 * losses[1]


def test_the_embedded_encoder_says_what_it_saw():
    parent = load_parent(FOR_MAE)
    assert parent.network.local and len(parent.seen) == 133
    assert all(case.startswith("sub-IXI") for case in parent.known().values())
    found = parent.network.features(torch.rand(1, 1, 32, 32, 32))
    assert found.shape == (1, parent.network.feature_count) and found.isfinite().all()
