"""Encoded scans: one file per scan and kind, named by what it was made of."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_brains import GRID, LATENT, brain2mm_like, classes_of, image_of

from vcm.errors import VCMError
from vcm.imaging.prepared_set import load_prepared
from vcm.imaging.volume import Volume, write_volume
from vcm.training.latents import LatentFiles, Motion, MotionRanges, draw_motion

CONDITIONS = ("classes", "thick")


@pytest.fixture
def data(small_prepared, tmp_path):
    return shutil.copytree(small_prepared, tmp_path / "data")


@pytest.fixture(scope="module")
def pipeline():
    return brain2mm_like()


def files_of(folder, pipeline, copies=3, seed=0, conditions=CONDITIONS, **options):
    return LatentFiles(folder, pipeline.autoencoder, copies, seed, conditions, **options)


def state(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_set_holds_what_encoding_gives(data, tmp_path, pipeline):
    subjects = load_prepared(data, split="train")[:2]
    files = files_of(tmp_path / "cache", pipeline)
    files.encode(subjects)
    latents = files.read(subjects, pipeline.input_rule, GRID)
    assert len(latents) == 6 and latents.latent_shape == (4, *LATENT)
    for index in range(2):  # the second scan and its mirror
        image = torch.from_numpy(subjects[1].image())
        image = image.flip(0) if index else image
        with torch.inference_mode():
            mu, sigma = pipeline.autoencoder.encode(image[None, None])
        found = latents.posterior(3 + index)
        assert torch.equal(found[0], mu[0].half().float())
        assert torch.equal(found[1], sigma[0].half().float())
    own = latents.volume(0, 3, np.random.default_rng(0))
    assert np.array_equal(own.argmax(0) + 1, np.maximum(subjects[1].classes(), 1))
    assert latents.volumes(0, np.random.default_rng(0)).shape == (8 + 2, *GRID.shape)
    # A moved copy is told the volumes that it has.
    told = latents.inputs[3:, 3] - latents.inputs[3, 3]
    assert told[1] == 0 and told[2] != 0


def test_a_batch_is_what_its_documentation_says(data, tmp_path, pipeline):
    subjects = load_prepared(data, split="train")
    files = files_of(tmp_path / "cache", pipeline)
    files.encode(subjects)
    latents = files.read(subjects, pipeline.input_rule, GRID)
    batch = latents.draw_conditioned(2, 3, 0.5, np.random.default_rng(1))
    assert batch.conditions.shape == (2, 10, *GRID.shape)
    assert batch.z.shape == batch.noise.shape == (2, 3, 4, *LATENT)
    assert batch.time.shape == (2, 3) and 0 <= batch.time.min() <= batch.time.max() <= 1
    assert batch.inputs.shape == (2, 4) and batch.keep.shape == (2, 2) and batch.keep.any(1).all()
    again = latents.draw_conditioned(2, 3, 0.5, np.random.default_rng(1))
    assert all(map(torch.equal, batch, again))


def test_a_new_scan_costs_its_own_encoding_alone(data, tmp_path, pipeline):
    subjects, cache = load_prepared(data), tmp_path / "cache"
    files_of(cache, pipeline).encode(subjects[1:])
    before = state(cache)
    files_of(cache, pipeline).encode(subjects)  # the new one comes first
    after = state(cache)
    assert before.items() < after.items()
    assert {name.split("_")[0] for name in after.keys() - before.keys()} == {"sub-0"}


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        ("scan", ["classes", "images", "latents"]),
        ("map", ["classes"]),
        ("seed", ["classes", "images", "latents"]),
        ("ranges", ["classes", "images", "latents"]),
        ("weights", ["latents"]),
    ],
)
def test_what_a_file_was_made_of_is_in_its_name(data, tmp_path, change, kinds):
    pipeline, cache, options = brain2mm_like(), tmp_path / "cache", {}
    (subject, *_) = load_prepared(data, split="train")
    files_of(cache, pipeline).encode([subject])
    before = state(cache)
    if change == "scan":
        write_volume(Volume(image_of(classes_of(0.9), 7), GRID.affine), subject.image_file)
    if change == "map":
        write_volume(Volume(classes_of(0.9), GRID.affine), subject.classes_file)
    if change == "weights":
        with torch.no_grad():
            pipeline.autoencoder.analysis.bias.add_(0.1)
    options |= {"seed": {"seed": 1}, "ranges": {"ranges": MotionRanges(shift=1.0)}}.get(change, {})
    files_of(cache, pipeline, **options).encode([subject])
    new = sorted(name.split("_")[1] for name in state(cache).keys() - before.keys())
    assert new == kinds


def test_settings_of_motions_change_nothing_where_nothing_moves(data, tmp_path, pipeline):
    subjects, cache = load_prepared(data, split="test"), tmp_path / "cache"
    files_of(cache, pipeline, copies=1).encode(subjects)
    before = state(cache)
    files_of(cache, pipeline, copies=1, seed=5, ranges=MotionRanges(0.1)).encode(subjects)
    assert state(cache) == before


def test_files_of_an_older_layout_are_left_alone(data, tmp_path, pipeline):
    subjects, cache = load_prepared(data, split="test"), tmp_path / "cache"
    cache.mkdir()
    (cache / "latents-0123456789abcdef0123.safetensors").write_bytes(b"older")
    files = files_of(cache, pipeline)
    files.encode(subjects)
    assert len(files.read(subjects, pipeline.input_rule, GRID)) == 6
    assert (cache / "latents-0123456789abcdef0123.safetensors").read_bytes() == b"older"


def test_a_scan_without_the_map_that_a_condition_needs_is_named(data, tmp_path, pipeline):
    subject = load_prepared(data, split="test")[0]
    subject.classes_file.unlink()
    with pytest.raises(VCMError, match=r"sub-3 has no label map"):
        files_of(tmp_path / "cache", pipeline).encode([subject])
    files_of(tmp_path / "cache", pipeline, conditions=()).encode([subject])


def test_motions_stay_within_their_ranges_and_reach_them():
    ranges = MotionRanges(0.2, 3.0, 0.1)
    motions = [draw_motion(np.random.default_rng(n), ranges) for n in range(400)]
    assert 0.4 < np.mean([m.mirror for m in motions]) < 0.6
    for values, middle, reach in (
        ([m.rotation for m in motions], 0, 0.2), ([m.shift for m in motions], 0, 3.0),
        ([m.scale for m in motions], 1, 0.1),
    ):  # fmt: skip
        far = np.abs(np.array(values) - middle)
        assert far.max() <= reach and far.max() > 0.95 * reach


def test_a_motion_does_what_its_numbers_say():
    values = torch.zeros(1, 9, 9, 9)
    values[0, 4, 4, 4] = 1
    assert Motion(shift=(2.0, 0, -1.0)).move(values, "nearest").argmax() in (
        np.ravel_multi_index((4 + a * 2, 4, 4 - a), (9, 9, 9)) for a in (1, -1)
    )  # MONAI moves the grid; one direction for both axes
    block = torch.zeros(1, 33, 33, 33)
    block[0, 10:23, 10:23, 10:23] = 1
    grown = replace(Motion(), scale=(1.3, 1.0, 1.0))
    moved = grown.move(block, "bilinear")
    assert float(moved.sum() / block.sum()) == pytest.approx(grown.volume_factor, rel=0.05)
