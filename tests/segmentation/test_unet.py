"""The third voice: a U-Net in a box around the labelled structures."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from monai.losses.dice import DiceCELoss

from vcm.nets.segmenter import TissueSegmenter
from vcm.segmentation.classifier_fit import FitSettings
from vcm.segmentation.labelled import UNKNOWN
from vcm.segmentation.segmenter import FewShotSegmenter
from vcm.segmentation.unet_fit import MARGIN, BoxUNet, box_around, fit_unet, loss_where_known

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


def test_the_box_holds_every_brain_voxel_that_may_be_a_structure(wide):
    """A structure may lie between the slices, or beyond those that are labelled."""
    labels = np.full_like(wide.labels, UNKNOWN)
    labels[16] = wide.labels[16]
    box = box_around([replace(wide, labels=labels)], 8)
    unknown = np.argwhere(wide.image > 0)
    assert (box[:, 0] <= np.maximum(unknown.min(0) - MARGIN, 0)).all()
    assert (box[:, 1] >= np.minimum(unknown.max(0) + 1 + MARGIN, wide.image.shape)).all()
    # Where all but the structures is known to be background it is the box of the structures.
    labels = np.where(wide.labels > 0, UNKNOWN, 0).astype(np.int16)
    labels[16] = wide.labels[16]
    np.testing.assert_array_equal(
        box_around([replace(wide, labels=labels)], 8), box_around([wide], 8)
    )


def test_only_voxels_of_known_label_teach():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, 6, requires_grad=True)
    labels = torch.randint(0, 3, (2, 4, 5, 6))
    usual = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
    torch.testing.assert_close(loss_where_known(logits, labels), usual(logits, labels[:, None]))
    labels[:, 2:] = UNKNOWN
    (gradient,) = torch.autograd.grad(loss_where_known(logits, labels), logits)
    assert (gradient[:, :, 2:] == 0).all() and (gradient[:, :, :2] != 0).any()
    part = loss_where_known(logits[:, :, :2], labels[:, :2])
    torch.testing.assert_close(loss_where_known(logits, labels), part)
    nothing = loss_where_known(logits, torch.full_like(labels, UNKNOWN))
    assert torch.isfinite(nothing)


@pytest.mark.slow
def test_it_learns_from_slices(phantom):
    brain, other = phantom(), phantom(shift=1.0, seed=3)
    labels = np.full_like(brain.labels, UNKNOWN)
    labels[:, 13::7], labels[11::5], labels[:, :, 10:15:2] = (
        brain.labels[:, 13::7], brain.labels[11::5], brain.labels[:, :, 10:15:2],
    )  # fmt: skip
    assert (labels == UNKNOWN)[brain.image > 0].mean() > 0.5
    found = fit_unet([replace(brain, labels=labels)], 4, 0, CPU, steps=200)(other.image).argmax(0)
    for k in (1, 2, 3):
        both = ((found == k) & (other.labels == k)).sum()
        assert 2 * both > 0.7 * ((found == k).sum() + (other.labels == k).sum())


def test_it_begins_with_the_weights_of_a_start_in_all_layers_but_the_last(wide):
    torch.manual_seed(5)
    start = TissueSegmenter((8, 16), 4, lesions=True)
    unet = fit_unet([wide], 4, 0, CPU, steps=0, start=start)
    for name, weights in unet.net.state_dict().items():
        if not name.startswith("out."):
            torch.testing.assert_close(weights, start.state_dict()[name])
    assert unet(wide.image).shape == (4, *wide.image.shape)


def test_it_begins_at_the_frequencies_of_the_classes(wide):
    """One step moves each weight by the learning rate at most."""
    unet = fit_unet([wide], 4, 0, CPU, steps=1)
    assert unet.box is not None
    inside = wide.labels[tuple(slice(a, b) for a, b in unet.box)]
    counts = np.bincount(inside.ravel().clip(0), minlength=4) + 1
    begun = unet.net.get_parameter("out.conv.conv.bias").softmax(0).detach()
    np.testing.assert_allclose(begun, counts / counts.sum(), rtol=0.01)


def test_beyond_the_box_there_is_background(wide):
    unet = fit_unet([wide], 4, 0, CPU, steps=1)
    assert unet.box is not None
    (_, (first, last), _) = unet.box
    assert first > 0 and last < wide.image.shape[1]
    found = unet(wide.image)
    assert found.shape == (4, *wide.image.shape)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    assert (found[0][:, :first] == 1).all() and (found[0][:, last:] == 1).all()
    assert (found[0][:, first:last] < 1).any()


def test_a_segmenter_is_saved_with_the_box_of_its_network(
    tiny_features, wide, tmp_path, monkeypatch
):
    monkeypatch.setattr("vcm.segmentation.segmenter.fit_unet", partial(fit_unet, steps=1))
    segmenter = FewShotSegmenter(tiny_features, ["background", "left", "right", "dark"])
    few = FitSettings(members=1, steps=10)
    segmenter.fit([wide], ("unet",), few, copies=0, voxels=1_000, judged=0)
    segmenter.save_pretrained(tmp_path)
    again = FewShotSegmenter.from_pretrained(tmp_path)
    assert again.unet is not None and segmenter.unet is not None
    np.testing.assert_array_equal(again.unet.box, segmenter.unet.box)
    one, other = (s.predict(wide.image).posterior for s in (again, segmenter))
    assert np.array_equal(one, other)


def test_a_box_that_is_larger_than_a_crop_is_read_in_windows():
    sizes = []

    class Read(TissueSegmenter):
        def forward(self, image):
            sizes.append(tuple(image.shape[2:]))
            return super().forward(image)

    torch.manual_seed(0)
    net, image = Read(channels=(8, 16), out_classes=3).eval(), np.ones((72, 64, 48), np.float32)
    for box, expected in (
        ((8, 64), (56, 56, 48)),
        ((0, 72), (56, 56, 48)),
        ((8, 56), (48, 56, 48)),
    ):
        sizes.clear()
        found = BoxUNet(net, np.array([box, (0, 64), (0, 48)]))(image)
        assert set(sizes) == {expected}
        np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
