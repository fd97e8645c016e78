"""From Python as from the command line: what a user of diffusers and of torch expects to work."""

import inspect
import json
import sys
from dataclasses import replace
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
)
from small_brains import GRID, aligned_by_header, brain2mm_like, classes_of, image_of
from torch.utils.data import DataLoader

from vcm import VCMPipeline
from vcm.cli import main as cli
from vcm.embedded import embedded_folder
from vcm.errors import VCMError
from vcm.imaging.brain import align_brain
from vcm.imaging.degradation import simulate_thick
from vcm.imaging.geometry import resample
from vcm.imaging.volume import Grid, Volume, read_label_map, read_volume, write_volume
from vcm.nets.segmenter import TissueSegmenter
from vcm.nets.vcm import VolumetricConditioningModule
from vcm.pipeline import _checksum
from vcm.preparation.segment import segment
from vcm.upsampling.upsample import upsample

SMALL = Path(__file__).parent / "data" / "saved_before" / "model"
MIDDLE = torch.full((1, 4), 0.5)


def load(folder=SMALL, **options):
    pipeline = VCMPipeline.from_pretrained(folder, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def pipeline():
    return load()


@pytest.fixture(scope="module")
def condition():
    return (torch.rand(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1)) > 0.5).float()


def latents(pipeline, conditions=None, covariates=MIDDLE, **options):
    options = {"num_inference_steps": 4, "seed": 0, "output_type": "latent"} | options
    return pipeline(conditions, covariates, **options).volumes


# 1  Synthesize from a label map.


@pytest.fixture(scope="module")
def label_map(tmp_path_factory, head_map):
    affine = np.diag([-2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (95, -137, -89)
    grid = Grid((96, 120, 96), affine)
    moved = resample(Volume(*head_map), grid, np.eye(4), order=0).astype(np.int16)
    path = tmp_path_factory.mktemp("maps") / "head_dseg.nii.gz"
    write_volume(Volume(moved, affine), path)
    return path


@pytest.mark.slow
def test_a_map_in_one_line_is_the_command(tiny_model, label_map, tmp_path, monkeypatch):
    pipe = load(tiny_model)
    said = {"labels": "vcm8", "age": 70, "sex": "F", "num_inference_steps": 2}
    made = pipe(label_map, seed=[0, 3], **said)
    (path, _) = made.save(tmp_path / "python", model_grid=True)
    arguments = ["--labels", "vcm8", "--age", 70, "--sex", "F", "--seeds", "0,3", "--steps", 2]
    monkeypatch.setattr(
        sys, "argv",
        ["vcm", "synthesize", str(label_map), "--model", str(tiny_model), "--precision", "float32", "--model-grid",
         "--out", str(tmp_path / "command"), *map(str, arguments)],
    )  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    written = [{p.name for p in (tmp_path / n).iterdir()} for n in ("command", "python")]
    assert written[0] == written[1] and len(written[0]) == 8
    # Each page tells of its own folder.
    files = written[0] - {"report.html"}
    for name in files:
        ours, theirs = tmp_path / "python" / name, tmp_path / "command" / name
        if name.endswith(".json"):
            a, b = json.loads(ours.read_text()), json.loads(theirs.read_text())
            assert a.pop("Command") is None and b.pop("Command")[1] == "synthesize"
            for key in ("Partial", "PartialSHA256", "KnownSHA256"):
                assert b.pop(key) is None
            assert a == b
        else:
            assert ours.read_bytes() == theirs.read_bytes(), name
    assert np.allclose(read_volume(path).affine, read_volume(label_map).affine)
    # The same from a map in memory.
    again = pipe(read_label_map(label_map), seed=0, **said)
    assert torch.equal(again.volumes, made.volumes[:1])


def test_the_embedded_model_loads_by_its_name():
    pipe = load("brain2mm")
    folder = embedded_folder("brain2mm")
    assert pipe.volume_grid.shape == (80, 112, 80) and pipe.source == "brain2mm"
    assert pipe.file_checksums == json.loads((folder / "checksums.json").read_text())
    assert next(pipe.denoiser.parameters()).dtype == torch.float32


def test_what_is_not_said_is_typical_and_stands_in_the_record(pipeline, condition, tmp_path):
    made = pipeline(condition, num_volumes=2, seed=5, num_inference_steps=2)
    assert made.seeds == [5, 6]
    assert made.record["Inputs"]["age"] == {"value": 50.0, "source": "population"}
    assert made.record["Inputs"]["sex"]["source"] == "not given, taken as F"
    paths = made.save(tmp_path)
    assert [p.name for p in paths] == [
        "uncontrolled_desc-synthetic_seed-5_T1w.nii.gz",
        "uncontrolled_desc-synthetic_seed-6_T1w.nii.gz",
    ]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "seed 6" in page and "not given, taken as F" in page
    drawn = pipeline(condition, num_inference_steps=2)
    again = pipeline(condition, num_inference_steps=2, seed=drawn.seeds)
    assert torch.equal(again.volumes, drawn.volumes)


def test_volumes_of_another_map_are_not_replaced(pipeline, head_map, tmp_path):
    """All label maps of FreeSurfer have one name."""
    first = pipeline(None, num_inference_steps=1, seed=0)
    made = [
        replace(first, record=first.record | {"Condition": "aseg.nii.gz", "ConditionSHA256": sha})
        for sha in ("a", "b")
    ]
    (path,) = made[0].save(tmp_path)
    made[0].save(tmp_path)  # its own result
    before = path.read_bytes()
    with pytest.raises(VCMError, match="exists and was not made from the inputs given now"):
        made[1].save(tmp_path)
    assert path.read_bytes() == before
    made[1].save(tmp_path, overwrite=True)
    assert json.loads(path.with_name(path.name.replace("nii.gz", "json")).read_text())[
        "ConditionSHA256"
    ] == "b"  # fmt: skip


def test_one_seed_under_several_covariates_is_several_files(pipeline, condition, tmp_path):
    """The second volume replaced the first, and neither sidecar said what it was told."""
    told = torch.tensor([[0.0, 0.1, 0.5, 0.5], [0.0, 0.9, 0.5, 0.5]])
    made = pipeline(condition, told, seed=[3, 3], num_inference_steps=1)
    paths = made.save(tmp_path)
    assert [p.name for p in paths] == [
        f"uncontrolled_desc-synthetic_sample-{k}_T1w.nii.gz" for k in (0, 1)
    ]
    for k, path in enumerate(paths):
        record = json.loads(path.with_name(path.name.replace("nii.gz", "json")).read_text())
        assert record["Seed"] == 3
        assert record["Covariates"] == pytest.approx(told[k].tolist())


def test_volumes_of_another_tensor_are_not_replaced(pipeline, condition, tmp_path):
    given = {"seed": 0, "num_inference_steps": 1}
    (path,) = pipeline(condition, **given).save(tmp_path)
    before = path.read_bytes()
    for other in (1 - condition, None):
        with pytest.raises(VCMError, match="was not made from the inputs given now"):
            pipeline(other, **given).save(tmp_path)
    assert path.read_bytes() == before
    pipeline([condition], **given).save(tmp_path)  # its own


def test_maps_in_memory_are_told_apart(head_map):
    one = Volume(*head_map)
    sums = {_checksum(v) for v in (one, one.with_data(one.data * 2), Volume(one.data, np.eye(4)))}
    assert len(sums) == 3 and _checksum(one) in sums and _checksum(None) is None


# 2  Habits of diffusers.


def test_a_type_of_numbers_applies_to_denoiser_and_module(condition):
    for half in (load(torch_dtype=torch.bfloat16), load().to("cpu", torch.bfloat16)):
        assert half.denoiser.dtype == half.module.dtype == torch.bfloat16
        assert half.autoencoder.dtype == half.denoiser.alphas_cumprod.dtype == torch.float32
        with pytest.raises(VCMError, match=r"are in torch\.bfloat16, which not all"):
            half(condition, MIDDLE, num_inference_steps=1)
    plain = load()(condition, MIDDLE, num_inference_steps=2, seed=0).volumes
    again = half.to(torch.float32)(condition, MIDDLE, num_inference_steps=2, seed=0).volumes
    assert 0 < (again - plain).abs().mean() < 0.02


class Offload(ModelHook):
    """Notes which network is asked to come to the device, as the hooks of accelerate do."""

    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def pre_forward(self, module, *args, **options):
        self.calls.append(self.name)
        return args, options


def test_offloading_brings_each_network_before_it_works(pipeline, condition):
    calls = []
    for name in ("module", "denoiser", "autoencoder"):
        add_hook_to_module(getattr(pipeline, name), Offload(name, calls))
    pipeline(condition, MIDDLE, num_inference_steps=2, seed=0)
    assert calls == ["module", *["module", "denoiser"] * 2, "autoencoder"]
    calls.clear()
    pipeline.autoencoder.encode(torch.rand(1, 1, 16, 16, 16))
    assert calls == ["autoencoder"]
    assert pipeline.model_cpu_offload_seq == "denoiser->autoencoder"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_offloading_and_a_gpu_give_what_the_cpu_gives(condition):
    plain = load()(condition, MIDDLE, num_inference_steps=4, seed=0).volumes
    offloaded, half = load(), load(torch_dtype=torch.bfloat16)
    offloaded.enable_model_cpu_offload()
    for pipe, most in ((load().to("cuda"), 1e-2), (offloaded, 1e-2), (half.to("cuda"), 0.1)):
        made = pipe(condition, MIDDLE, num_inference_steps=4, seed=0).volumes
        assert (made.cpu() - plain).abs().mean() < most
    assert next(offloaded.denoiser.parameters()).device.type == "cpu"


@pytest.mark.slow
def test_a_compiled_denoiser_is_what_runs(pipeline, condition, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # comparing cannot be compiled
    compiled = []

    def backend(graph, _):
        compiled.append(1)
        return graph.forward

    plain = latents(pipeline, condition, num_inference_steps=1)
    pipeline.denoiser = torch.compile(pipeline.denoiser, backend=backend)
    made = latents(pipeline, condition, num_inference_steps=1)
    assert compiled
    # Another kernel convolves a single volume where nothing is compiled.
    torch.testing.assert_close(made, plain, rtol=1e-4, atol=1e-4)


def test_a_scheduler_that_asks_twice_keeps_the_window_of_the_module(pipeline, condition):
    pipeline.scheduler = HeunDiscreteScheduler.from_config(pipeline.scheduler.config)
    acted = []
    steer = pipeline.module.steer
    pipeline.module.steer = lambda frozen, z, t, *rest: (
        acted.append(int(t)) or steer(frozen, z, t, *rest)
    )
    latents(pipeline, condition, control_guidance_end=0.5)
    times = pipeline.scheduler.timesteps.tolist()
    assert len(times) == 7 and acted == [int(t) for t in times[:4]]
    acted.clear()
    latents(pipeline, condition)
    assert len(acted) == 7


@pytest.mark.parametrize("skip_prk_steps", [True, False])
def test_the_module_acts_in_every_prediction_of_a_scheduler_with_more_than_steps(
    pipeline, condition, skip_prk_steps, capsys
):
    own = pipeline.scheduler.config
    pipeline.scheduler = PNDMScheduler.from_config(own, skip_prk_steps=skip_prk_steps)
    acted = []
    steer = pipeline.module.steer
    pipeline.module.steer = lambda *given: acted.append(1) or steer(*given)
    pipeline.set_progress_bar_config(disable=False, mininterval=0)
    latents(pipeline, condition, num_inference_steps=5)
    asked = len(pipeline.scheduler.timesteps)
    assert len(acted) == asked > 5 and "5/5" in capsys.readouterr().err
    acted.clear()
    latents(pipeline, condition, num_inference_steps=5, control_guidance_start=0.6)
    assert 0 < len(acted) < asked / 2


@pytest.mark.parametrize("seed", [np.int64(3), np.arange(3, 4), (3,)])
def test_a_seed_may_come_from_numpy(pipeline, seed):
    assert torch.equal(latents(pipeline, seed=seed), latents(pipeline, seed=3))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"seed": 1.5}, "seed is 1.5: give a whole number"),
        ({"num_volumes": 0}, "num_volumes asks for 0 volumes: ask for at least 1"),
        ({"conditions": ["a.nii.gz", "b.nii.gz"]}, "conditions hold str: give the path of one"),
        ({"conditions": np.zeros((1, 1, 16, 16, 16))}, "conditions hold ndarray: give the path"),
        ({"covariates": torch.tensor([[1.0, 70, 30, 1200]])}, "hold 1200, but this model reads"),
        ({"covariates": None, "age": 50, "outside": "clip"}, "outside is 'clip': choose refuse"),
    ],
)
def test_what_a_call_cannot_use_is_refused(pipeline, given, sentence):
    with pytest.raises(VCMError, match=sentence):
        latents(pipeline, **given)


@pytest.mark.parametrize(
    ("scheduler", "reason"),
    [
        (DDIMScheduler(clip_sample=False), "another noise schedule"),
        (
            lambda own: DDIMScheduler.from_config(own, prediction_type="v_prediction"),
            "steps with v_prediction",
        ),
        (lambda own: DDIMScheduler.from_config(own, clip_sample=True), "clips what it predicts"),
        (FlowMatchEulerDiscreteScheduler(), "steps with flow"),
    ],
)
def test_a_scheduler_that_would_step_wrongly_is_refused(pipeline, scheduler, reason):
    own = pipeline.scheduler.config
    pipeline.scheduler = scheduler(own) if callable(scheduler) else scheduler
    with pytest.raises(VCMError, match=reason):
        latents(pipeline)


def test_the_bar_counts_the_steps_of_all_volumes(pipeline, capsys):
    pipeline.set_progress_bar_config(disable=False, mininterval=0)
    latents(pipeline, num_volumes=3)
    assert "12/12" in capsys.readouterr().err
    pipeline.scheduler = HeunDiscreteScheduler.from_config(pipeline.scheduler.config)
    latents(pipeline)
    assert "4/4" in capsys.readouterr().err


def test_a_hub_id_loads_from_the_cache_with_the_same_checks(pipeline, tmp_path):
    store = tmp_path / "models--lab--brains"
    snapshot = store / "snapshots" / ("0" * 40)
    pipeline.save_pretrained(snapshot)
    (store / "refs").mkdir()
    (store / "refs" / "main").write_text("0" * 40)
    cached = {"cache_dir": tmp_path, "local_files_only": True}
    pipe = load("lab/brains", **cached)
    torch.testing.assert_close(latents(pipe), latents(pipeline))
    assert pipe.source == "lab/brains"
    (snapshot / "module" / "config.json").write_text("{}")
    with pytest.raises(VCMError, match="is not what it was"):
        load("lab/brains", **cached)
    with pytest.raises(VCMError, match=r"neither embedded .* cannot be fetched from the hub"):
        load("lab/others", **cached)


def test_classes_of_others_are_not_loaded(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    (tmp_path / "checksums.json").unlink()
    index = tmp_path / "model_index.json"
    index.write_text(index.read_text().replace("vcm.nets.vcm", "antigravity"))
    with pytest.raises(VCMError, match=r"is a antigravity\.VolumetricConditioningModule"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"output_type": "npy"}, "output_type is 'npy': choose pt, np or latent"),
        ({"num_inference_steps": 0}, "0 steps"),
        ({"num_inference_steps": 1001}, "1001 steps"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"conditioning_scale": float("inf")}, "conditioning_scale is inf"),
        ({"control_guidance_start": 0.6, "control_guidance_end": 0.5}, "from 0.6 to 0.5"),
        ({"covariates": torch.full((1, 3), 0.5)}, r"covariates has shape \(1, 3\)"),
        ({"age": 50}, "covariates are given, and age"),
        ({"covariates": None, "age": 99}, "age is 99 years, outside"),
        ({"latents": torch.zeros(1, 2, 4, 4, 5), "seed": None}, "latents has shape"),
        ({"generator": torch.Generator()}, "seed is given, and generator"),
        ({"seed": [1, 2], "num_volumes": 3}, "disagree"),
        ({"covariates": torch.full((2, 4), 0.5), "num_volumes": 3}, "disagree"),
        ({"conditions": torch.ones(3, 1, 16, 16, 16), "num_volumes": 2}, "disagree"),
        ({"conditions": torch.ones(1, 1, 32, 16, 16)}, r"on its grid of \(16, 16, 16\)"),
        ({"features": torch.ones(2, 4, 4, 4, 4), "num_volumes": 3}, "disagree"),
    ],
)
def test_what_cannot_be_is_refused(pipeline, options, reason):
    with pytest.raises(VCMError, match=reason):
        latents(pipeline, **options)


def test_three_conditions_are_three_volumes(pipeline, condition):
    three = torch.cat([condition, 1 - condition, torch.zeros_like(condition)])
    made = latents(pipeline, three)
    assert len(made) == 3
    alone = latents(pipeline, three[2:], seed=2)
    torch.testing.assert_close(made[2:], alone, atol=1e-5, rtol=1e-5)


# 3  Train with one's own loop and loader, and keep the result.


def small_module(**options):
    torch.manual_seed(0)
    sizes = {
        "latent_channels": 2, "condition_channels": (1,), "encoder_channels": (4,),
        "encoder_res_blocks": 1, "encoder_groups": 2, "encoder_patch": 4, "encoder_halve": False,
        "unet_channels": (4, 4), "unet_res_blocks": 1, "unet_attention": (False, False),
        "unet_groups": 2, "unet_out_channels": 4, "head_channels": 4, "head_norm": "none",
    }  # fmt: skip
    return VolumetricConditioningModule(**(sizes | options))


def test_a_module_from_ones_own_loop_is_saved_with_its_frozen_model(pipeline, condition, tmp_path):
    module, frozen = small_module(), pipeline.denoiser.requires_grad_(False)
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    scans = DataLoader([(condition[0], torch.randn(2, 4, 4, 4)) for _ in range(4)], batch_size=2)
    losses = []
    for _ in range(6):
        for given, z in scans:
            noise, t = torch.ones_like(z), torch.full((len(z),), 500)
            z_t = frozen.add_noise(z, noise, t)
            features = module.encode([given])
            found = module(frozen, z_t, t, MIDDLE.expand(len(z), -1), features).prediction
            loss = (found - frozen.target(z, noise, t)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    steered = pipeline.with_module(module, conditions=["ventricles"])
    assert pipeline.module is not module, "the pipeline itself stays as it is"
    steered.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert again.module.config["_trained_on"]["digest"] == pipeline.record_frozen()
    steered.set_progress_bar_config(disable=True)
    torch.testing.assert_close(latents(again, condition), latents(steered, condition))


@pytest.mark.parametrize(
    ("conditions", "reason"),
    [
        (["classes"], r"\(8,\) channels, but the module's encoders read \(1,\)"),
        (["ventricles", "ventricles"], "name what each of them reads"),
        (["ventricle"], "'ventricle' is unknown: choose from"),
    ],
)
def test_conditions_that_the_module_does_not_read_are_refused(pipeline, conditions, reason):
    with pytest.raises(VCMError, match=reason):
        pipeline.with_module(small_module(), conditions=conditions)


# 4  The module alone.


@torch.inference_mode()
def test_calling_a_module_steers_with_its_linear_prior(pipeline, condition):
    module = VolumetricConditioningModule.from_pretrained(SMALL / "module").float().eval()
    assert module.prior is not None
    module.prior.mix.fill_(0.5)
    z_t, t = torch.randn(1, 2, 4, 4, 4), torch.tensor([400])
    features = module.encode([condition])
    assert torch.equal(features, module.encode(condition)), "one condition needs no list"
    called = module(pipeline.denoiser, z_t, t, MIDDLE, features)
    steered = module.steer(pipeline.denoiser, z_t, t, MIDDLE, features)
    assert torch.equal(called.prediction, steered.prediction)
    module.prior.mix.fill_(0)
    without = module(pipeline.denoiser, z_t, t, MIDDLE, features)
    assert (called.prediction - without.prediction).abs().max() > 1e-2


# 5  Prepare, name tissues and upsample what is in memory, without files or a command line.


@pytest.fixture(scope="module")
def thick_slices():
    """Axial slices of 8 mm through a small brain, in scanner units."""
    brain = Volume(700 * image_of(classes_of(1.0), 0) ** 2, GRID.affine)
    thick, _ = simulate_thick(brain, "axial", 8.0)
    return thick.with_data(np.where(thick.data > 20, thick.data, 0).astype(np.float32))


def test_a_scan_in_memory_is_upsampled(thick_slices, monkeypatch):
    aligned_by_header(monkeypatch)
    before = thick_slices.data.copy()
    result = upsample(thick_slices, brain2mm_like(reads=2), spacing=5.0, samples=2, steps=2)
    parts = [result.volume, result.generated]
    assert all(isinstance(part, Volume) for part in parts)
    assert result.volume.grid.shape == result.generated.grid.shape
    np.testing.assert_allclose(result.volume.grid.spacing, 5.0)
    low, high = np.percentile(thick_slices.data[before > 0], (25, 75))
    inside = result.volume.data[result.volume.data > 20]
    assert low < np.median(inside) < high, "in the units of the scan"
    np.testing.assert_array_equal(thick_slices.data, before)


def test_a_scan_in_memory_is_prepared_and_its_tissues_are_named(thick_slices, monkeypatch):
    aligned_by_header(monkeypatch)
    prepared = align_brain(thick_slices, thick_slices.data > 0, GRID)
    assert prepared.image.shape == GRID.shape
    assert prepared.image.min() == 0 and prepared.image.max() == 1
    found = segment(thick_slices, TissueSegmenter((2, 2, 2, 2), groups=1))
    assert isinstance(found, Volume) and found.data.dtype == np.uint8
    assert found.grid.shape == thick_slices.grid.shape and found.data.max() <= 8
    np.testing.assert_array_equal(found.affine, thick_slices.affine)


@pytest.mark.parametrize("function", [upsample, segment, align_brain, VCMPipeline.__call__])
def test_no_function_of_the_library_asks_for_a_command_line(function):
    assert not {"argv", "console", "config"} & set(inspect.signature(function).parameters)
