"""What `vcm train` offers beside training: conditions of images, validation, a forecast."""

import csv
import json

import numpy as np
import pytest
import torch
from command_line import vcm
from small_brains import brainldm_like, write_prepared
from torch.utils.data import DataLoader

from vcm.config import load_config
from vcm.errors import VCMError
from vcm.imaging.prepared_set import load_prepared
from vcm.learning.run import TrainingRun
from vcm.learning.schedule import TrainingSchedule
from vcm.training.batches import ModuleBatch
from vcm.training.configuration import ModuleTraining
from vcm.training.module import ModuleObjective, load_frozen, subjects_for, train
from vcm.weights.load import load_pipeline

SMALL = [
    "encoder_patch=8", "encoder_channels=[8]", "encoder_groups=2", "unet_wing=0", "unet_channels=[8,8]", "unet_head_channels=[8,8]",
    "unet_groups=2", "unet_out_channels=8", "head_channels=8", "draws=2", "copies=1",
    "steps=2", "checkpoint_every=1", "warmup_steps=1", "tracker=none", "mixed_precision=no",
]  # fmt: skip


@pytest.fixture
def given(small_prepared, small_model, tmp_path):
    cache = f"cache={tmp_path / 'latents'}"
    return [
        f"data=[{small_prepared}]",
        f"model={small_model}",
        f"out={tmp_path / 'run'}",
        cache,
        *SMALL,
    ]


@pytest.mark.slow
@pytest.mark.parametrize("names", ["partial", "thick", "classes,partial"])
def test_a_module_learns_from_images_and_samples(given, tmp_path, names):
    config = load_config(ModuleTraining, None, [*given, f"conditions=[{names}]"])
    assert np.isfinite(list(train(config).values())).all()
    pipeline = load_pipeline(tmp_path / "run" / "model")
    assert list(pipeline.config.conditions) == names.split(",")
    reads = {"classes": 8, "partial": 2, "thick": 2}
    volumes = [torch.rand(1, reads[n], 32, 48, 32) for n in names.split(",")]
    sampled = pipeline(
        volumes, torch.full((1, 4), 0.5), generator=torch.Generator().manual_seed(0),
        num_inference_steps=2, output_type="latent",
    ).volumes  # fmt: skip
    assert torch.isfinite(sampled).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "control",
    [
        "mcm",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("controlnet", "controlnet-lite", "t2i-adapter")
        ),
    ],
)
def test_every_method_starts_from_a_linear_reading_and_samples(given, tmp_path, control):
    extra = [f"control={control}", "embedding_channels=[4,4,8,8]", "learning_rate=0"]
    config = load_config(ModuleTraining, None, [*given, *extra, "final_learning_rate=0"])
    started = train(config)["steered"]
    # The frozen model is one of random weights; what a line tells of the latents is far better.
    config = load_config(
        ModuleTraining, None, [*given, *extra, "linear_prior=false", f"out={tmp_path / 'plain'}"]
    )
    assert started < 0.8 * train(config)["steered"]
    pipeline = load_pipeline(tmp_path / "run" / "model")
    assert type(pipeline.module).__name__ == "WithLinearPrior"
    sampled = pipeline(
        torch.rand(1, 8, 32, 48, 32), torch.full((1, 4), 0.5), num_inference_steps=2,
        generator=torch.Generator().manual_seed(0), output_type="latent",
    ).volumes  # fmt: skip
    assert torch.isfinite(sampled).all()


@pytest.mark.slow
def test_validation_is_fixed_leaves_the_training_alone_and_draws(given, tmp_path):
    extra = ["conditions=[classes]", "validation_subjects=1", "validate_every=1"]
    config = load_config(ModuleTraining, None, [*given, *extra, "segmenter=segmenter2mm"])
    train(config)
    run = tmp_path / "run"
    rows = list(csv.DictReader((run / "validation.csv").open()))
    assert [row["step"] for row in rows] == ["1", "2"]
    assert {"loss", "loss_1of5", "loss_5of5", "psnr", "dice"} < rows[0].keys()
    bins = [float(rows[0][f"loss_{n}of5"]) for n in range(1, 6)]
    assert float(rows[0]["loss"]) == pytest.approx(np.mean(bins), rel=1e-4)
    assert (run / "validation.png").is_file()
    best = json.loads((run / "best" / "best.json").read_text())
    assert best["step"] == int(min(rows, key=lambda row: float(row["loss"]))["step"])
    assert best["values"]["loss"] == pytest.approx(
        min(float(row["loss"]) for row in rows), rel=1e-5
    )
    held_out = subjects_for(config, load_frozen(config))
    assert len(held_out["validation"]) == 1 and len(held_out["train"]) == 2
    assert all(s.split == "train" for s in held_out["validation"])


def test_a_module_trains_on_a_dataloader_of_ones_own(small_model, tmp_path):
    pipeline = load_pipeline(small_model)
    random = np.random.default_rng(0)

    def sample():
        """One condition with two draws, as a dataset gives it: without the axis of the batch."""
        z, noise = torch.from_numpy(random.standard_normal((2, 2, 4, 4, 6, 4), dtype=np.float32))
        condition = torch.from_numpy(random.random((8, 32, 48, 32), dtype=np.float32))
        return ModuleBatch(
            condition, z, noise, torch.rand(2), torch.full((4,), 0.5), torch.tensor([True])
        )

    objective = ModuleObjective(
        pipeline.module, pipeline.denoiser, pipeline.autoencoder.channel_weight(), ["classes"]
    )
    schedule = TrainingSchedule(
        str(tmp_path / "run"), steps=3, batch_size=2, mixed_precision="no", tracker="none"
    )
    before = [p.detach().clone() for p in pipeline.module.parameters()]
    run = TrainingRun(schedule, pipeline.module, objective)
    run.fit(DataLoader([sample() for _ in range(4)], batch_size=2))
    assert run.step == 3
    changed = [
        not torch.equal(a, b) for a, b in zip(before, pipeline.module.parameters(), strict=True)
    ]
    assert any(changed)


@pytest.mark.slow
def test_what_suits_another_module_is_not_recommended(given, small_model, tmp_path):
    steered = load_pipeline(small_model)
    steered.register_to_config(sampling={"steps": 7, "scale": 1.4, "temperature": 0.65})
    steered.save_pretrained(tmp_path / "steered")
    more = [f"model={tmp_path / 'steered'}", "temperature=0.8"]
    train(load_config(ModuleTraining, None, [*given, *more]))
    made = load_pipeline(tmp_path / "run" / "model")
    assert (made.recommended_steps, made.recommended_scale) == (7, 1.0)
    own = steered.recommended_temperature(False)
    assert [made.recommended_temperature(acts) for acts in (True, False)] == [0.8, own]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_scan_without_a_map_is_named_before_training_begins(tmp_path, split):
    """Not when all is trained, where it is to be measured on: such a model is told no volumes, so none is left out."""
    prepared = write_prepared(tmp_path / "prepared")
    scan = load_prepared(prepared, split=split)[-1]
    scan.classes_file.unlink()
    brainldm_like().save_pretrained(tmp_path / "frozen")
    given = [f"data=[{prepared}]", f"model={tmp_path / 'frozen'}", f"out={tmp_path / 'run'}"]
    with pytest.raises(VCMError, match=f"{scan.subject} has no label map"):
        train(load_config(ModuleTraining, None, [*given, *SMALL]))
    assert not (tmp_path / "run").exists()


def test_a_dry_run_tells_the_plan_and_writes_nothing(given, tmp_path):
    found = vcm("train", *given, "max_samples=2", "--dry-run")
    assert found.exit_code == 0, found.error
    words = (
        "2 scans: sub-",
        "control  vcm",
        "M in the denoiser",
        "expected time",
        "expected memory",
    )
    assert all(word in found.output for word in words)
    assert not (tmp_path / "run").exists() and not (tmp_path / "latents").exists()


def test_a_name_that_is_no_configuration_is_refused():
    found = vcm("train", "brain2mm_clases")
    assert found.exit_code == 2
    assert "did you mean 'brain2mm_classes'" in found.error
