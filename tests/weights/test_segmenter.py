"""A segmenter sees the voxels of its training scans, whatever those of the volume are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vcm.imaging.geometry import model_grid
from vcm.nets.segmenter import TissueSegmenter
from vcm.weights.segmenter import (
    load_segmenter,
    record_training,
    seen_by,
    segment_on,
    segmenter_grid,
)


@pytest.fixture
def net(monkeypatch):
    """Calls class 2 what is brighter than 0.5, and notes what it saw."""
    made = TissueSegmenter((8, 8), 2)
    made.seen = []

    def classes(image):
        made.seen.append(tuple(image.shape[2:]))
        return (2 * (image[:, 0] > 0.5)).to(torch.uint8)

    monkeypatch.setattr(made, "classes", classes)
    return made


def ball(grid):
    """A bright ball of 40 mm about the middle of the field of view."""
    voxels = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    place = voxels @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return np.where(np.linalg.norm(place - grid.centre, axis=-1) < 40, 0.8, 0.1).astype(np.float32)


@pytest.mark.parametrize("spacing", [1.0, 2.0])
def test_a_volume_of_any_spacing_is_seen_at_2_mm_and_labelled_on_its_own_voxels(net, spacing):
    grid = model_grid(spacing)
    classes = segment_on(net, ball(grid), grid)
    assert net.seen == [(80, 112, 80)] and classes.shape == grid.shape
    millilitres = (classes == 2).sum() * grid.voxel_volume
    assert millilitres == pytest.approx(4 / 3 * np.pi * 40**3 / 1000, rel=0.03)


def test_what_lies_on_its_own_voxels_is_seen_as_it_is(net):
    image = np.random.default_rng(0).random(model_grid().shape, dtype=np.float32)
    assert np.array_equal(seen_by(net, image, model_grid())[0, 0].numpy(), image)


def test_a_segmenter_remembers_its_spacing(tmp_path):
    net = TissueSegmenter((8, 8), 2)
    assert segmenter_grid(net).spacing == pytest.approx((2, 2, 2))
    record_training(net, model_grid(1.0), "t1w")
    net.save_pretrained(tmp_path)
    assert segmenter_grid(load_segmenter(str(tmp_path))).shape == model_grid(1.0).shape
