"""Files are read as plain tensors, or refused in one sentence; nothing in them ever runs."""

import os
import pickle
from collections import OrderedDict

import pytest
import torch
from published_files import key_table
from safetensors.torch import save_file

from vcm.errors import VCMError
from vcm.nets.denoiser import LatentDenoiser
from vcm.nets.published_autoencoder import PublishedAutoencoder
from vcm.nets.vcm import VolumetricConditioningModule
from vcm.weights.cards import load_card
from vcm.weights.checkpoint import read_checkpoint, refuse_bad_values
from vcm.weights.names import (
    PublishedNamesError,
    load_strictly,
    rename_autoencoder,
    rename_published,
    rename_unet,
)

PLAIN = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


class RunsCode:
    """A pickle of this leaves a mark when it is read."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def same(tensors):
    return tensors.keys() == PLAIN.keys() and all(torch.equal(tensors[n], PLAIN[n]) for n in PLAIN)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt"])
def test_plain_dictionaries(tmp_path, suffix, legacy):
    path = tmp_path / f"file{suffix}"
    torch.save(OrderedDict(PLAIN), path, _use_new_zipfile_serialization=not legacy)
    found = read_checkpoint(path)
    assert same(found.tensors) and found.scale_factor is None and found.wrapper is None


def test_safetensors(tmp_path):
    save_file(PLAIN, tmp_path / "file.safetensors")
    assert same(read_checkpoint(tmp_path / "file.safetensors").tensors)


@pytest.mark.parametrize("wrapper", ["state_dict", "unet_state_dict", "autoencoder_state_dict"])
def test_wrappers_scale_and_module_are_taken_off(tmp_path, wrapper):
    inside = {f"module.{name}": value for name, value in PLAIN.items()}
    content = {
        wrapper: inside,
        "scale_factor": torch.tensor(0.5),
        "epoch": 3,
        "loss": torch.ones(1),
    }
    torch.save(content, tmp_path / "file.pt")
    found = read_checkpoint(tmp_path / "file.pt")
    assert same(found.tensors)
    assert (found.scale_factor, found.wrapper, found.beside) == (0.5, wrapper, ["epoch", "loss"])


def test_a_scale_beside_plain_tensors_is_no_tensor_of_the_network(tmp_path):
    save_file(PLAIN | {"scale_factor": torch.tensor(0.5)}, tmp_path / "file.safetensors")
    found = read_checkpoint(tmp_path / "file.safetensors")
    assert same(found.tensors) and found.scale_factor == 0.5


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([1, 2], "holds a list"),
        ({}, "no tensors"),
        ({"epoch": 3}, "'epoch', which is no tensor"),
        ({"generator": PLAIN}, "none of which is known"),
        ({"state_dict": PLAIN, "unet_state_dict": PLAIN}, "several networks"),
        ({"state_dict": PLAIN | {"step": 3}}, "'step', which is no tensor"),
        ({"unet_state_dict": PLAIN, "scale_factor": float("nan")}, "scale_factor is nan"),
        ({"unet_state_dict": PLAIN, "scale_factor": -1.0}, "positive number"),
        (PLAIN | {"module.a.bias": torch.ones(2)}, "with and without 'module.'"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, content, sentence):
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(VCMError, match=sentence):
        read_checkpoint(tmp_path / "file.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_does_not_run(tmp_path, zipped):
    mark, path = tmp_path / "it_ran", tmp_path / "file.pt"
    content = {"state_dict": PLAIN, "extra": RunsCode(mark)}
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content["extra"], protocol=2))
    with pytest.raises(
        VCMError, match=r"file\.pt is no file of plain tensors: reading it would run"
    ):
        read_checkpoint(path)
    assert not mark.exists()
    with path.open("rb") as stream:  # the trap works: another reader would have run it
        if not zipped:
            pickle.load(stream)
            assert mark.exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.98])
def test_a_truncated_file_is_refused(tmp_path, suffix, kept):
    path = tmp_path / f"file{suffix}"
    tensors = {"a": torch.randn(100, 100)}
    torch.save(tensors, path) if suffix == ".pt" else save_file(tensors, path)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(VCMError, match="truncated"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("file.pt", b"hello, this is text", "truncated, damaged or of another format"),
        ("file.pt", b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        ("file.pt", b"<!DOCTYPE html><html>", "a web page"),
        ("file.onnx", b"", "ends with '.onnx'"),
    ],
)
def test_other_files_are_refused(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VCMError, match=sentence):
        read_checkpoint(tmp_path / name)
    with pytest.raises(VCMError, match="does not exist"):
        read_checkpoint(tmp_path / "absent.pt")


def test_values_that_are_not_finite_are_named_and_long_tables_cut():
    bad = {f"layer.{n:02d}": torch.tensor([1.0, float("nan"), float("inf")]) for n in range(20)}
    with pytest.raises(VCMError) as error:
        refuse_bad_values(bad | {"steps": torch.tensor(3)}, "file.pt")
    lines = str(error.value).splitlines()
    assert lines[1:3] == ["20 not finite:", "  layer.00 2 of 3 values"]
    assert lines[-1] == "  ... and 8 more" and len(lines) == 15


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t | {"weight": torch.full((2, 3), float("inf"))}, "weight 6 of 6 values"),
        (lambda t: t | {"weight": torch.ones(2, 3, dtype=torch.int8)}, "torch.int8 instead of"),
        (lambda t: t | {"weight": torch.ones(3, 2)}, r"\[3, 2\] instead of \[2, 3\]"),
        (
            lambda t: {"wieght": t["weight"], "bias": t["bias"]},
            r"weight \[2, 3\]  \(is it wieght\?\)",
        ),
    ],
)
def test_a_strict_load_refuses(change, sentence):
    network = torch.nn.Linear(3, 2)
    before = network.weight.clone()
    with pytest.raises(PublishedNamesError, match=sentence):
        load_strictly(network, change({"weight": torch.ones(2, 3), "bias": torch.ones(2)}))
    assert torch.equal(network.weight, before)


def test_a_network_without_memory_takes_the_tensors_themselves_and_none_is_left_empty():
    tensors = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
    with torch.device("meta"):
        network = torch.nn.Linear(3, 2)
        network.register_buffer("schedule", torch.ones(4), persistent=False)
    with pytest.raises(PublishedNamesError, match="schedule"):
        load_strictly(network, tensors)
    network.schedule = torch.ones(4)
    load_strictly(network, tensors)
    assert network.weight.data_ptr() == tensors["weight"].data_ptr()
    half = {name: value.half() for name, value in tensors.items()}
    load_strictly(torch.nn.Linear(3, 2), half)


@pytest.mark.parametrize("names", ["generative", "core"])
@pytest.mark.parametrize(
    ("part", "table", "kind", "rename"),
    [
        ("autoencoder", "brainldm_autoencoder", PublishedAutoencoder, rename_autoencoder),
        ("denoiser", "brainldm_unet", LatentDenoiser, rename_unet),
    ],
)
def test_names_and_shapes_at_full_size(names, part, table, kind, rename):
    with torch.device("meta"):
        network = kind(**load_card("brainldm").networks[part])
    renamed = rename(key_table(f"{table}_{names}"))
    expected = {name: value.shape for name, value in network.net.state_dict().items()}
    assert {name: value.shape for name, value in renamed.items()} == expected


def test_names_and_shapes_of_the_module_at_full_size():
    with torch.device("meta"):
        network = VolumetricConditioningModule(**load_card("brainldm-vcm").networks["module"])
    renamed = rename_published(key_table("vcm"))
    expected = {name: value.shape for name, value in network.state_dict().items()}
    assert {name: value.shape for name, value in renamed.items()} == expected
