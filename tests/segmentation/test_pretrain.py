import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vcm.errors import VCMError
from vcm.imaging.views import VIEWS
from vcm.segmentation.configuration import SliceTraining
from vcm.segmentation.pretrain import MaskedObjective, SliceBatch, SlicePool, pretrain_slices

SMALL = {
    "channels": [8, 8], "groups": 4, "head_channels": 8, "crop": 16, "batch_size": 4,
    "tracker": "none", "mixed_precision": "no", "warmup_steps": 1, "checkpoint_every": 1,
}  # fmt: skip


@pytest.mark.slow
def test_a_killed_training_run_ends_at_the_same_weights(prepared, tmp_path, monkeypatch):
    runs = {
        name: SliceTraining(data=[str(prepared)], out=str(tmp_path / name), steps=3, **SMALL)
        for name in ("whole", "killed")
    }
    assert np.isfinite(pretrain_slices(runs["whole"])["diffusion loss on test"])
    draws, draw = [], SlicePool.draw

    def die_at_the_third(self, random):
        draws.append(random)
        if len(draws) == 3:
            raise KeyboardInterrupt
        return draw(self, random)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(SlicePool, "draw", die_at_the_third)
        pretrain_slices(runs["killed"])
    pretrain_slices(runs["killed"])
    name = "slices/diffusion_pytorch_model.safetensors"
    a, b = (load_file(tmp_path / run / name) for run in runs)
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_crops_are_where_their_places_say():
    """Every voxel's intensity is its place along the first axis, so that each crop tells its own."""
    shape = (16, 24, 20)
    ramp = np.broadcast_to(np.linspace(0.1, 1, 16)[:, None, None], shape).astype(np.float16)
    pool = SlicePool(ramp[None], VIEWS, 8, 12, 1.0)
    batch = pool.draw(np.random.default_rng(0))
    for crop, place, view in zip(batch.slices, batch.place, batch.view, strict=True):
        value = (crop[0] + 1) / 2
        expected = 0.1 + 0.9 * (place[0] + 1) / 2
        mirrored = 0.1 + 0.9 * (1 - place[0]) / 2
        near = min(float((value - e).abs().max()) for e in (expected, mirrored))
        assert near < 2e-3
        fixed = place[int(view)]
        assert float(fixed.max() - fixed.min()) == 0


def test_crops_that_do_not_fit_are_refused(prepared, tmp_path):
    settings = SliceTraining(data=[str(prepared)], out=str(tmp_path), **(SMALL | {"crop": 17}))
    with pytest.raises(VCMError, match=r"crop is 17.*multiple of 2 up to 80"):
        pretrain_slices(settings)


def test_a_masked_autoencoder_is_judged_behind_the_mask_alone():
    random = np.random.default_rng(0)
    noise = torch.from_numpy(random.standard_normal((8, 1, 64, 64), dtype=np.float32))
    seen = []

    class Net(torch.nn.Module):
        def forward(self, x, time, view, place):
            seen.append((x, time))
            return torch.where(x == 0, torch.tensor(0.5), torch.tensor(99.0))

    clean = torch.full((8, 1, 64, 64), 0.25)
    clean[..., :8] = -1
    batch = SliceBatch(clean, noise, torch.rand(8), torch.zeros(8), torch.zeros(8, 3, 64, 64))
    # Background behind the mask does not count, and what was seen does not either.
    loss = MaskedObjective(Net())(batch)["loss"]
    assert float(loss) == pytest.approx(0.25**2)
    x, time = seen[0]
    assert float((x == 0).float().mean()) == pytest.approx(0.6, abs=0.03)
    assert not time.any()


def test_an_unknown_objective_is_refused(prepared, tmp_path):
    settings = SliceTraining(data=[str(prepared)], out=str(tmp_path), objective="gan", **SMALL)
    with pytest.raises(VCMError, match="objective is 'gan': choose one of diffusion, masked"):
        pretrain_slices(settings)


def test_a_scan_that_is_trained_on_is_not_measured_on(prepared, tmp_path):
    data, out = shutil.copytree(prepared, tmp_path / "data"), tmp_path / "run"
    shutil.copy(data / "sub-0" / "sub-0_T1w.nii.gz", data / "sub-4" / "sub-4_T1w.nii.gz")
    with pytest.raises(VCMError, match=r"sub-0 in .* and sub-4 in .* hold the same image"):
        pretrain_slices(SliceTraining(data=[str(data)], out=str(out), **SMALL))
    assert not out.exists()
