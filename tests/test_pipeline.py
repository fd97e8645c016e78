import copy
import json
import subprocess
import sys

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

from vcm import VCMPipeline
from vcm.diffusion.sampling import make_scheduler
from vcm.errors import VCMError
from vcm.nets.detail import DetailNet
from vcm.nets.super_resolution import SuperResolutionNet
from vcm.weights.load import load_pipeline

MIDDLE = torch.full((1, 4), 0.5)


@pytest.fixture(scope="module")
def pipeline(tiny_model):
    return load_pipeline(tiny_model)


@pytest.fixture(scope="module")
def condition():
    numbers = torch.randint(0, 8, (1, 1, 80, 112, 80), generator=torch.Generator().manual_seed(5))
    return torch.cat([(numbers == n).float() for n in range(8)], 1)


def seeds(*numbers):
    return [torch.Generator().manual_seed(n) for n in numbers]


def latents(pipeline, conditions, generator, **options):
    options = {"num_inference_steps": 3, "output_type": "latent"} | options
    return pipeline(conditions, MIDDLE, generator=generator, **options).volumes


def test_a_sample_is_the_same_alone_and_among_others(pipeline, condition):
    together = latents(pipeline, condition, seeds(3, 4))
    assert torch.equal(together[1:], latents(pipeline, condition, seeds(4)))
    assert not torch.equal(together[0], together[1])


def kernels(net):
    return [part.weight for part in net.modules() if isinstance(part, torch.nn.Conv3d)]


def test_the_detail_network_keeps_its_channels_last_and_says_the_same(pipeline, tmp_path):
    """In a pipeline that is made, saved and loaded again."""
    torch.manual_seed(0)
    plain = DetailNet((4, 4, 4, 4, 4, 4))
    torch.nn.init.normal_(plain.head.weight, std=0.1)
    read = torch.rand(1, 3, 32, 34, 36)
    with torch.inference_mode():
        expected = plain(read)
        parts = {**pipeline.components, "detail": copy.deepcopy(plain)}
        made = VCMPipeline(**parts, grid=pipeline.config.grid)
        made.save_pretrained(tmp_path)
        for one in (made, VCMPipeline.from_pretrained(tmp_path)):
            assert all(
                w.is_contiguous(memory_format=torch.channels_last_3d) for w in kernels(one.detail)
            )
            torch.testing.assert_close(one.detail(read), expected, atol=1e-5, rtol=0)
    assert not kernels(plain)[0].is_contiguous(memory_format=torch.channels_last_3d)


def test_a_saved_pipeline_computes_the_same(pipeline, condition, tmp_path):
    pipeline.save_pretrained(tmp_path)
    again = load_pipeline(tmp_path)
    assert again.config.conditions == ["classes"]
    assert again.ranges == pipeline.ranges
    before, after = (latents(p, condition, seeds(0)) for p in (pipeline, again))
    assert torch.equal(before, after)


@pytest.mark.slow
def test_a_new_process_loads_it_and_samples_the_same(pipeline, condition, tiny_model, tmp_path):
    """diffusers loads classes only from modules that were imported: a fresh process has none."""
    script = """
import sys, torch
from vcm import VCMPipeline
pipeline = VCMPipeline.from_pretrained(sys.argv[1])
result = pipeline(
    torch.load(sys.argv[2], weights_only=True), torch.full((1, 4), 0.5), num_inference_steps=3,
    generator=torch.Generator().manual_seed(4), output_type="latent",
)
torch.save(result.volumes, sys.argv[3])
"""
    torch.save(condition, tmp_path / "condition.pt")
    paths = [str(p) for p in (tiny_model, tmp_path / "condition.pt", tmp_path / "latent.pt")]
    subprocess.run([sys.executable, "-c", script, *paths], check=True)
    found = torch.load(tmp_path / "latent.pt", weights_only=True)
    assert torch.equal(found, latents(pipeline, condition, seeds(3, 4))[1:])


@pytest.mark.parametrize(
    "off",
    [{"conditioning_scale": 0.0}, {"control_guidance_end": 0.0}, {"control_guidance_start": 1.0}],
)
def test_a_module_that_does_not_act_leaves_the_frozen_model(pipeline, condition, off):
    frozen = latents(pipeline, None, seeds(0))
    torch.testing.assert_close(latents(pipeline, condition, seeds(0), **off), frozen)
    assert not torch.allclose(latents(pipeline, condition, seeds(0)), frozen, atol=1e-3)


def test_the_window_of_the_module_is_in_fractions_of_the_steps(pipeline, condition, monkeypatch):
    acted = []
    steer = type(pipeline.module).steer
    monkeypatch.setattr(
        type(pipeline.module), "steer",
        lambda self, frozen, z, t, *rest: acted.append(int(t)) or steer(self, frozen, z, t, *rest),
    )  # fmt: skip
    window = {"control_guidance_start": 0.25, "control_guidance_end": 0.75}
    latents(pipeline, condition, seeds(0), num_inference_steps=4, **window)
    assert acted == pipeline.scheduler.timesteps.tolist()[1:3]


def test_the_condition_is_encoded_once(pipeline, condition, monkeypatch):
    calls = []
    encode = type(pipeline.module).encode
    monkeypatch.setattr(
        type(pipeline.module),
        "encode",
        lambda self, *given: calls.append(1) or encode(self, *given),
    )
    latents(pipeline, condition, seeds(0, 1))
    assert len(calls) == 1


def test_latents_given_are_the_noise_to_begin_with(pipeline, condition):
    noise = torch.randn((1, *pipeline.latent_shape), generator=seeds(7)[0])
    drawn = latents(pipeline, condition, seeds(7))
    assert torch.equal(latents(pipeline, condition, None, latents=noise), drawn)


def test_temperature_scales_the_noise_to_begin_with(pipeline):
    noise = torch.randn((1, *pipeline.latent_shape), generator=seeds(7)[0])
    halved = latents(pipeline, None, None, latents=noise / 2)
    assert torch.equal(latents(pipeline, None, seeds(7), temperature=0.5), halved)


def test_the_callback_sees_every_step_and_may_replace_the_latents(pipeline):
    seen = []

    def at_end(_, i, t, given):
        seen.append((i, int(t)))
        return {"latents": torch.zeros_like(given["latents"])} if i == 2 else {}

    result = latents(pipeline, None, seeds(0), callback_on_step_end=at_end)
    assert [i for i, _ in seen] == [0, 1, 2]
    assert not result.any()


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpm++", "dpm++-karras", "unipc", "euler"])
def test_every_scheduler_gives_finite_volumes_in_0_to_1(tiny_model, condition, name):
    own = load_pipeline(tiny_model)
    own.scheduler = make_scheduler(name)
    volumes = own(
        condition, MIDDLE, generator=seeds(0), num_inference_steps=3, output_type="np"
    ).volumes
    assert volumes.shape == (1, 1, 80, 112, 80)
    assert 0 <= volumes.min() < volumes.max() <= 1


def test_numbers_that_disagree_are_refused(pipeline):
    with pytest.raises(VCMError, match="disagree"):
        latents(pipeline, None, seeds(0, 1), num_volumes=3)


def test_an_unknown_model_names_the_embedded_ones(tmp_path):
    with pytest.raises(VCMError, match="neither embedded"):
        load_pipeline(tmp_path)


def test_features_encoded_once_give_the_same_volume(pipeline, condition):
    plain = latents(pipeline, condition, seeds(0))
    kept = pipeline.encode(condition)
    assert torch.equal(latents(pipeline, None, seeds(0), features=kept), plain)
    assert not torch.equal(latents(pipeline, None, seeds(0)), plain)


def test_bfloat16_is_near_float32_and_returns_float32(pipeline, condition):
    plain = latents(pipeline, condition, seeds(0))
    half = latents(pipeline, condition, seeds(0), precision="bfloat16")
    assert half.dtype == torch.float32
    difference = (half - plain).abs().max()
    assert 0 < difference < 0.1 * plain.abs().max()


def test_a_model_samples_as_it_recommends_and_is_saved_as_it_was(tmp_path):
    pipeline = VCMPipeline.from_pretrained("brain2mm")
    assert isinstance(pipeline.scheduler, DPMSolverMultistepScheduler)
    assert pipeline.scheduler.config.use_karras_sigmas
    again = pipeline.with_module(pipeline.module, pipeline.config.conditions)
    assert again.scheduler is pipeline.scheduler
    again.save_pretrained(tmp_path / "model")
    index = json.loads((tmp_path / "model" / "model_index.json").read_text())
    assert index["scheduler"][1] == "DDIMScheduler"
    pipeline.use_scheduler("saved")
    assert isinstance(pipeline.scheduler, DDIMScheduler)
    pipeline.use_scheduler("auto")
    assert isinstance(pipeline.scheduler, DPMSolverMultistepScheduler)


def test_what_a_model_recommends_of_its_module_is_for_where_it_acts(tiny_model, condition):
    own = load_pipeline(tiny_model)
    sampling = {"scale": 1.5, "temperature": 0.5, "temperature_finer": 0.3}
    own.register_to_config(sampling=sampling, temperature=0.9)
    assert [own.recommended_temperature(*acts) for acts in ((True, True), (False, True))] == [
        0.3,
        0.9,
    ]
    said = {"conditioning_scale": 1.5, "temperature": 0.5}
    assert torch.equal(latents(own, condition, seeds(7)), latents(own, condition, seeds(7), **said))
    for given, silent in ((None, {}), (condition, {"conditioning_scale": 0.0})):
        assert torch.equal(
            latents(own, given, seeds(7), **silent), latents(own, None, seeds(7), temperature=0.9)
        )
    other = own.with_module(own.module, ["classes"])
    assert (other.recommended_scale, other.recommended_temperature(True)) == (1.0, 0.9)


def test_a_model_that_cannot_halve_its_voxels_says_so(pipeline):
    assert pipeline.halved is None
    with pytest.raises(VCMError, match="no network that halves"):
        pipeline.halve_voxels(torch.zeros(4, 4, 4).numpy())


def test_the_network_that_halves_voxels_is_saved_and_goes_with_every_module(pipeline, tmp_path):
    torch.manual_seed(0)
    net = SuperResolutionNet((4, 4), (1, 1))
    torch.nn.init.normal_(net.detail.write.weight, std=0.1)
    made = VCMPipeline(
        **{**pipeline.components, "super_resolution": net},
        grid=pipeline.config.grid, conditions=["classes"],
    )  # fmt: skip
    image = torch.rand(8, 12, 8).numpy()
    image[:4] = 0
    found = made.halve_voxels(image)
    assert found.shape == (16, 24, 16)
    assert 0 <= found.min() < found.max() <= 1
    # Nothing appears far from what there is.
    assert not found[:6].any()
    made.save_pretrained(tmp_path)
    for other in (load_pipeline(tmp_path), made.with_module(made.module, ["classes"])):
        assert (other.halve_voxels(image) == found).all()


def test_a_network_that_makes_voxels_of_another_size_is_refused(pipeline):
    parts = {**pipeline.components, "super_resolution": SuperResolutionNet((4, 4), (1, 1), 3.0)}
    with pytest.raises(VCMError, match="makes voxels of 3 mm, and half of this model's are 1 mm"):
        VCMPipeline(**parts, grid=pipeline.config.grid)
