"""The third voice: a U-Net in a box around the labelled structures."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from vcm.segmentation.segmenter import FewShotSegmenter
from vcm.segmentation.unet_fit import MARGIN, box_around, fit_unet

CPU = torch.device("cpu")


@pytest.fixture
def wide(phantom):
    """The phantom in a grid with room in front of it and behind."""
    brain = phantom()
    image, labels = (np.pad(a, ((0, 0), (24, 24), (0, 0))) for a in (brain.image, brain.labels))
    return replace(brain, image=image, labels=labels)


def test_the_box_holds_every_structure_with_a_margin(wide):
    moved = replace(wide, labels=np.roll(wide.labels, 9, axis=1))
    for brains in ([wide], [wide, moved]):
        low, high = box_around(brains, 8).T
        assert ((high - low) % 8 == 0).all()
        assert (low >= 0).all() and (high <= wide.image.shape).all()
        places = np.concatenate([np.argwhere(brain.labels > 0) for brain in brains])
        assert (low <= np.maximum(places.min(0) - MARGIN, 0)).all()
        assert (high >= np.minimum(places.max(0) + 1 + MARGIN, wide.image.shape)).all()
    assert low[1] > 0 and high[1] < wide.image.shape[1]


def test_beyond_the_box_there_is_background(wide):
    unet = fit_unet([wide], 4, 0, CPU, steps=1)
    (_, (first, last), _) = unet.box
    assert first > 0 and last < wide.image.shape[1]
    found = unet(wide.image)
    assert found.shape == (4, *wide.image.shape)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    assert (found[0][:, :first] == 1).all() and (found[0][:, last:] == 1).all()
    assert (found[0][:, first:last] < 1).any()


@pytest.mark.slow
def test_it_learns_where_the_structures_lie_and_is_saved_with_its_box(
    tiny_features, phantom, tmp_path, monkeypatch
):
    monkeypatch.setattr("vcm.segmentation.segmenter.fit_unet", partial(fit_unet, steps=80))
    segmenter = FewShotSegmenter(tiny_features, ["background", "left", "right", "dark"])
    segmenter.fit([phantom()], ("unet",), copies=0, voxels=5_000, judged=1)
    other = phantom(shift=1.3, seed=5)
    found = segmenter.predict(other.image, ["unet"]).labels
    for k in (1, 2, 3):
        a, b = found == k, other.labels == k
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.8
    segmenter.save_pretrained(tmp_path)
    again = FewShotSegmenter.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again.unet.box, segmenter.unet.box)
    assert np.array_equal(
        again.predict(other.image).posterior, segmenter.predict(other.image).posterior
    )
