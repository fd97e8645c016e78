"""The fit of a label map's network: the same whoever draws its patches."""

import numpy as np
import torch

from vcm.fewshot.configuration import NetworkTraining
from vcm.fewshot.methods.network import FewShotUNet
from vcm.fewshot.methods.segmentation import Example, train_network


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
