from itertools import pairwise

import pytest
import torch
from other_device import plugged_in

from vcm.nets.windows import by_windows, starts


@pytest.mark.parametrize("size", range(1, 60))
@pytest.mark.parametrize(("overlap", "step"), [(0.5, 5), (0.25, 7.5)])
def test_windows_cover_an_axis_and_share_a_part(size, overlap, step):
    found = starts(size, 10, overlap)
    assert found[0] == 0 and found[-1] == max(size - 10, 0)
    assert all(1 <= b - a <= step + 0.5 for a, b in pairwise(found))


def check(device):
    image, read = torch.rand(1, 2, 12, 7, 20).to(device), []

    def answer(part):
        read.extend([tuple(part.shape[2:])] * len(part))
        return torch.cat([part, part.sum(1, keepdim=True)], 1)

    found = by_windows(answer, image, 8)
    assert set(read) == {(8, 7, 8)} and len(read) == 2 * 4
    assert found.device == image.device
    assert torch.allclose(found[:, 2].cpu(), image.sum(1).cpu(), atol=1e-5)


def test_each_voxel_is_answered():
    check("cpu")


def test_each_voxel_is_answered_where_the_image_is():
    with plugged_in() as other:
        check(other)
