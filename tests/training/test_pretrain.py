"""The whole chain on tiny networks: autoencoder, diffusion, module; and stops in between."""

import csv

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_brains import write_prepared

from vcm.cli.segmentation import suggest
from vcm.config import load_config
from vcm.errors import VCMError
from vcm.imaging.conditions import as_condition
from vcm.imaging.prepared_set import load_prepared
from vcm.imaging.volume import Volume, read_volume, write_volume
from vcm.learning.run import TrainingRun
from vcm.segmentation.configuration import SliceTraining, Suggesting
from vcm.segmentation.pretrain import pretrain_slices
from vcm.training.autoencoder import draw_crops, pretrain_autoencoder
from vcm.training.configuration import (
    AutoencoderTraining,
    DiffusionTraining,
    ModuleTraining,
    SegmenterTraining,
)
from vcm.training.diffusion import pretrain_diffusion
from vcm.training.latents import draw_keep
from vcm.training.module import train
from vcm.training.segmenter import pretrain_segmenter
from vcm.weights.load import load_pipeline

# In float32: in bfloat16 convolutions of a few channels are not always the same, nor finite, in oneDNN.
BRIEF = ["steps=4", "checkpoint_every=1", "warmup_steps=1", "tracker=none", "mixed_precision=no"]
AUTOENCODER = ["channels=[8,16]", "latent_channels=4", "groups=2", "crop=24", *BRIEF]
DIFFUSION = ["channels=[8,8]", "head_channels=[0,8]", "groups=2", "copies=3", *BRIEF]
MODULE = [
    "conditions=[classes,ventricles]", "encoder_patch=8", "encoder_channels=[8]", "encoder_groups=2",
    "unet_wing=0", "unet_channels=[8,8]", "unet_head_channels=[8,8]", "unet_groups=2", "unet_out_channels=8",
    "head_channels=8", "draws=2", "copies=3", *BRIEF,
]  # fmt: skip


def autoencoder(small_prepared, out):
    overrides = [f"data=[{small_prepared}]", f"out={out}", *AUTOENCODER]
    return pretrain_autoencoder(load_config(AutoencoderTraining, None, overrides))


def test_a_stopped_run_goes_on_to_the_same_weights(small_prepared, tmp_path, monkeypatch):
    autoencoder(small_prepared, tmp_path / "whole")
    update = TrainingRun._update

    def stop_at_2(self, batch, place):
        if self.step == 2:
            raise KeyboardInterrupt
        return update(self, batch, place)

    monkeypatch.setattr(TrainingRun, "_update", stop_at_2)
    with pytest.raises(KeyboardInterrupt):
        autoencoder(small_prepared, tmp_path / "halves")
    monkeypatch.setattr(TrainingRun, "_update", update)
    autoencoder(small_prepared, tmp_path / "halves")
    name = "autoencoder/diffusion_pytorch_model.safetensors"
    whole, halves = (load_file(tmp_path / run / name) for run in ("whole", "halves"))
    assert whole.keys() == halves.keys()
    assert all(torch.equal(whole[k], halves[k]) for k in whole)
    losses = [
        [row["loss"] for row in csv.DictReader((tmp_path / run / "log.csv").open())]
        for run in ("whole", "halves")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_a_loss_that_is_not_finite_stops_with_a_sentence(small_prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(
        TrainingRun, "_learning_rate", lambda self: float("nan") if self.step == 1 else 1e-3
    )
    with pytest.raises(VCMError, match="lower learning_rate"):
        autoencoder(small_prepared, tmp_path / "run")


@pytest.mark.slow
def test_the_chain_gives_a_pipeline_that_takes_any_subset(small_prepared, tmp_path):
    data, cache = f"data=[{small_prepared}]", f"cache={tmp_path / 'latents'}"
    measured = autoencoder(small_prepared, tmp_path / "a")
    with (tmp_path / "a" / "test.tsv").open() as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    assert [row["subject"] for row in rows] == ["sub-3", "sub-4"]
    assert measured["psnr_brain"] == pytest.approx(np.mean([float(r["psnr_brain"]) for r in rows]))
    # Principal components alone halve the squared error of a brain of one grey (here 3.5 dB).
    (scan, *_) = load_prepared(small_prepared, split="test")
    values = scan.image()[scan.image() > 0]
    assert measured["psnr_brain"] > -20 * np.log10(values.std()) + 3

    given = [f"autoencoder={tmp_path / 'a' / 'autoencoder'}", f"out={tmp_path / 'd'}"]
    pretrain_diffusion(load_config(DiffusionTraining, None, [data, cache, *given, *DIFFUSION]))
    frozen = load_pipeline(tmp_path / "d" / "model")
    assert frozen.module is None and frozen.ranges["age"] == (30, 50)
    assert (tmp_path / "d" / "samples.png").is_file()

    given = [f"model={tmp_path / 'd' / 'model'}", f"out={tmp_path / 'm'}"]
    config = load_config(ModuleTraining, None, [data, cache, *given, *MODULE])
    measured = train(config)
    assert np.isfinite(list(measured.values())).all()
    # Latents of three training and two test scans, which both runs share, and class maps of the same.
    names = [path.name.split("_")[:2] for path in (tmp_path / "latents").iterdir()]
    assert sorted(names) == [
        [f"sub-{n}", kind] for n in range(5) for kind in ("classes", "latents")
    ]
    assert train(config) == measured

    pipeline = load_pipeline(tmp_path / "m" / "model")
    assert pipeline.config.conditions == ["classes", "ventricles"]
    frozen_weights = pipeline.denoiser.state_dict()
    assert all(torch.equal(frozen_weights[k], v) for k, v in frozen.denoiser.state_dict().items())
    classes = load_prepared(small_prepared, split="test")[0].classes()
    both = [torch.from_numpy(as_condition(n, classes))[None] for n in pipeline.config.conditions]
    options = {"num_inference_steps": 2, "output_type": "latent"}
    results = [
        pipeline(
            subset, torch.full((1, 4), 0.5), generator=torch.Generator().manual_seed(0), **options
        ).volumes
        for subset in (both, [both[0], None], [None, both[1]])
    ]
    assert all(torch.isfinite(r).all() for r in results)
    assert not torch.equal(results[0], results[1]) and not torch.equal(results[1], results[2])


def test_latent_drop_never_drops_everything_and_keeps_its_rate():
    keep = draw_keep(4000, 2, 0.5, np.random.default_rng(0))
    assert keep.any(1).all()
    # both kept 1/4, one of two 3/4: each is kept with 1/4 + 3/8
    assert keep.float().mean(0).tolist() == pytest.approx([0.625, 0.625], abs=0.03)


@pytest.fixture
def moved_prepared(small_prepared, tmp_path):
    """The same brains under other names, 10 mm beside their place, on as many voxels."""
    folder = write_prepared(tmp_path / "moved")
    table = (folder / "participants.tsv").read_text().replace("sub-", "sub-moved")
    (folder / "participants.tsv").write_text(table)
    beside = np.eye(4)
    beside[0, 3] = 10.0
    for path in sorted(folder.glob("sub-*/*.nii.gz")):
        scan = read_volume(path)
        name = path.name.replace("sub-", "sub-moved")
        data = np.roll(scan.data, 1, 0)
        write_volume(Volume(data, beside @ scan.affine), folder / name.partition("_")[0] / name)
    return folder


@pytest.mark.parametrize(
    ("train_on", "kind"),
    [
        (pretrain_autoencoder, AutoencoderTraining),
        (pretrain_segmenter, SegmenterTraining),
        (pretrain_slices, SliceTraining),
    ],
)
def test_folders_whose_brains_lie_elsewhere_are_not_learned_from_together(
    small_prepared, moved_prepared, tmp_path, train_on, kind
):
    """Where the shapes are the same, nothing else tells."""
    given = [f"data=[{small_prepared},{moved_prepared}]", f"out={tmp_path / 'run'}", *BRIEF]
    with pytest.raises(VCMError, match=r"lie on voxels .* and those of .*moved on"):
        train_on(load_config(kind, None, given))
    assert not (tmp_path / "run").exists()


def test_candidates_are_not_ranked_across_folders_of_another_grid(small_prepared, moved_prepared):
    with pytest.raises(VCMError, match=r"lie on voxels .* and those of .*moved on"):
        suggest(Suggesting(data=[str(small_prepared), str(moved_prepared)]))


def test_a_module_learns_from_no_folder_of_another_grid(
    small_prepared, moved_prepared, small_model, tmp_path
):
    given = [f"data=[{small_prepared},{moved_prepared}]", f"model={small_model}"]
    config = load_config(ModuleTraining, None, [*given, f"out={tmp_path / 'run'}", *MODULE])
    with pytest.raises(VCMError, match=r"sub-moved0_T1w\.nii\.gz was prepared on"):
        train(config)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["crop=20"], "a multiple of 8 up to 32"),
        (["crop=40"], "a multiple of 8 up to 32"),
        (["patch=16", "crop=0"], "do not fill them"),
        (["patch=0"], "patch is 0"),
        (["margin=-1"], "margin is -1"),
    ],
)
def test_crops_that_latents_do_not_fill_are_refused(small_prepared, tmp_path, given, sentence):
    overrides = [f"data=[{small_prepared}]", f"out={tmp_path / 'run'}", *AUTOENCODER, *given]
    with pytest.raises(VCMError, match=sentence):
        pretrain_autoencoder(load_config(AutoencoderTraining, None, overrides))


@pytest.mark.parametrize(("crop", "margin"), [(32, 6), (24, 6), (16, 6), (40, 100)])
def test_crops_lie_in_the_scan_whatever_the_margin(crop, margin):
    images = torch.arange(32.0).reshape(1, 1, 32, 1, 1).expand(1, 1, 32, 48, 40) + 1
    crop = min(crop, 32)
    first = [draw_crops(images, 8, crop, margin, np.random.default_rng(n)) for n in range(8)]
    found = torch.cat(first)
    assert found.shape == (64, 1, crop, crop, crop)
    least = min(margin, (32 - crop) // 2)
    assert found.min() == 1 + least and found.max() == 32 - least


@pytest.mark.parametrize(
    ("given", "sentence"),
    [("drop=30", "drop is 30, a share"), ("drop=-0.1", "drop is -0.1"), ("penalty=-1", "penalty")],
)
def test_a_share_in_percent_and_a_weight_below_0_are_refused(small_prepared, given, sentence):
    overrides = [f"data=[{small_prepared}]", "model=x", given]
    with pytest.raises(VCMError, match=sentence):
        train(load_config(ModuleTraining, None, overrides))


@pytest.mark.parametrize("given", ["masses=30", "deform=-1"])
def test_a_segmenter_learns_from_no_such_draws(small_prepared, tmp_path, given):
    overrides = [f"data=[{small_prepared}]", f"out={tmp_path / 'run'}", given, "contrasts=any"]
    with pytest.raises(VCMError, match=given.partition("=")[0]):
        pretrain_segmenter(load_config(SegmenterTraining, None, overrides))


def test_an_unknown_condition_is_refused(small_prepared, tmp_path):
    config = load_config(
        ModuleTraining, None, ["conditions=[skull]", f"data=[{small_prepared}]", "model=x"]
    )
    with pytest.raises(VCMError, match="classes, ventricles"):
        train(config)
