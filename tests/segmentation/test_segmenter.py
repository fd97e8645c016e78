from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vcm.errors import VCMError, VCMWarning
from vcm.nets.segmenter import TissueSegmenter
from vcm.segmentation.classifier_fit import FitSettings
from vcm.segmentation.features import DiffusionFeatures
from vcm.segmentation.labelled import UNKNOWN, LabelledBrain
from vcm.segmentation.segmenter import FewShotSegmenter
from vcm.segmentation.slabs import in_slabs
from vcm.segmentation.unet_fit import BoxUNet, fit_unet
from vcm.segmentation.voices import VOICES, Heard, check_voices, multiplied

NAMES = ["background", "left", "right", "dark"]
QUICK = FitSettings(members=2, steps=300)


def dice(found, truth, k):
    a, b = found == k, truth == k
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.fixture(scope="module")
def fitted(tiny_features, phantom):
    return FewShotSegmenter(tiny_features, NAMES).fit(
        [phantom()], ("features", "atlas"), QUICK, copies=1, voxels=20_000
    )


def test_another_brain_is_labelled_from_one(fitted, phantom):
    other = phantom(shift=1.3, seed=5)
    found = fitted.predict(other.image)
    scores = [dice(found.labels, other.labels, k) for k in (1, 2, 3)]
    assert min(scores) > 0.9, scores
    assert found.uncertainty.min() >= 0
    assert found.uncertainty.max() <= 1


def test_left_and_right_of_equal_brightness_are_told_apart(fitted, phantom):
    found = fitted.predict(phantom(seed=9).image, ["features"]).labels
    truth = phantom().labels
    assert not np.any((found == 1) & (truth == 2))
    assert not np.any((found == 2) & (truth == 1))


def test_posteriors_sum_to_one_and_are_background_outside(fitted, phantom):
    brain = phantom(shift=1.0)
    posterior = fitted.predict(brain.image).posterior.astype(np.float32)
    np.testing.assert_allclose(posterior.sum(0), 1, atol=5e-3)
    assert (posterior[0][brain.image == 0] == 1).all()


@pytest.mark.parametrize("slab", [1, 5, 100])
def test_slab_by_slab_it_says_the_same(fitted, phantom, monkeypatch, slab):
    image = phantom(shift=0.7).image
    whole = fitted.predict(image)
    monkeypatch.setattr(fitted, "slab", slab)
    part = fitted.predict(image)
    assert (part.labels == whole.labels).mean() > 0.9999
    np.testing.assert_allclose(part.uncertainty, whole.uncertainty, atol=2e-3)


def test_noise_of_a_slice_does_not_depend_on_the_others(tiny_denoiser, phantom):
    features = DiffusionFeatures(tiny_denoiser, time=0.4, noisy=True)
    image = phantom().image
    slabs = [features(image, slab) for slab in in_slabs(image > 0, 7)]
    np.testing.assert_allclose(
        np.concatenate(slabs).astype(np.float32), features(image).astype(np.float32), atol=5e-3
    )


def test_features_that_do_not_fit_are_refused_with_their_size(fitted, phantom, monkeypatch):
    image = phantom().image
    needed = fitted.features.bytes_for(int((image > 0).sum()))
    free = SimpleNamespace(available=needed // 2)
    monkeypatch.setattr("vcm.segmentation.slabs.psutil.virtual_memory", lambda: free)
    with pytest.raises(VCMError, match=r"GB of memory are free: give --slab 16"):
        fitted.predict(image)
    monkeypatch.setattr(fitted, "slab", 4)
    assert fitted.predict(image).labels.max() == 3


def test_a_saved_segmenter_says_the_same(fitted, phantom, tmp_path):
    fitted.save_pretrained(tmp_path / "model")
    again = FewShotSegmenter.from_pretrained(tmp_path / "model")
    image = phantom(shift=0.7).image
    assert np.array_equal(again.predict(image).posterior, fitted.predict(image).posterior)
    assert again.trust == fitted.trust


def test_a_brain_read_from_a_file_is_saved_as_it_is(fitted, phantom, tmp_path, monkeypatch):
    brain = phantom()
    # nibabel gives arrays whose first axis runs fastest in memory.
    columns = replace(
        brain, image=np.asfortranarray(brain.image), labels=np.asfortranarray(brain.labels)
    )
    monkeypatch.setattr(fitted, "brains", [columns])
    fitted.save_pretrained(tmp_path / "model")
    (again,) = FewShotSegmenter.from_pretrained(tmp_path / "model").brains
    assert np.array_equal(again.image, brain.image)
    assert np.array_equal(again.labels, brain.labels)


def heard(features, atlas):
    """Of a line of voxels; rows of probabilities."""
    members = np.asarray(features, np.float32)[None]
    mask = np.ones((len(features), 1, 1), bool)
    return Heard(mask, members, np.asarray(atlas, np.float32))


def labels_of(features, atlas, helps):
    segmenter = FewShotSegmenter(None, ["background", "small", "large"])
    segmenter.atlas_helps = np.array([False, *helps])
    return segmenter.combined(heard(features, atlas), ["features", "atlas"]).labels.ravel().tolist()


def test_features_that_lose_a_structure_are_not_heard_for_it():
    lost = [[0.98, 0.02, 0.0]] * 3 + [[0.0, 0.0, 1.0]]
    there = [[0.2, 0.8, 0.0]] * 3 + [[0.0, 0.0, 1.0]]
    assert labels_of(lost, there, [True, True]) == [1, 1, 1, 2]
    assert labels_of(lost, there, [False, True]) == [0, 0, 0, 2]
    # One voxel of three is missing, which is no reason for doubt.
    assert labels_of([lost[0], *there[1:]], there, [True, True]) == [0, 1, 1, 2]


@pytest.mark.slow
def test_slices_alone_are_enough_and_unknown_voxels_teach_nothing(tiny_features, phantom, tmp_path):
    brain = phantom()
    labels = np.full_like(brain.labels, UNKNOWN)
    for axis, places in ((0, (11, 16, 21)), (1, (13, 20, 26)), (2, (10, 12, 14))):
        for n in places:
            index = [slice(None)] * 3
            index[axis] = n
            labels[tuple(index)] = brain.labels[tuple(index)]
    sparse = replace(brain, labels=labels)
    assert not sparse.whole
    segmenter = FewShotSegmenter(tiny_features, NAMES).fit(
        [sparse], ("features", "atlas"), QUICK, 0
    )
    assert segmenter.voices == ("features", "atlas") and segmenter.completed
    (atlas,) = segmenter.brains
    known = labels != UNKNOWN
    assert atlas.whole and np.array_equal(atlas.labels[known], labels[known])
    assert min(dice(atlas.labels, brain.labels, k) for k in (1, 2, 3)) > 0.8
    segmenter.save_pretrained(tmp_path)
    loaded = FewShotSegmenter.from_pretrained(tmp_path)
    assert loaded.completed and np.array_equal(loaded.brains[0].labels, atlas.labels)
    other = phantom(shift=1.0, seed=3)
    for voices in (["features"], None):
        found = segmenter.predict(other.image, voices).labels
        assert min(dice(found, other.labels, k) for k in (1, 2, 3)) > 0.8
        assert np.array_equal(loaded.predict(other.image, voices).labels, found)


@pytest.mark.parametrize("voices", [("atlas", "unet"), VOICES])
def test_the_unet_too_names_the_voxels_between_slices(tiny_features, phantom, monkeypatch, voices):
    """Even where it is all that can: the completed map is what it says there, and the labels where there are any."""

    def of_one_class(brains, classes, *_, **__):
        class Third(TissueSegmenter):
            def forward(self, image):
                one = torch.zeros(classes).index_fill(0, torch.tensor([3]), 20.0)
                return one[None, :, None, None, None].expand(1, -1, *image.shape[2:])

        return BoxUNet(Third((4, 4), 2, out_classes=classes).eval(), None)

    monkeypatch.setattr("vcm.segmentation.segmenter.fit_unet", of_one_class)
    brain = phantom()
    labels = np.full_like(brain.labels, UNKNOWN)
    labels[:, :, 8:16:2] = brain.labels[:, :, 8:16:2]
    sparse = replace(brain, labels=labels)
    made = FewShotSegmenter(tiny_features, NAMES).fit(
        [sparse], voices, FitSettings(steps=5), 0, 2000, 0
    )
    assert made.voices == voices and made.completed
    known, (completed,) = labels != UNKNOWN, made.brains
    assert np.array_equal(completed.labels[known], labels[known])
    between = ~known & (brain.image > 0)
    assert (completed.labels[between] == 3).mean() > 0.9


def test_voices_that_cannot_be_heard_are_refused(fitted, phantom):
    with pytest.raises(VCMError, match=r"voices is \['choir'\]"):
        check_voices(["choir"], True)
    with pytest.raises(VCMError, match="an atlas needs whole ones: add features or unet"):
        check_voices(["atlas"], False)
    with pytest.raises(VCMError, match="was fitted with features, atlas"):
        fitted.predict(phantom().image, ["unet"])


def test_a_brain_on_another_grid_is_refused(fitted, phantom):
    with pytest.raises(VCMError, match=r"bring it onto the same grid"):
        fitted.predict(phantom().image[1:])


def test_brains_without_labels_and_classes_without_voxels_are_refused(tiny_features, phantom):
    whole = phantom()
    bare = replace(whole, labels=np.zeros_like(whole.labels), source="sub-02_T1w.nii.gz")
    segmenter = FewShotSegmenter(tiny_features, [*NAMES, "absent"])
    with pytest.raises(VCMError, match=r"labelled in sub-02_T1w.nii.gz at the model's resolution"):
        segmenter.fit([whole, bare])
    with pytest.raises(VCMError, match=r"No voxel is labelled absent"):
        segmenter.fit([whole])
    with pytest.raises(VCMError, match=r"in any brain"):
        segmenter.fit([])


def test_a_fit_says_which_structure_a_subject_lacks(tiny_features, phantom):
    whole = phantom()
    lacking = replace(whole, labels=np.where(whole.labels == 3, 0, whole.labels))
    segmenter = FewShotSegmenter(tiny_features, NAMES)
    with pytest.warns(VCMWarning, match=r"Labelled scan 2 of 2 \(phantom\) has no voxel .* dark"):
        segmenter.fit([whole, lacking], ("features",), FitSettings(1, 5), 0, 2000, 0)


def test_the_product_of_voices_is_their_geometric_mean():
    a, b = np.array([[0.9, 0.1]]), np.array([[0.5, 0.5]])
    expected = np.sqrt(a * b) / np.sqrt(a * b).sum()
    np.testing.assert_allclose(multiplied([a, b]), expected, rtol=1e-6)


def test_a_network_that_learned_nothing_is_not_heard(tiny_features, phantom, monkeypatch, tmp_path):
    def unlearned(brains, classes, *_, **__):
        return BoxUNet(TissueSegmenter((4, 4), 2, out_classes=classes).eval(), None)

    monkeypatch.setattr("vcm.segmentation.segmenter.fit_unet", unlearned)
    segmenter = FewShotSegmenter(tiny_features, NAMES).fit(
        [phantom()], ("features", "unet"), QUICK, copies=0, voxels=10_000, judged=1
    )
    assert not segmenter.unet_helps.any() and max(segmenter.trust["unet"].values()) < 0.5
    image = phantom(shift=0.7).image
    by_features, both = (segmenter.predict(image, v).labels for v in (["features"], None))
    assert np.array_equal(both, by_features)
    segmenter.save_pretrained(tmp_path)
    # By the estimates alone, which earlier versions saved too.
    assert not FewShotSegmenter.from_pretrained(tmp_path).unet_helps.any()


def test_beside_a_unet_that_saw_all_and_does_well_the_features_tell_the_uncertainty_alone(
    tiny_features, phantom, monkeypatch
):
    monkeypatch.setattr("vcm.segmentation.segmenter.fit_unet", partial(fit_unet, steps=2))
    brain = phantom()
    segmenter = FewShotSegmenter(tiny_features, NAMES).fit(
        [brain], settings=FitSettings(steps=5), copies=0, voxels=2000, judged=0
    )
    found = segmenter.predict(brain.image)
    assert found.voices == ("atlas", "unet") and found.uncertainty.max() > 0
    assert segmenter.predict(brain.image, ["features", "unet"]).voices == ("features", "unet")
    without = segmenter.predict(brain.image, ["atlas", "unet"])
    assert np.array_equal(found.labels, without.labels)
    assert segmenter.choose_voices() == segmenter.choose_voices(["unet", "atlas"])
    segmenter.trust = {
        "features": dict.fromkeys(NAMES[1:], 0.9),
        "unet": dict.fromkeys(NAMES[1:], 0.9) | {"dark": 0.5},
    }
    assert segmenter.predict(brain.image).voices == segmenter.choose_voices() == VOICES
    with pytest.raises(VCMError, match=r"voices is \[\], but the segmenter was fitted with"):
        segmenter.choose_voices([])


def test_slices_alone_are_enough_to_know_how_the_labelled_scan_looks(
    tiny_features, phantom, tmp_path
):
    brain = phantom()
    sparse = np.full_like(brain.labels, UNKNOWN)
    sparse[:, :, 8:16:2] = brain.labels[:, :, 8:16:2]
    made = FewShotSegmenter(tiny_features, NAMES).fit(
        [LabelledBrain(brain.image, sparse)], ("features",), FitSettings(steps=5), 0, 2000, 0
    )
    made.save_pretrained(tmp_path / "sparse")
    loaded = FewShotSegmenter.from_pretrained(tmp_path / "sparse")
    assert loaded.alike(brain.image).unlike == 0
    darker = np.where(brain.image > 0, 0.4 * brain.image, 0).astype(np.float32)
    assert loaded.predict(darker).matched and not loaded.predict(darker, match="never").matched


def test_voices_are_heard_in_their_order_of_whole_labels_and_of_slices():
    for whole in (True, False):
        assert check_voices(["unet", "features", "atlas"], whole) == VOICES
    assert check_voices(["atlas"], True) == ("atlas",)
    assert check_voices(["unet", "atlas"], False) == ("atlas", "unet")
