"""A T1w brain from another contrast: what is drawn, a run of a few steps, where the brain lies, what is refused."""

import json

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter
from small_heads import cut, head

from vcm.checksums import record_checksums
from vcm.cli.main import run_command
from vcm.imaging.geometry import model_grid
from vcm.imaging.random_lesions import draw_lesions
from vcm.imaging.random_scan import draw_scan
from vcm.imaging.volume import read_volume, write_volume
from vcm.nets.translator import Translated, Translator
from vcm.upsampling.detail.local_detail import add_detail

SMALL = (4, 4, 4, 4, 4, 4)


def inverted(whole):
    data = whole.data
    return whole.with_data(np.where(data > 0, 900 - data, 0).astype(np.float32))


@pytest.fixture(scope="module")
def brain():
    random = np.random.default_rng(0)
    classes = np.zeros((40, 44, 40), np.uint8)
    classes[4:-4, 4:-4, 4:-4], classes[7:-7, 7:-7, 7:-7], classes[12:-12, 12:-12, 12:-12] = 7, 2, 1
    t1w = np.take([0, 0.9, 0.6, 0, 0, 0, 0, 0.2], classes) + 0.02 * random.random(classes.shape)
    return np.where(classes > 0, t1w, 0).astype(np.float32), classes


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    """Of random weights."""
    torch.manual_seed(0)
    grid = model_grid()
    folder = tmp_path_factory.mktemp("translator")
    described = {"shape": list(grid.shape), "affine": grid.affine.tolist()}
    Translator(SMALL, 2, described).save_pretrained(folder)
    record_checksums(folder)
    return folder


def test_lesions_lie_in_white_matter_and_stay_few(brain):
    white = brain[1] == 1
    drawn = [draw_lesions(white, np.random.default_rng(seed)) for seed in range(6)]
    for lesions in drawn:
        assert lesions.min() >= 0 and lesions.max() <= 1 and not lesions[~white].any()
        assert (lesions[white] > 0).mean() < 0.05
    assert any(lesions.any() for lesions in drawn)


def test_a_pair_is_that_of_its_generator_and_lies_in_its_brain(brain):
    one, again, other = (draw_scan(*brain, 2.0, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(one, again, strict=True))
    assert (one[0] != other[0]).any()
    scan, truth, inside, *_ = one
    assert ((scan > 0) == inside).all() and scan.max() <= 1
    assert not truth[~inside].any() and truth.max() <= brain[0].max()


def test_contrasts_fall_and_rise_with_that_of_t1w(brain):
    """Neither the order of the tissues nor their distance is the same in all scans."""
    signs = set()
    for seed in range(12):
        scan, *_ = draw_scan(*brain, 2.0, np.random.default_rng(seed))
        signs.add(bool(scan[brain[1] == 1].mean() > scan[brain[1] == 2].mean()))
    assert signs == {True, False}


def test_detail_of_the_scan_comes_back_in_the_other_contrast():
    """Where T1w is a falling line of the scan, what smoothing took from the T1w image is put back."""
    random = np.random.default_rng(0)
    scan = gaussian_filter(random.random((40, 40, 40)), 1).astype(np.float32) * 8
    truth = (1.5 - 0.8 * scan).astype(np.float32)
    smooth, image = (gaussian_filter(v, 1.5) for v in (scan, truth))
    inside = np.ones(scan.shape, bool)
    found = add_detail(image, scan, smooth, inside, (1.0, 1.0, 1.0), 3.0)
    inner = (slice(6, -6),) * 3
    before, after = (np.square(v - truth)[inner].mean() for v in (image, found))
    assert after < 0.05 * before
    unrelated = add_detail(
        image, random.random(scan.shape).astype(np.float32), smooth * 0, inside, (1.0,) * 3, 3.0
    )
    np.testing.assert_allclose(unrelated, image, atol=0.05)


def test_a_few_steps_of_training_leave_a_network(prepared, tmp_path):
    given = [
        "pretrain", "translator", f"data=[{prepared}]", f"out={tmp_path / 'run'}", "steps=2",
        "checkpoint_every=1", "channels=[4,4,4,4,4,4]", "measured=1", "tracker=none", "mixed_precision=no",
    ]  # fmt: skip
    assert run_command(given) == 0
    net = Translator.from_pretrained(tmp_path / "run" / "model")
    assert net.config.grid["shape"] == [80, 112, 80]
    again = [*given[:3], f"out={tmp_path / 'again'}", *given[4:], "workers=1"]
    assert run_command(again) == 0
    other = Translator.from_pretrained(tmp_path / "again" / "model").state_dict()
    assert all(torch.equal(v, other[n]) for n, v in net.state_dict().items())


def test_a_grid_that_is_too_small_is_refused(small_prepared, tmp_path, capsys):
    given = ["pretrain", "translator", f"data=[{small_prepared}]", f"out={tmp_path / 'run'}"]
    assert run_command(given) == 2
    assert "at least 64" in capsys.readouterr().err


def test_the_t1w_brain_lies_where_the_scan_lies(thick_model, translator, tmp_path, monkeypatch):
    """A translator that says what it reads gives the scan itself, scaled, on the scan's own voxels."""

    def repeat(self, scan):
        return Translated(scan, torch.full_like(scan, 0.1))

    monkeypatch.setattr(Translator, "over_mirrors", repeat)
    whole = inverted(head(turn=(7, -5, 9), shift=(12, -20, 15), flips=(-1, 1, -1), order=(1, 2, 0)))
    thick = cut(whole, "axial", 6.0)[0]
    path = write_volume(thick, tmp_path / "sub-1_T2w.nii.gz")
    given = [
        "upsample", path, "--model", thick_model, "--spacing", "2", "--samples", "0", "--detail",
        "none", "--to", "T1w", "--translator", translator, "--out", tmp_path / "out",
    ]  # fmt: skip
    assert run_command([*map(str, given)]) == 0
    names = ("desc-upsampled_T2w", "desc-syntheticT2w_T1w", "desc-syntheticT2wstd_T1w")
    own, made, std = (read_volume(tmp_path / "out" / f"sub-1_{n}.nii.gz") for n in names)
    for volume in (made, std):
        np.testing.assert_array_equal(volume.affine, own.affine)
        assert volume.data.shape == own.data.shape
    assert made.data.min() >= 0 and std.data[made.data > 0.1].min() > 0
    inside = binary_erosion(own.data > 0, iterations=2)
    assert np.corrcoef(made.data[inside], own.data[inside])[0, 1] > 0.96
    assert made.data[~binary_dilation(own.data > 0, iterations=2)].max() < 0.01
    told = json.loads((tmp_path / "out" / "sub-1_desc-syntheticT2w_T1w.json").read_text())
    assert told["Synthetic"] is True and told["MadeOf"] == "sub-1_desc-upsampled_T2w.nii.gz"
    assert told["TranslatorSHA256"]["diffusion_pytorch_model.safetensors"]

    # Again: the same files, and nothing of the user's is replaced by those of another scan.
    assert run_command([*map(str, given)]) == 0
    np.testing.assert_array_equal(
        read_volume(tmp_path / "out" / "sub-1_desc-syntheticT2w_T1w.nii.gz").data, made.data
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--to", "FLAIR"], "to is FLAIR: choose T1w"),
        (["--to", "T1w", "--translator", "nowhere"], "nowhere holds no translator"),
        (
            ["--to", "T1w", "--translator", "heads1mm"],
            "heads1mm holds no translator, but a DetailNet",
        ),
        (["--detail", "t1w2mm"], "holds no detail network for any contrast, but a Translator"),
    ],
)
def test_what_cannot_be_translated_is_refused(thick_model, tmp_path, capsys, options, words):
    path = write_volume(cut(head(), "axial", 6.0)[0], tmp_path / "sub-1_T2w.nii.gz")
    given = ["upsample", path, "--model", thick_model, "--out", tmp_path / "out", *options]
    assert run_command([*map(str, given)]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_t1w_scan_is_refused_before_anything_is_made(
    thick_model, translator, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("vcm.upsampling.with_model.encode_slices", None)
    path = write_volume(cut(head(), "axial", 6.0)[0], tmp_path / "sub-1_T1w.nii.gz")
    given = [
        "upsample", path, "--model", thick_model, "--spacing", "2", "--samples", "0", "--to", "T1w",
        "--translator", translator, "--out", tmp_path / "out",
    ]  # fmt: skip
    assert run_command([*map(str, given)]) == 2
    assert "T1w by its" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_a_dataset_is_refused(tmp_path, capsys):
    given = ["upsample", str(tmp_path), "--bids", "--to", "T1w", "--out", str(tmp_path / "out")]
    assert run_command(given) == 2
    assert "choose others by --suffix" in capsys.readouterr().err


def test_other_scans_of_a_dataset_are_chosen_by_their_suffix(thick_model, translator, tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    write_volume(
        cut(inverted(head()), "axial", 6.0)[0], raw / "sub-1" / "anat" / "sub-1_T2w.nii.gz"
    )
    given = [
        "upsample", raw, "--bids", "--suffix", "T2w", "--to", "T1w", "--model", thick_model, "--spacing",
        "2", "--samples", "0", "--detail", "none", "--translator", translator, "--out", out,
    ]  # fmt: skip
    assert run_command([*map(str, given)]) == 0
    anat = out / "sub-1" / "anat"
    for name, stripped in (("desc-upsampled_T2w", False), ("desc-syntheticT2w_T1w", True)):
        assert (anat / f"sub-1_{name}.nii.gz").is_file()
        told = json.loads((anat / f"sub-1_{name}.json").read_text())
        assert told["SkullStripped"] is stripped


def test_a_scan_that_only_looks_t1w_is_named(thick_model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("vcm.imaging.contrast.SURE_ABOVE_CORTEX", 99.0)
    path = write_volume(cut(head(), "axial", 6.0)[0], tmp_path / "brain.nii.gz")
    given = ["upsample", path, "--model", thick_model, "--spacing", "2", "--samples", "0"]
    assert run_command([*map(str, given), "--out", str(tmp_path / "out")]) == 0
    assert "is taken for T1w by its intensities alone" in capsys.readouterr().err
    assert (tmp_path / "out" / "brain_desc-upsampled.nii.gz").is_file()
