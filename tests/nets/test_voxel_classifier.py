import math

import torch

from vcm.nets.voxel_classifier import VoxelClassifier, jensen_shannon


def test_members_that_agree_are_certain_and_opposite_ones_are_not():
    sure = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]])
    split = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert float(jensen_shannon(sure)) == 0
    assert math.isclose(float(jensen_shannon(split)), 1.0, rel_tol=1e-6)
    assert float(jensen_shannon(sure[:1])) == 0


def test_features_are_standardised_by_a_sample():
    torch.manual_seed(0)
    sample = 5 + 3 * torch.randn(1000, 4)
    net = VoxelClassifier(4, 3, members=2, hidden=(8,)).eval()
    net.standardise_by(sample)
    values = net.standardised(sample)
    torch.testing.assert_close(values.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(values.std(0), torch.ones(4))
    found = net(sample)
    assert found.shape == (2, 1000, 3)
    torch.testing.assert_close(found.sum(2), torch.ones(2, 1000))
