"""A full disk, and a folder that cannot be written to, are found before the first step of work, by every command."""

import shutil
from collections import namedtuple

import pytest
from command_line import vcm
from small_brains import (
    aligned_by_header,
    save_small_models,
    write_files,
    write_prepared,
)

from vcm.nets.slice_denoiser import SliceDenoiser

USAGE = namedtuple("USAGE", "total used free")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Everything that the commands below read."""
    folder = tmp_path_factory.mktemp("given")
    save_small_models(folder)
    SliceDenoiser((8, 8, 8, 8), groups=4, head_channels=8).save_pretrained(folder / "slices")
    write_prepared(folder / "prepared")
    paths = write_files(folder / "bids" / "sub-1" / "anat")
    paths["thick"].rename(folder / "sub-1_T1w.nii.gz")
    return folder


BRIEF = ["steps=1", "tracker=none", "mixed_precision=no", "warmup_steps=1", "checkpoint_every=1"]
ANAT = "{0}/bids/sub-1/anat/sub-1_"
COMMANDS = {
    "synthesize": [ANAT + "dseg.nii.gz", "--labels", "vcm8", "--model", "{0}/model", "--steps", "1"],
    "upsample": ["{0}/sub-1_T1w.nii.gz", "--model", "{0}/thick", "--spacing", "5"],
    "prepare": ["{0}/bids", "--labels", "vcm8", "--workers", "1"],
    "evaluate": [
        "--data", "{0}/prepared", "--model", "{0}/model", "--segmenter", "{0}/segmenter", "--steps", "1",
    ],
    "segment fit": [
        ANAT + "T1w.nii.gz", "--labels", ANAT + "dseg.nii.gz", "--slices", "{0}/slices",
    ],
    "pretrain segmenter": ["data=[{0}/prepared]", "channels=[8,8]", *BRIEF],
    "pretrain autoencoder": [
        "data=[{0}/prepared]", "channels=[8,16]", "latent_channels=4", "groups=2", "crop=16", *BRIEF,
    ],
    "train": [
        "data=[{0}/prepared]", "model={0}/model", "encoder_patch=8", "encoder_channels=[8]", "unet_wing=0", "unet_channels=[8,8]",
        "unet_head_channels=[8,8]", "encoder_groups=2", "unet_groups=2", "unet_out_channels=8",
        "head_channels=8", *BRIEF,
    ],
    "weights pack": ["{0}/model"],
}  # fmt: skip
#: Its result is a file.
SEGMENT = ["segment", "tissues", ANAT + "T1w.nii.gz", "--segmenter", "{0}/segmenter"]


def arguments(command, folder, out):
    words = [*command.split(), *COMMANDS[command]] if command in COMMANDS else SEGMENT
    keyed = command.startswith(("pretrain", "train"))
    written = [f"out={out}"] if keyed else ["--out", out]
    return [*(word.format(folder) for word in words), *written]


@pytest.mark.parametrize("command", [*COMMANDS, "segment tissues"])
def test_a_disk_without_room_is_found_before_work(given, tmp_path, monkeypatch, command):
    aligned_by_header(monkeypatch)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: USAGE(10**9, 10**9, 100))
    out = (
        tmp_path / "out" / "sub-1_dseg.nii.gz" if command == "segment tissues" else tmp_path / "out"
    )
    result = vcm(*arguments(command, given, out))
    assert result.exit_code == 2, result.output + result.error
    assert "MB left: free some room" in result.error.replace("\n", " ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [*COMMANDS, "segment tissues"])
def test_a_file_in_the_way_is_found_before_work(given, tmp_path, monkeypatch, command):
    aligned_by_header(monkeypatch)
    (tmp_path / "out").write_text("mine")
    result = vcm(*arguments(command, given, tmp_path / "out" / "sub-1_dseg.nii.gz"))
    assert result.exit_code == 2, result.output + result.error
    assert "choose a folder" in result.error.replace("\n", " ")
    assert (tmp_path / "out").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1
