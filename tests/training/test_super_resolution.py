"""Training of what halves the voxel size: its crops are those of the scan, and a stopped run resumes."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from small_pool import small_pool

from vcm.errors import VCMError
from vcm.learning.origin import read_origin
from vcm.learning.run_folder import ORIGIN
from vcm.nets.super_resolution import SuperResolutionNet
from vcm.training import super_resolution
from vcm.training.super_resolution import CoarseDraws, halved, measure_super_resolution
from vcm.training.super_resolution_configuration import SuperResolutionTraining

SHORT = SuperResolutionTraining(
    data=["pool"], checkpoint_every=1, mixed_precision="no", tracker="none", warmup_steps=1,
    learning_rate=1e-3, final_learning_rate=1e-3, batch_size=2, crop=8, channels=[4, 8], blocks=[1, 1],
    discriminator_channels=[4, 8], adversarial_weight=0.1,
)  # fmt: skip


@pytest.fixture(autouse=True)
def drawn_from_a_small_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(super_resolution, "load_pool", lambda data, split: small_pool())


def trained(out: Path, steps: int, **more) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    config = replace(SHORT, out=str(out), steps=steps, **more)
    measured = super_resolution.pretrain_super_resolution(config)
    net = SuperResolutionNet.from_pretrained(out / "super_resolution")
    return measured, dict(net.state_dict())


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    losses, whole = trained(tmp_path / "whole", 3)
    assert {"mse", "power", "fooled", "told_apart"} < set(losses)
    _, begun = trained(tmp_path / "parts", 2)
    _, parts = trained(tmp_path / "parts", 3)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert any(not torch.equal(whole[name], begun[name]) for name in whole)
    assert set(read_origin(tmp_path / "parts" / ORIGIN).scans) == {"a", "b", "c"}


def test_it_learns_what_interpolation_lacks_and_goes_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smooth = small_pool(smooth=True)
    monkeypatch.setattr(super_resolution, "load_pool", lambda data, split: smooth)
    more = {
        "adversarial_weight": 0.0,
        "validate_every": 30,
        "ema_decay": 0.9,
        "noise": 0.0,
        "blur": [0.0, 0.0],
    }
    first, net = trained(tmp_path / "first", 30, **more)
    assert first["minus_psnr"] < first["minus_psnr_interpolated"]
    assert "band_0.2" in first
    start = str(tmp_path / "first" / "super_resolution")
    _, same = trained(tmp_path / "on", 1, start=start, learning_rate=0.0, final_learning_rate=0.0)
    assert all(torch.equal(net[name], same[name]) for name in net)


def test_untrained_it_measures_as_interpolation() -> None:
    measured = measure_super_resolution(SuperResolutionNet((4, 4), (1, 1)), small_pool())
    for prefix in ("", "blurred_"):
        plain = measured[f"{prefix}minus_psnr_interpolated"]
        assert measured[f"{prefix}minus_psnr"] == pytest.approx(plain, abs=1e-6)


def test_halving_is_a_gaussian_and_a_mean_that_guess_nothing_beyond_the_border() -> None:
    x = np.random.default_rng(0).random((2, 24, 20, 22)).astype(np.float32)
    widths = torch.tensor([1.2, 2.4])
    found = halved(torch.from_numpy(x)[:, None], widths)
    assert found.shape == (2, 1, 8, 6, 7)
    for n, width in enumerate(widths.tolist()):
        blurred = gaussian_filter(x[n], width / 2.35482, radius=4)[4:-4, 4:-4, 4:-4]
        means = blurred.reshape(8, 2, 6, 2, 7, 2).mean((1, 3, 5))
        np.testing.assert_allclose(found[n, 0].numpy(), means, atol=1e-5)


def test_a_crop_is_of_a_scan_and_depends_on_the_generator_alone() -> None:
    pool, cpu = small_pool(), torch.device("cpu")
    config = replace(SHORT, noise=0.0, blur=[0.0, 0.0])
    run = SimpleNamespace(step=100)
    draw = CoarseDraws(config, pool.images, run, cpu)  # type: ignore[arg-type]
    one, other = (draw(np.random.default_rng(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert one.images.shape == (2, 1, 8, 8, 8)
    assert one.ramp.tolist() == [0.5, 0.5]
    assert float(one.images.min()) >= 0 and float(one.images.max()) <= 1
    # Without blur and noise, what is read is the mean of what is to be made.
    torch.testing.assert_close(one.coarse, torch.nn.functional.avg_pool3d(one.images, 2))
    # Gain and gamma keep the order of the intensities, by which the place in the scan is found.
    order = one.images[0, 0].flatten().argsort()
    places = (
        scan[0].unfold(0, 8, 1).unfold(1, 8, 1).unfold(2, 8, 1).reshape(-1, 8, 8, 8)
        for scan in pool.scans()
    )
    assert any(
        bool((place.flatten()[order].diff() >= 0).all())
        for scan in places for crop in scan for place in (crop, crop.flip(0))
    )  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"crop": 12}, "crop is 12: it must be a multiple of 8"),
        ({"crop": 24}, "crop is 24, but the scans have"),
        ({"blur": [2.0, 1.0]}, "blur is"),
        ({"noise": -1.0}, "noise is -1"),
        ({"data": []}, "No data is given"),
        ({"workers": 2}, "set workers=0"),
        ({"start": "nowhere"}, "holds no super_resolution"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    setting: dict, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(VCMError, match=sentence):
        trained(tmp_path / "run", 1, **setting)
    assert not (tmp_path / "run").exists()


def test_scans_of_odd_extents_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = small_pool()
    cut = replace(pool, images=pool.images[:, :15])
    monkeypatch.setattr(super_resolution, "load_pool", lambda data, split: cut)
    with pytest.raises(VCMError, match="each extent must be a multiple of 4"):
        trained(tmp_path / "run", 1)
