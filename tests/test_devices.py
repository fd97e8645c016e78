"""Every command's computation on a device that is not the CPU: nothing is left where nobody moved it.

`cuda` where there is a GPU, elsewhere `other`, see tests/support/other_device.py.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from other_device import plugged_in
from safetensors.torch import load_file
from small_brains import (
    GRID,
    aligned_by_header,
    brain2mm_like,
    thick_model_with_detail,
    write_contrast_sources,
    write_files,
    write_prepared,
)

from vcm.config import load_config
from vcm.imaging.volume import read_volume
from vcm.learning.run_folder import ORIGIN

WEIGHTS = "diffusion_pytorch_model.safetensors"
BRIEF = [
    "steps=2", "checkpoint_every=1", "warmup_steps=1", "tracker=none", "mixed_precision=no",
]  # fmt: skip
AUTOENCODER = ["channels=[8,16]", "latent_channels=4", "groups=2", "crop=16", *BRIEF]
MODULE = [
    "encoder_patch=8", "encoder_channels=[8]", "encoder_groups=2", "unet_wing=0", "unet_channels=[8,8]", "unet_head_channels=[8,8]",
    "unet_groups=2", "unet_out_channels=8", "head_channels=8", "draws=1", "copies=2", "batch_size=1",
    *BRIEF,
]  # fmt: skip


@pytest.fixture(params=["other", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("there is no GPU")
        yield torch.device("cuda", 0)
    else:
        with plugged_in() as other:
            yield other


@pytest.fixture(scope="module")
def two_scans(tmp_path_factory):
    """One scan to train on and one to measure on."""
    return write_prepared(tmp_path_factory.mktemp("two"), ("train", "test"))


@pytest.fixture(scope="module")
def three_scans(tmp_path_factory):
    """Two scans to train on, of which one can be held out, and one to measure on."""
    return write_prepared(tmp_path_factory.mktemp("three"), ("train", "train", "test"))


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    """A small segmenter of random weights."""
    from vcm.nets.segmenter import TissueSegmenter

    folder = tmp_path_factory.mktemp("segmenter")
    TissueSegmenter((8, 8), 2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One brain: its scan, its label map, and thick slices of it."""
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def thick_model(tmp_path_factory):
    """Reads thick slices, and has a detail network."""
    return thick_model_with_detail(tmp_path_factory.mktemp("thick"))


@pytest.fixture(scope="module")
def slice_model(tmp_path_factory):
    """A slice diffusion model of random weights on the voxels of the small brains."""
    from vcm.nets.slice_denoiser import SliceDenoiser

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("slices")
    SliceDenoiser((8, 8, 8, 8), groups=4, head_channels=8).save_pretrained(folder)
    return folder


def learned_from(folder: Path) -> dict[str, list[str]]:
    """What a run compares where it resumes: keys of networks and names of scans."""
    known = json.loads((folder / ORIGIN).read_text())
    return {kind: sorted(known[kind]) for kind in ("networks", "scans")}


def finite(values) -> bool:
    return bool(values) and bool(np.isfinite(list(values.values())).all())


def test_a_tensor_left_on_the_cpu_is_found(device):
    net = torch.nn.Conv3d(1, 2, 3)
    net.to(device)
    with pytest.raises(
        RuntimeError, match=r"same device|should be the same|from the 'CUDA' backend"
    ):
        net(torch.zeros(1, 1, 4, 4, 4))
    with pytest.raises(RuntimeError, match=r"same device"):
        torch.stack([torch.zeros(3), torch.zeros(3, device=device)])
    assert net(torch.zeros(1, 1, 4, 4, 4, device=device)).device == device
    with pytest.raises((RuntimeError, TypeError)):
        net.weight.detach().numpy()


def test_the_other_device_gives_the_bits_of_the_cpu():
    torch.manual_seed(0)
    net, x = (
        torch.nn.Sequential(torch.nn.Conv3d(1, 4, 3), torch.nn.GELU()),
        torch.rand(1, 1, 5, 5, 5),
    )
    net(x).square().mean().backward()
    here = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    with plugged_in() as other:
        net.to(other)(x.to(other)).square().mean().backward()
        there = [p.grad.cpu() for p in net.parameters()]
    assert all(map(torch.equal, here, there))


def test_pretrain_autoencoder(device, two_scans, tmp_path):
    from vcm.training.autoencoder import pretrain_autoencoder
    from vcm.training.configuration import AutoencoderTraining

    given = [f"data=[{two_scans}]", f"out={tmp_path / 'run'}", *AUTOENCODER]
    config = load_config(AutoencoderTraining, None, given)
    measured = pretrain_autoencoder(config)
    assert finite(measured)
    # Everything that follows training, again.
    assert pretrain_autoencoder(config) == pytest.approx(measured)
    kept = load_file(tmp_path / "run" / "autoencoder" / WEIGHTS)
    assert float(kept["latent_mean"].abs().sum()) > 0


@pytest.mark.slow
def test_pretrain_diffusion(device, three_scans, tmp_path):
    from vcm.training.configuration import DiffusionTraining
    from vcm.training.diffusion import pretrain_diffusion

    brain2mm_like().autoencoder.save_pretrained(tmp_path / "autoencoder")
    given = [
        f"data=[{three_scans}]", f"autoencoder={tmp_path / 'autoencoder'}", f"out={tmp_path / 'run'}",
        f"cache={tmp_path / 'latents'}", "channels=[8,8]", "head_channels=[0,8]", "groups=2",
        "copies=2", *BRIEF,
    ]  # fmt: skip
    assert finite(pretrain_diffusion(load_config(DiffusionTraining, None, given)))
    assert (tmp_path / "run" / "samples.png").is_file()


def test_pretrain_segmenter(device, two_scans, tmp_path):
    from vcm.training.configuration import SegmenterTraining
    from vcm.training.segmenter import pretrain_segmenter

    given = [f"data=[{two_scans}]", f"out={tmp_path / 'run'}", "channels=[8,8]", *BRIEF]
    assert pretrain_segmenter(load_config(SegmenterTraining, None, given))
    assert (tmp_path / "run" / "test.tsv").is_file()


def test_pretrain_sequence_segmenter(device, three_scans, tmp_path):
    from vcm.training.configuration import SequenceSegmenterTraining
    from vcm.training.sequence_segmenter import pretrain_sequence_segmenter

    three_scans = shutil.copytree(three_scans, tmp_path / "scans")
    table = three_scans / "participants.tsv"
    table.write_text(table.read_text("utf-8").replace("test", "validation"), encoding="utf-8")
    given = [
        f"data=[{three_scans}]", f"out={tmp_path / 'run'}", "channels=[8,8]", "crop=8",
        "validate_every=2", "validation_brains=1", *BRIEF,
    ]  # fmt: skip
    measures = pretrain_sequence_segmenter(load_config(SequenceSegmenterTraining, None, given))
    assert measures.keys() >= {"error", "white matter"} and finite(measures)
    assert (tmp_path / "run" / "validation_brains.tsv").is_file()


@pytest.mark.slow
def test_train_with_a_validation(
    device, three_scans, small_model, segmenter, tmp_path, monkeypatch
):
    from vcm.training.configuration import ModuleTraining
    from vcm.training.forecast import describe
    from vcm.training.module import train

    given = [
        f"data=[{three_scans}]", f"model={small_model}", f"out={tmp_path / 'run'}",
        f"cache={tmp_path / 'latents'}", "validate_every=2", "validation_subjects=1",
        f"segmenter={segmenter}", *MODULE,
    ]  # fmt: skip
    config = load_config(ModuleTraining, None, given)
    monkeypatch.setattr("vcm.training.linear_start.MIXED", 5)
    assert "validations" in describe(config)
    assert finite(train(config))
    with (tmp_path / "run" / "validation.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row["step"] for row in rows] == ["2"] and 0 <= float(rows[0]["dice"]) <= 1


def test_latents_are_encoded_on_the_training_device(device, two_scans, tmp_path):
    from vcm.imaging.prepared_set import load_prepared
    from vcm.training.latents import LatentFiles

    net, seen = brain2mm_like().autoencoder.to(device), []
    encode = net.encode
    net.encode = lambda image: seen.append(image.device) or encode(image)
    LatentFiles(tmp_path, net, 2, 0).encode(load_prepared(two_scans))
    assert seen == [device] * 4


def test_sampling_obeys_a_condition(device):
    pipeline = brain2mm_like().to(device)
    pipeline.set_progress_bar_config(disable=True)
    condition = torch.zeros(1, 8, *GRID.shape)
    made = {
        name: pipeline(
            given, torch.full((1, 4), 0.5), num_inference_steps=2,
            generator=torch.Generator().manual_seed(0),
        ).volumes.cpu()
        for name, given in (("steered", [condition]), ("free", None))
    }  # fmt: skip
    assert made["steered"].shape == (1, 1, *GRID.shape)
    assert not torch.equal(made["steered"], made["free"])


@pytest.mark.slow
def test_evaluate(device, two_scans, small_model, segmenter, tmp_path):
    from vcm.evaluation.configuration import Evaluation
    from vcm.evaluation.evaluate import evaluate_files

    config = Evaluation(
        data=[str(two_scans)], model=str(small_model), segmenter=str(segmenter),
        out=str(tmp_path / "out"), steps=2, covariate_samples=1, device=str(device),
    )  # fmt: skip
    evaluate_files(config)
    assert (tmp_path / "out" / "summary.json").is_file()


def test_upsampling_asks_model_and_detail_network(device):
    from vcm.nets.detail import DetailNet
    from vcm.upsampling.detail.prior import encode_slices, expected_brain, sample_brain

    pipeline = brain2mm_like(reads=2).to(device)
    pipeline.set_progress_bar_config(disable=True)
    features = encode_slices(pipeline, np.zeros((2, *GRID.shape), np.float32))
    inputs = torch.full((1, 4), 0.5)
    expected = expected_brain(pipeline, features, inputs, "float32")
    sampled = sample_brain(pipeline, features, inputs, "float32", 0, 2, lambda done: None)
    assert expected.shape == sampled.shape == GRID.shape and not np.array_equal(expected, sampled)
    net = DetailNet((4, 4, 4, 4, 4, 4), 2, True).to(device)
    with torch.inference_mode():
        found = net.over_mirrors(torch.rand(1, 3, 32, 32, 32, device=device))
    assert found.image.device == device


def test_a_segmenter_labels_a_volume(device, segmenter):
    from vcm.weights.segmenter import load_segmenter, segment_on

    net = load_segmenter(str(segmenter)).to(device)
    classes = segment_on(net, np.full(GRID.shape, 0.5, np.float32), GRID)
    assert classes.shape == GRID.shape and classes.dtype == np.uint8


def test_synthesize(device, small_model, files, tmp_path, monkeypatch):
    from vcm.synthesis.configuration import Synthesis
    from vcm.synthesis.synthesize import synthesize_files

    aligned_by_header(monkeypatch)
    made = {}
    for where in ("cpu", str(device)):
        config = Synthesis(
            condition=files["labels"], labels="vcm8", out=tmp_path / where, model=str(small_model),
            seeds=[3], steps=2, device=where, model_grid=True,
        )  # fmt: skip
        (volume,) = synthesize_files(config)
        made[where] = read_volume(volume).data
    # Another kernel convolves one volume on the CPU itself: a step of the half precision of the file.
    close = 3e-4 if device.type == "other" else 0.05
    np.testing.assert_allclose(made[str(device)], made["cpu"], atol=close)


@pytest.mark.slow
@pytest.mark.parametrize("samples", [0, 2])
def test_upsample(device, thick_model, files, tmp_path, monkeypatch, samples):
    from vcm.upsampling.configuration import Upsampling
    from vcm.upsampling.upsample import upsample_files

    aligned_by_header(monkeypatch)
    made = {}
    for where in ("cpu", str(device)):
        config = Upsampling(
            scans=[files["thick"]], out=tmp_path / where, model=str(thick_model), spacing=5,
            samples=samples, steps=2, device=where, precision="float32",
        )  # fmt: skip
        made[where] = [read_volume(p).data for p in upsample_files(config) if p.suffix == ".gz"]
    assert len(made["cpu"]) == 3 + samples
    close = 1e-3 if device.type == "other" else 20
    for one, other in zip(made[str(device)], made["cpu"], strict=True):
        np.testing.assert_allclose(one, other, atol=close)


def test_pretrain_detail(device, thick_model, tmp_path, monkeypatch):
    from vcm.upsampling.configuration import DetailTraining
    from vcm.upsampling.pretraining.detail_training import pretrain_detail

    aligned_by_header(monkeypatch)
    scans = write_prepared(tmp_path / "scans", ("train", "test"))
    given = [
        f"data=[{scans}]", f"model={thick_model}", f"out={tmp_path / 'run'}", "labels=vcm8",
        f"pool={tmp_path / 'pool'}", "draws=1", "crop=16", "fold=1", "channels=[4,4,4,4,4,4]",
        "batch_size=1", *BRIEF,
    ]  # fmt: skip
    assert finite(pretrain_detail(load_config(DetailTraining, None, given)))
    assert learned_from(tmp_path / "run") == {"networks": ["model"], "scans": ["sub-0"]}


def test_pretrain_contrasts(device, tmp_path):
    from vcm.upsampling.configuration import ContrastTraining
    from vcm.upsampling.pretraining.contrast_training import pretrain_contrasts

    given = [
        *write_contrast_sources(tmp_path), f"out={tmp_path / 'run'}", "crop=32", "measured=1",
        "channels=[4,4,4,4,4,4]", *BRIEF,
    ]  # fmt: skip
    assert finite(pretrain_contrasts(load_config(ContrastTraining, None, given)))
    assert learned_from(tmp_path / "run") == {"networks": [], "scans": ["seg.nii.gz", "sub-1"]}


def test_pretrain_translator(device, prepared, tmp_path):
    from vcm.upsampling.configuration import TranslatorTraining
    from vcm.upsampling.pretraining.translation_training import pretrain_translator

    given = [
        f"data=[{prepared}]", f"out={tmp_path / 'run'}", "channels=[4,4,4,4,4,4]", "measured=0", *BRIEF,
    ]  # fmt: skip
    pretrain_translator(load_config(TranslatorTraining, None, given))
    assert (tmp_path / "run" / "model" / "config.json").is_file()
    assert learned_from(tmp_path / "run") == {"networks": [], "scans": ["sub-0", "sub-1", "sub-2"]}


def test_pretrain_slices(device, two_scans, tmp_path):
    from vcm.segmentation.configuration import SliceTraining
    from vcm.segmentation.pretrain import pretrain_slices

    given = [
        f"data=[{two_scans}]", f"out={tmp_path / 'run'}", "channels=[8,8]", "groups=4",
        "head_channels=8", "crop=16", "batch_size=4", *BRIEF,
    ]  # fmt: skip
    assert finite(pretrain_slices(load_config(SliceTraining, None, given)))
    assert learned_from(tmp_path / "run") == {"networks": [], "scans": ["sub-0"]}


def test_segment_tissues(device, segmenter, files, monkeypatch):
    from vcm.preparation.segment import segment
    from vcm.weights.segmenter import load_segmenter

    aligned_by_header(monkeypatch)
    scan = read_volume(files["scan"])
    here = segment(scan, load_segmenter(str(segmenter)))
    there = segment(scan, load_segmenter(str(segmenter)).to(device))
    assert there.data.shape == scan.data.shape and (there.data == here.data).mean() > 0.99


@pytest.mark.slow
@pytest.mark.parametrize(
    "voices", [["features", "atlas"], pytest.param(["unet"], marks=pytest.mark.slow)]
)
def test_segment_fit_and_apply(device, slice_model, files, tmp_path, monkeypatch, voices):
    from vcm.segmentation.apply import segment_files
    from vcm.segmentation.classifier_fit import FitSettings
    from vcm.segmentation.fit import fit_segmenter
    from vcm.segmentation.segmenter import FewShotSegmenter
    from vcm.segmentation.unet_fit import fit_unet

    aligned_by_header(monkeypatch)
    for module in ("fit", "apply"):
        monkeypatch.setattr(f"vcm.segmentation.{module}.model_grid", lambda spacing: GRID)
    brief = partial(fit_unet, steps=2)
    monkeypatch.setattr("vcm.segmentation.segmenter.fit_unet", brief)
    fit_segmenter(
        [files["scan"]], [files["labels"]], tmp_path / "model", slice_model, voices=voices,
        copies=1, voxels=2000, judged=1, settings=FitSettings(2, 5), device=device,
    )  # fmt: skip
    segmenter = FewShotSegmenter.from_pretrained(tmp_path / "model").to(device)
    (row,) = segment_files([files["scan"]], tmp_path / "model", segmenter, tmp_path / "out")
    assert row["status"] == "done"
