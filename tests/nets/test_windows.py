from itertools import pairwise

import pytest
import torch

from vcm.nets.windows import by_windows, starts


@pytest.mark.parametrize("size", range(1, 60))
def test_windows_cover_an_axis_and_share_half(size):
    found = starts(size, 10)
    assert found[0] == 0 and found[-1] == max(size - 10, 0)
    assert all(1 <= b - a <= 5 for a, b in pairwise(found))


def test_each_voxel_is_answered_by_windows_alone_on_the_device(device):
    image, read = torch.rand(1, 2, 12, 7, 20, device=device), []

    def answer(part):
        read.append(tuple(part.shape[2:]))
        return torch.cat([part, part.sum(1, keepdim=True)], 1)

    found = by_windows(answer, image, 8)
    assert set(read) == {(8, 7, 8)} and len(read) == 2 * 4
    assert found.device == image.device
    if device.type != "meta":
        assert torch.allclose(found[:, 2], image.sum(1), atol=1e-5)
