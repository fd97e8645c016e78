"""Lesions of one shot in the patch of another."""

import warnings

import numpy as np
import pytest
import torch

from vcm.errors import VCMError, VCMWarning
from vcm.fewshot.cases.tasks import task_from
from vcm.fewshot.configuration import NetworkTraining
from vcm.fewshot.methods.carving import agreement, carve_into
from vcm.fewshot.methods.segmentation import are_lesions
from vcm.fewshot.methods.shot_patches import Example, PatchSampler

SIZE = (24, 24, 24)


def example(centre, value=0.5, label=1, radius=3):
    """A ball of a brain of one brightness, with a labelled ball that is brighter."""
    place = np.indices(SIZE) - 11.5
    image = np.where((place**2).sum(0) < 11**2, value, 0).astype(np.float32)
    lesion = ((place - np.reshape(centre, (3, 1, 1, 1))) ** 2).sum(0) < radius**2
    image[lesion] = value + 0.2
    labels = np.where(lesion, label, 0).astype(np.uint8)
    return Example(
        torch.from_numpy(image)[None], torch.from_numpy(labels)[None], np.argwhere(lesion)
    )


def test_a_lesion_comes_with_its_surroundings_and_stays_in_the_brain():
    mine, other = example((-5, 0, 0), 0.3), example((8, 0, 0), 0.7, label=2, radius=4)
    image, labels = carve_into(mine.image, mine.labels, other.image, other.labels, 2.0)
    brain, lesion = mine.image[0] > 0, other.labels[0] > 0
    assert torch.equal(labels[0] == 2, lesion & brain)
    assert torch.equal(labels[0] == 1, mine.labels[0] == 1)
    changed = image[0] != mine.image[0]
    assert bool((changed & ~lesion).any()) and not bool((changed & ~brain).any())
    assert torch.equal(image[0][changed], other.image[0][changed])
    alone, _ = carve_into(mine.image, mine.labels, other.image, other.labels, 0.0)
    assert torch.equal(alone[0] != mine.image[0], lesion & brain)


def test_a_patch_without_a_label_gives_nothing():
    mine, other = example((0, 0, 0)), example((5, 0, 0))
    image, labels = carve_into(mine.image, mine.labels, other.image, 0 * other.labels, 2.0)
    assert image is mine.image and labels is mine.labels


@pytest.mark.parametrize(
    ("centres", "lesions"),
    [
        ([(0, 5, 0), (0, 5, 1), (0, 4, 0)], False),
        ([(5, 0, 0), (-5, 0, 0), (-5, 0, 1)], False),
        ([(0, 6, 0), (0, -6, 0), (0, 0, 6)], True),
    ],
)
def test_lesions_are_told_from_structures_by_their_places(centres, lesions):
    examples = [example(centre) for centre in centres]
    task = task_from({"kind": "segmentation", "inputs": ["t1"], "classes": ["a"]}, "mine")
    alike = agreement([e.image for e in examples], [e.labels for e in examples])
    assert (alike < 0.1) if lesions else (alike > 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if lesions:
            with pytest.raises(VCMWarning, match="mine are labelled in different places"):
                are_lesions(task, examples)
        else:
            assert not are_lesions(task, examples)
        assert not are_lesions(task, examples, pretrained=False)
        for said in (True, False):
            told = {"kind": "segmentation", "inputs": ["t1"], "classes": ["a"], "lesions": said}
            assert are_lesions(task_from(told), examples, pretrained=False) is said


def test_one_shot_agrees_with_itself_and_lends_to_itself():
    one = example((6, 0, 0))
    assert agreement([one.image], [one.labels]) == 1
    assert agreement([one.image] * 2, [one.labels, 0 * one.labels]) == 1
    sampler = PatchSampler([one], NetworkTraining(patch=16), lesions=True)
    assert sampler.donors == [0]
    assert sampler.draw(np.random.default_rng(0)).images.shape == (2, 1, 16, 16, 16)


def test_patches_of_structures_are_drawn_as_without_and_those_of_lesions_hold_more():
    examples = [example((6, 0, 0)), example((-6, 0, 0)), example((0, 6, 0))]
    training = NetworkTraining(patch=24)
    plain, again, carved = (
        PatchSampler(examples, training, lesions) for lesions in (False, False, True)
    )
    assert plain.donors == [] and len(carved.donors) == 3
    batches = [s.draw(np.random.default_rng(0)) for s in (plain, again)]
    assert torch.equal(batches[0].images, batches[1].images)
    labelled = [
        np.mean([float((s.draw(np.random.default_rng(k)).labels > 0).float().mean()) for k in range(30)])
        for s in (plain, carved)
    ]  # fmt: skip
    assert labelled[1] > 1.2 * labelled[0]


@pytest.mark.parametrize(("kind", "value"), [("segmentation", "maybe"), ("regression", True)])
def test_a_task_says_of_lesions_true_or_false(kind, value):
    given = {"kind": kind, "inputs": ["t1"], "classes": ["a"], "lesions": value}
    with pytest.raises(VCMError, match="write true or false, for a segmentation alone"):
        task_from(given)
