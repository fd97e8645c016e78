"""The fit of a label map's network, and how it reads a scan afterwards."""

import warnings

import numpy as np
import pytest
import torch

from vcm.fewshot.cases.tasks import task_from
from vcm.fewshot.configuration import NetworkTraining
from vcm.fewshot.methods.model import FittedModel
from vcm.fewshot.methods.network import FewShotUNet
from vcm.fewshot.methods.parents import Parent, load_parent
from vcm.fewshot.methods.segmentation import train_network, warn_of_other_voxels
from vcm.fewshot.methods.shot_patches import Example
from vcm.imaging.volume import Volume


def test_patches_drawn_by_other_processes_are_the_same(tmp_path):
    random = np.random.default_rng(0)
    labels = np.zeros((20, 18, 16), np.uint8)
    labels[8:12, 6:12, 5:9] = 1
    image = torch.from_numpy(random.random((1, *labels.shape), dtype=np.float32))
    example = Example(image, torch.from_numpy(labels)[None], np.argwhere(labels > 0))
    found = []
    for workers in (0, 2):
        torch.manual_seed(0)
        net = FewShotUNet(1, 2, (4, 8), groups=2)
        training = NetworkTraining(steps=3, patch=16, mixed_precision="no", workers=workers)
        train_network(net, [example], training, tmp_path / str(workers), 0)
        found.append(net.state_dict())
    assert all(torch.equal(v, found[1][n]) for n, v in found[0].items())


def test_a_fitted_network_reads_windows_of_the_size_of_its_patches(monkeypatch):
    task = task_from({"kind": "segmentation", "inputs": ["t1"], "classes": ["core"]})
    net, sizes = FewShotUNet(1, 2, (4, 8), groups=2), []
    arrays = {f"net0.{n}": v for n, v in net.state_dict().items()}
    settings = {"spacing": [1, 1, 1], "members": 1, "network": net.settings, "mirror": True}
    read = FewShotUNet.forward
    monkeypatch.setattr(
        FewShotUNet, "forward", lambda self, x: sizes.append(x.shape[2:]) or read(self, x)
    )
    data = np.random.default_rng(0).integers(1, 9, (24, 16, 20)).astype(np.int16)
    for window, expected in (({}, {(24, 16, 20)}), ({"window": 16}, {(16, 16, 16)})):
        sizes.clear()
        model = FittedModel("scratch", task, "network", arrays, settings=settings | window)
        labels = model.answer({"t1": Volume(data, np.eye(4))}).labels
        assert labels.shape == data.shape and set(map(tuple, sizes)) == expected


@pytest.mark.parametrize(
    ("spacing", "told", "sequences", "warned"),
    [
        ((1.0, 1.0, 6.0), [], ("t1", "flair"), True),
        ((1.0, 1.0, 6.0), [1, 1, 6], ("t1", "flair"), False),
        ((1.0, 1.0, 6.0), [], (), False),
        ((1.9, 2.0, 2.2), [], ("t1", "flair"), False),
    ],
)
def test_voxels_that_a_pretrained_network_does_not_know_are_told(spacing, told, sequences, warned):
    task = {"kind": "segmentation", "inputs": ["t1", "flair"], "classes": ["a"], "spacing": told}
    parent = Parent(None, "", sequences=sequences, spacing=2.0)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warn_of_other_voxels(task_from(task), parent, spacing)
    assert bool(found) is warned
    if warned:
        said = str(found[0].message)
        assert "voxels of 1 x 1 x 6 mm" in said and "spacing: [2, 2, 2]" in said


def test_the_network_of_several_sequences_says_its_voxels():
    parent = load_parent("sequences2mm")
    assert parent.spacing == 2 and parent.sequences
