"""Every command on a device that is not the CPU: nothing is left where nobody moved it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from other_device import plugged_in

from vcm.config import load_config


@pytest.fixture(params=["other", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no GPU is there")
        yield torch.device("cuda", 0)
    else:
        with plugged_in() as other:
            yield other


def test_a_tensor_left_on_the_cpu_is_found(device):
    net = torch.nn.Conv3d(1, 2, 3)
    net.to(device)
    with pytest.raises(RuntimeError, match=r"same device|should be the same"):
        net(torch.zeros(1, 1, 4, 4, 4))
    assert net(torch.zeros(1, 1, 4, 4, 4, device=device)).device == device
    with pytest.raises((RuntimeError, TypeError)):
        net.weight.detach().numpy()


BRIEF = ["steps=2", "checkpoint_every=1", "warmup_steps=1", "tracker=none", "mixed_precision=no"]


def test_pretrain_autoencoder(device, prepared, tmp_path):
    from vcm.training.autoencoder import pretrain_autoencoder
    from vcm.training.configuration import AutoencoderTraining

    sizes = ["channels=[8,16]", "latent_channels=4", "groups=2", "crop=24"]
    given = [f"data=[{prepared}]", f"out={tmp_path / 'run'}", *sizes, *BRIEF]
    assert np.isfinite(
        list(pretrain_autoencoder(load_config(AutoencoderTraining, None, given)).values())
    ).all()
